"""The largest batch that fits the device, and the size from which it gets no faster."""

import math
import os
import sys
import time

import torch

from base.base_trainer import BaseTrainer
from checks.trial import Deadline, copied, make_step, single_batch_step
from checks.verdict import Verdict
from utils.device import to_device

SECONDS = 4.0
MAX_STEP_SECONDS = 1.0
SMALLEST_SIZE = 8
MAX_BATCH_SIZE = 2**16
REPETITIONS = 2
GAIN = 1.1  # in samples per second, without which a larger batch is not faster
MAX_MEMORY_FRACTION = 0.5  # of the free memory, on the CPU
BYTES_PER_KIB = 1024


def check_batch_size(trainer: BaseTrainer) -> Verdict:
    """Doubles the batch until the memory or the time is used up, and measures the speed."""
    verdict = Verdict("batch")
    configured = trainer.loaders["train"].source.batch_size
    verdict.figures["data.batch_size"] = configured
    with copied(trainer) as trial:
        speeds, is_full = measure_sizes(trial, configured)
    if not speeds:
        verdict.failures.append(
            f"not even a batch of {SMALLEST_SIZE} samples fits the memory of {trainer.device}; use "
            "a smaller model, or smaller inputs"
        )
        return verdict
    largest = max(speeds)
    verdict.figures["fits"] = largest
    if not is_full:
        verdict.figures["fits"] = f"at least {largest:,}"
    elif configured > largest:
        verdict.failures.append(
            f"data.batch_size = {configured} does not fit the memory of {trainer.device}; use "
            f"data.batch_size={largest}, and trainer.accumulate for as many samples in a step"
        )
    knee = find_knee(speeds)
    verdict.figures["no faster from"] = knee
    verdict.figures["samples/s there"] = round(speeds[knee])
    return verdict


def measure_sizes(trial: BaseTrainer, configured: int) -> tuple[dict[int, float], bool]:
    """The samples per second by batch size, and whether the last size did not fit the memory."""
    speeds: dict[int, float] = {}
    deadline = Deadline(SECONDS)
    bytes_before = peak_bytes()
    size = min(SMALLEST_SIZE, configured)
    while True:
        seconds = measure_step(trial, size)
        if seconds is None:
            return speeds, True
        speeds[size] = size / seconds
        is_slow = deadline.is_over() or seconds > MAX_STEP_SECONDS
        next_size = choose_next_size(size, configured, is_slow)
        if next_size is None:
            return speeds, False
        if trial.device.type == "cpu":  # where a batch that is too large would end the process
            bytes_per_sample = (peak_bytes() - bytes_before) / size
            if bytes_per_sample * next_size > free_bytes():
                return speeds, False
        size = next_size


def choose_next_size(size: int, configured: int, is_slow: bool) -> int | None:
    """Twice the batch size, but not beyond the one in the settings without measuring that one.

    Args:
        size: the batch size that was measured last.
        configured: the one in the settings.
        is_slow: whether no more sizes are measured than that one.

    Returns:
        The next batch size; None after the last one.
    """
    if size < configured and (is_slow or 2 * size > configured):
        return configured
    if is_slow or 2 * size > max(MAX_BATCH_SIZE, configured):
        return None
    return 2 * size


def measure_step(trial: BaseTrainer, size: int) -> float | None:
    """The seconds of a step with a batch of some size; None if the memory is too small."""
    # A batch may be larger than the data set, so samples are repeated.
    indices = torch.arange(size) % len(trial.dataset)
    batch = trial.loaders["train"].load_batch(indices)
    fastest = math.inf
    try:
        step = single_batch_step(to_device(batch, trial.device), size)
        for _ in range(REPETITIONS):
            started = time.perf_counter()
            make_step(trial, step)
            if trial.device.type != "cpu":
                torch.accelerator.synchronize(trial.device)
            fastest = min(fastest, time.perf_counter() - started)
            if fastest > MAX_STEP_SECONDS:
                break
    except (torch.OutOfMemoryError, MemoryError):
        return None
    return fastest


def find_knee(speeds: dict[int, float]) -> int:
    """The smallest batch that is almost as fast as the fastest one.

    Args:
        speeds: samples per second, by batch size.
    """
    fastest = max(speeds.values())
    for size in sorted(speeds):
        if speeds[size] * GAIN >= fastest:
            return size
    return max(speeds)


def free_bytes() -> float:
    """Memory of the CPU that a batch may take; infinite on systems other than Linux."""
    if sys.platform != "linux":
        return math.inf
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return MAX_MEMORY_FRACTION * free


def peak_bytes() -> int:
    """The most memory that this process has had so far; 0 on systems other than Linux."""
    if sys.platform != "linux":
        return 0
    import resource

    return BYTES_PER_KIB * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
