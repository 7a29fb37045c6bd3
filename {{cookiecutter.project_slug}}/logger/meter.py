"""What is measured between two log entries of training."""

import math
import time
from collections.abc import Iterator, Mapping
from typing import TypeVar

from torch import Tensor

from utils.errors import WORLD, NonFiniteError
from utils.parallel import gather

T = TypeVar("T")


class Meter:
    """Means of scalars, which stay on the device until they are read, and the speed."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, float] = {}  # how many values each of them adds up
        self.restart(0)

    def restart(self, step: int) -> None:
        """Lets time count from now on, which is `step` of the run."""
        self.since, self.started, self.waited = step, time.perf_counter(), 0.0

    def add(self, scalars: Mapping[str, Tensor], weight: float = 1.0) -> None:
        """Takes account of values, without waiting for the device.

        Of no samples, with a weight of zero, they are no numbers.
        """
        if not weight:
            return
        weight /= WORLD  # so that a step counts the same if their number changes before it is read
        for name, value in scalars.items():
            part = value.detach() if weight == 1 else value.detach() * weight
            self.sums[name] = self.sums[name] + part if name in self.sums else part.clone()
            self.counts[name] = self.counts.get(name, 0.0) + weight

    def take(self, sums: Mapping[str, Tensor], counts: Mapping[str, float]) -> None:
        """Takes account of what another meter has added up."""
        for name, value in sums.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] = self.counts.get(name, 0.0) + counts[name]

    def watch(self, items: Iterator[T]) -> Iterator[T]:
        """The same items; how long they are waited for is added up."""
        begun = time.perf_counter()
        for item in items:
            self.waited += time.perf_counter() - begun
            yield item
            begun = time.perf_counter()

    def read(self) -> dict[str, float]:
        """The means since the last time, over all processes; here the host waits for the device.

        Raises:
            NonFiniteError: if one of them is NaN or infinite.
        """
        own = {name: (float(total), self.counts[name]) for name, total in self.sums.items()}
        sums: dict[str, list[tuple[float, float]]] = {}
        for part in gather(own):
            for name, pair in part.items():
                sums.setdefault(name, []).append(pair)
        means = {k: math.fsum(s for s, _ in v) / sum(n for _, n in v) for k, v in sums.items()}
        if bad := [name for name, mean in means.items() if not math.isfinite(mean)]:
            raise NonFiniteError(f"{bad[0]} is not finite in some step after step {self.since}")
        self.sums, self.counts = {}, {}
        return means

    def speed(self, samples: int) -> dict[str, float]:
        """Samples per second, and the share of the time that training waited for them."""
        elapsed = time.perf_counter() - self.started
        return {"samples_per_second": samples / elapsed, "waiting_for_data": self.waited / elapsed}
