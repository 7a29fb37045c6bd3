#!/bin/bash
# Trains on one or more machines of a SLURM cluster, and goes on by itself after a time limit. In the
# project's folder, on a file system that the machines share, with its environment activated:
#
#     sbatch --nodes=2 --gpus-per-node=8 --cpus-per-task=64 --time=8:00:00 slurm.sh [KEY=VALUE ...]
#
#SBATCH --job-name=train
#SBATCH --ntasks-per-node=1   # one torchrun, which starts a process for each GPU
#SBATCH --output=slurm-%j.log
#SBATCH --open-mode=append    # when the job is started again, its output goes on in the same file
#SBATCH --requeue             # SLURM may start it again, as it does when a machine fails
#SBATCH --signal=B:USR1@120   # so many seconds before the time limit: time to save, and more

first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs that share a machine have to differ

# By the job's number, all that it starts, now or after a requeue, is known to be of the same run.
# A machine whose processes have ended is no reason to kill those that are still saving.
srun --kill-on-bad-exit=0 --wait=0 ${SLURM_CPUS_PER_TASK:+"--cpus-per-task=$SLURM_CPUS_PER_TASK"} \
    torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="${SLURM_GPUS_ON_NODE:-1}" \
    --max-restarts=3 --rdzv-backend=c10d --rdzv-endpoint="$first:$port" --rdzv-id="$SLURM_JOB_ID" \
    train.py "$@" &
step=$!

# SIGTERM has torchrun stop the training, which saves its state; sent to srun itself, it would kill.
# When time is nearly up, the job is put back into the queue. scancel sends SIGTERM to all.
again=no
trap 'again=yes; scancel --signal=TERM "$SLURM_JOB_ID.0"' USR1
trap : TERM
while
    wait "$step" # which a signal ends, too
    code=$?
    kill -0 "$step" 2>/dev/null
do :; done
[ $again = no ] || [ $code = 0 ] || exec scontrol requeue "$SLURM_JOB_ID"
exit $code
