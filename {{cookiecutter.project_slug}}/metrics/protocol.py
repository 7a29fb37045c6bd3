"""The protocol that metrics follow, and questions that a trainer asks of their results."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn


class Metric(Protocol):
    """The methods that a trainer calls; torchmetrics' Metric and MetricCollection have them too.

    A metric can also state the direction of its scalar results, as a class attribute
    `higher_is_better` that maps their names to booleans.
    """

    def reset(self) -> None:
        """Discards all samples."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Adds a batch."""

    def compute(self) -> Any:
        """Returns the results for all samples, over all processes: a tensor, or tensors by name."""

    def to(self, device: torch.device) -> Self:
        """Moves the state to a device."""


def named_results(metrics: Metric) -> dict[str, Tensor]:
    """The results of the metrics by name; a single one gets the name of its class."""
    results = metrics.compute()
    if isinstance(results, Mapping):
        return dict(results)
    return {type(metrics).__name__: results}


def scalar_results(results: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns the results that are single numbers; these are logged and can be monitored."""
    return {name: value.item() for name, value in results.items() if value.numel() == 1}


def higher_is_better(metrics: Metric, name: str) -> bool | None:
    """Returns whether higher values of a scalar result are better; None if that is unknown.

    Args:
        metrics: one of our classes, or a Metric or MetricCollection of torchmetrics.
        name: name of the scalar result.
    """
    if isinstance(metrics, nn.ModuleDict):  # a MetricCollection; importing torchmetrics takes 1.5 s
        return _direction_in_collection(metrics, name)
    directions = getattr(metrics, "higher_is_better", None)
    if isinstance(directions, Mapping):
        return directions.get(name)
    return _direction_of(metrics)


def _direction_in_collection(collection: nn.ModuleDict, name: str) -> bool | None:
    names = list(collection.keys())  # with the collection's prefix and postfix
    if name not in names:  # it is one of several results of a metric
        return None
    return _direction_of(collection[name])


def _direction_of(metric: object) -> bool | None:
    """Returns the direction that a metric states; torchmetrics' MeanMetric, say, states None."""
    direction = getattr(metric, "higher_is_better", None)
    return direction if isinstance(direction, bool) else None
