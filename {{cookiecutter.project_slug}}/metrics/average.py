"""Weighted means of values that stay on the device until they are read."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from utils.process_group import all_gather_object, all_reduce_sum


class WeightedMeans:
    """Means of named scalars, each with its own total weight.

    A name may be missing in some of the updates. Nothing waits for the device.
    """

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.weights: dict[str, float] = {}

    def add(self, values: Mapping[str, Tensor], weight: float) -> None:
        """Adds a scalar tensor for each name, in float32 or better; with weight 0, adds nothing."""
        if weight == 0:
            return
        for name, value in values.items():
            value = value.detach()
            if value.itemsize < 4:  # float16 ends at 65,504
                value = value.float()
            if name in self.sums:
                self.sums[name] = torch.add(self.sums[name], value, alpha=weight)
                self.weights[name] += weight
            else:
                self.add_sum(name, value * weight, weight)

    def add_sum(self, name: str, weighted_sum: Tensor, weight: float) -> None:
        """Adds values that are already multiplied by their weights, of this total weight."""
        if name in self.sums:
            self.sums[name] = self.sums[name] + weighted_sum
            self.weights[name] += weight
        else:
            self.sums[name] = weighted_sum
            self.weights[name] = weight

    def compute(self) -> dict[str, Tensor]:
        """The means, as tensors on the device of the values."""
        return {name: total / self.weights[name] for name, total in self.sums.items()}

    def compute_over_processes(self) -> dict[str, float]:
        """The means over the values of all processes; the host waits for the device."""
        local_sums = {name: float(total) for name, total in self.sums.items()}
        gathered = all_gather_object((local_sums, self.weights))
        names: dict[str, None] = {}  # each once, in the order of their first occurrence
        for sums, _ in gathered:
            names.update(dict.fromkeys(sums))
        means = {}
        for name in names:
            total = math.fsum(sums[name] for sums, _ in gathered if name in sums)
            weight = math.fsum(weights[name] for _, weights in gathered if name in weights)
            means[name] = total / weight
        return means

    def reset(self) -> None:
        """Forgets all values."""
        self.sums = {}
        self.weights = {}

    def state_dict(self) -> dict[str, Any]:
        """Sums, on the CPU, and weights."""
        sums = {name: total.cpu() for name, total in self.sums.items()}
        return {"sums": sums, "weights": dict(self.weights)}

    def add_state(self, state: Mapping[str, Any]) -> None:
        """Adds the values of a saved state."""
        for name, total in state["sums"].items():
            self.add_sum(name, total, state["weights"][name])


def mean_over_batches(
    outputs: Sequence[Mapping[str, Tensor]], samples: Sequence[int]
) -> dict[str, Tensor]:
    """Means of the scalars of several batches, weighted by their numbers of samples.

    Args:
        outputs: scalars by name, for each batch.
        samples: the number of samples of each batch.
    """
    if len(outputs) == 1:
        return {name: value.detach() for name, value in outputs[0].items()}
    means = WeightedMeans()
    for batch_outputs, count in zip(outputs, samples, strict=True):
        means.add(batch_outputs, count)
    if not means.sums:  # this process has no samples in this step
        return {name: torch.full_like(value, torch.nan) for name, value in outputs[0].items()}
    return means.compute()


def mean_over_processes(value: Tensor, weight: float) -> Tensor:
    """The mean of a scalar over all processes; with weight 0, it may be NaN and does not count."""
    total = value.detach() * weight
    if weight == 0:
        total = torch.zeros_like(total)
    sums = torch.stack([total, torch.full_like(total, weight)])
    all_reduce_sum([sums])
    return sums[0] / sums[1]


class MeanLoss:
    """The mean of all values as the metric ``loss``, with the protocol of metrics.

    Without values, there is no result.
    """

    higher_is_better = {"loss": False}  # noqa: RUF012  the protocol of metrics

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.reset()

    def reset(self) -> None:
        """Forgets all values."""
        self.total = torch.zeros((), device=self.device)
        self.count = torch.zeros((), device=self.device)

    def update(self, value: Tensor) -> None:
        """Adds values of any shape, one for each sample, or the mean of a batch as a scalar."""
        self.total += value.detach().float().sum()
        self.count += value.numel()

    def compute(self) -> dict[str, Tensor]:
        """The mean over all values of all processes."""
        total = self.total.clone()
        count = self.count.clone()
        all_reduce_sum([total, count])
        if count == 0:
            return {}
        return {"loss": total / count}

    def to(self, device: torch.device) -> Self:
        """Moves the sums to a device."""
        self.device = device
        self.total = self.total.to(device)
        self.count = self.count.to(device)
        return self
