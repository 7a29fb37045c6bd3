"""Divides the GPUs and the CPU cores of a machine among the jobs of a sweep."""

import os
import shutil
import subprocess
from collections.abc import Sequence

from utils.errors import UserError


def job_variables(job: int, jobs: int, processes: int, devices: Sequence[str]) -> dict[str, str]:
    """The environment variables that divide a machine among the jobs.

    Each job gets its part of the GPUs, in turn, and its part of the CPU cores. Variables that the
    user has set to a number of threads are kept.

    Args:
        job: the number of the job, from 0.
        jobs: the number of jobs.
        processes: the number of training processes of each job.
        devices: the GPUs, as in CUDA_VISIBLE_DEVICES; empty if the CPU trains.
    """
    variables: dict[str, str] = {}
    if jobs > 1 and not os.environ.get("OMP_NUM_THREADS"):
        threads = max(1, available_cores() // (jobs * processes))
        variables["OMP_NUM_THREADS"] = str(threads)
    if devices:
        names = []
        for number in range(job * processes, (job + 1) * processes):
            names.append(devices[number % len(devices)])
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(names)
    return variables


def available_cores() -> int:
    """The CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_devices(device: str, processes: int) -> list[str]:
    """The GPUs of NVIDIA that the trials may use, without importing torch.

    Args:
        device: the setting; a device with a number is used by all jobs.
        processes: the number of training processes of each job.

    Raises:
        UserError: if one job needs more GPUs than there are.
    """
    if device not in ("auto", "cuda"):
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [name.strip() for name in visible.split(",") if name.strip()]
    else:
        devices = [str(number) for number in range(_count_gpus())]
    if 0 < len(devices) < processes:
        raise UserError(
            f"--processes {processes}: this machine has {len(devices)} GPUs; each process needs one"
        )
    return devices


def _count_gpus() -> int:
    """The number of GPUs that nvidia-smi lists; 0 without it."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return 0
    listing = subprocess.run([program, "-L"], capture_output=True, text=True, check=False)
    return sum(line.startswith("GPU ") for line in listing.stdout.splitlines())
