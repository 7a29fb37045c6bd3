"""What is measured between two log entries of training: means of scalars, speed and memory."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from metrics.average import WeightedMeans
from utils.errors import NonFiniteError
from utils.process_group import all_gather_object
from utils.ranks import rank, world_size

T = TypeVar("T")

MEASURED_DEVICES = ("cuda", "xpu")  # whose allocators record the peak
BYTES_PER_GIB = 2**30


class Meter:
    """Means over the samples since the last log entry, and samples per second.

    The state differs between processes: each has the sums of its own samples.

    Attributes:
        peak_memory_gb: the largest value that `read_peak_memory` has returned.
    """

    def __init__(self) -> None:
        self.means = WeightedMeans()
        self.peak_memory_gb = 0.0
        self.restart_timer()

    def add(self, outputs: Mapping[str, Tensor], samples: int) -> None:
        """Adds the outputs of a step, which are means over `samples` samples of this process."""
        self.means.add(outputs, samples)
        self.samples += samples

    def restart_timer(self) -> None:
        """Measures the speed from now on."""
        self.started = time.perf_counter()
        self.seconds_waiting = 0.0
        self.samples = 0

    def time_waiting(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; adds up the time that training waits for them."""
        wait_started = time.perf_counter()
        for item in items:
            self.seconds_waiting += time.perf_counter() - wait_started
            yield item
            wait_started = time.perf_counter()

    def read(self) -> dict[str, float]:
        """The means since the last call, over all processes; the host waits for the device.

        Raises:
            NonFiniteError: if a mean is NaN or infinite.
        """
        means = self.means.compute_over_processes()
        for name, mean in means.items():
            if not math.isfinite(mean):
                raise NonFiniteError(f"{name} is not finite in a step since the last log entry")
        self.means.reset()
        return means

    def read_speed(self) -> dict[str, float]:
        """Samples per second of all processes, and the fraction of time spent waiting for data."""
        elapsed = time.perf_counter() - self.started
        samples = sum(all_gather_object(self.samples))
        return {
            "samples_per_second": samples / elapsed,
            "waiting_for_data": self.seconds_waiting / elapsed,
        }

    def read_peak_memory(self, device: torch.device) -> dict[str, float]:
        """See the function `read_peak_memory`."""
        values = read_peak_memory(device)
        self.peak_memory_gb = max([self.peak_memory_gb, *values.values()])
        return values

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last log entry."""
        return self.means.state_dict()

    def load_rank_states(self, rank_states: Sequence[Mapping[str, Any]]) -> None:
        """Restores the sums of a saved run, which may have had another number of processes."""
        self.means.reset()
        for saved_rank, state in enumerate(rank_states):
            if saved_rank % world_size() == rank():
                self.means.add_state(state)


def read_peak_memory(device: torch.device) -> dict[str, float]:
    """The most memory that tensors took on a device since the last call, in GiB.

    It is that of the process which took most; the allocators record it, so the host does not wait
    for the device. Empty for devices without such a record, such as the CPU.
    """
    if device.type not in MEASURED_DEVICES:
        return {}
    peak_bytes = torch.accelerator.max_memory_allocated(device)
    torch.accelerator.reset_peak_memory_stats(device)
    return {"peak_memory_gb": max(all_gather_object(peak_bytes)) / BYTES_PER_GIB}
