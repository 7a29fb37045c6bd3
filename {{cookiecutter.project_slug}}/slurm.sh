#!/bin/bash
# Trains on one or more machines of a SLURM cluster, and resumes automatically after a time limit.
# Submit it in the project's folder, on a shared file system, with the environment activated:
#
#     sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --time=8:00:00 slurm.sh [KEY=VALUE ...]
#     sbatch --array=0-7 --gpus-per-node=1 --time=8:00:00 slurm.sh sweep --name NAME [KEY=RANGE ...]
#
# Each job of the array is a worker of the same sweep.
#SBATCH --job-name=train
#SBATCH --ntasks-per-node=1   # one torchrun, which starts one process per GPU
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append    # a requeued job appends to the same file
#SBATCH --requeue             # SLURM may restart the job, for example after a machine has failed
#SBATCH --signal=B:USR1@120   # 120 seconds before the time limit, more than enough to save

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs on the same machine need different ports

if [ "$1" = sweep ]; then
    shift
    command=(python sweep.py "$@")
else # the job's number identifies the run, also after a requeue
    command=(torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}"
        --max-restarts=3 --rdzv-backend=c10d --rdzv-endpoint="$first:$port" --rdzv-id="$SLURM_JOB_ID"
        train.py "$@")
fi

# srun must not kill processes that are still saving when those of another machine have ended.
srun --kill-on-bad-exit=0 --wait=0 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} \
    "${command[@]}" &
step=$!

# After SIGTERM, training stops, and the state is saved. It is sent to the job step, because
# srun itself would kill the processes. Shortly before the time limit, the job is requeued. scancel
# sends SIGTERM to all processes.
again=no
trap 'again=yes; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1
trap : TERM
while
    wait "$step" # a signal ends it, too
    code=$?
    kill -0 "$step" 2>/dev/null
do :; done
[ $again = no ] || [ $code = 0 ] || exec scontrol requeue "$SLURM_JOB_ID"
exit $code
