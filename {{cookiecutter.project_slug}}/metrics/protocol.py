"""The protocol that metrics follow, and questions that a trainer asks of their results."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from utils.errors import UserError

# Values of the log that a training step would silently replace, or be replaced by.
LOGGED_BY_THE_TRAINER = frozenset(("lr", "grad_norm", "samples_per_second", "waiting_for_data"))
COMPLEX_ADVICE = "return a real number, such as its .abs()"


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


def check_protocol(metrics: Any, source: str) -> None:
    """Checks that an object has the methods of a metric.

    Args:
        metrics: what a method has returned.
        source: the name of the method, for messages.

    Raises:
        UserError: if a method is missing.
    """
    for method in ("reset", "update", "compute", "to"):
        if not callable(getattr(metrics, method, None)) or isinstance(metrics, dict):
            raise UserError(
                f"{source} returned an object of the type {type(metrics).__name__} "
                f"without the method `{method}`; return one metric, or several as "
                "torchmetrics.MetricCollection({...})"
            )


def named_results(metrics: Metric) -> dict[str, Tensor]:
    """The results of the metrics by name; a single one gets the name of its class.

    Raises:
        UserError: if a result is not a tensor of real numbers.
    """
    results = metrics.compute()
    kind = type(metrics).__name__
    if not isinstance(results, Mapping):
        results = {kind: results}
    for name, value in results.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{kind}.compute: {name!r} is an object of the "
                f"type {type(value).__name__}; return a tensor, "
                "or a dict of tensors that are not nested"
            )
        if value.is_complex() and value.numel() == 1:
            raise UserError(f"{kind}.compute: {name!r} is complex; {COMPLEX_ADVICE}")
    return dict(results)


def check_outputs(outputs: Any, step: Callable[..., Any]) -> None:
    """Checks the result of a training step: scalars by name, with a ``loss``.

    Raises:
        UserError: that names the method and the key.
    """
    if not isinstance(outputs, Mapping):
        raise UserError(f"{_name_of(step)} must return a dict, not {type(outputs).__name__}")
    if "loss" not in outputs:
        keys = ", ".join(outputs) or "no keys"
        raise UserError(f"{_name_of(step)} returns {keys}; add the key `loss`, which is minimized")
    if not LOGGED_BY_THE_TRAINER.isdisjoint(outputs):
        name = min(LOGGED_BY_THE_TRAINER.intersection(outputs))
        raise UserError(
            f"{_name_of(step)} returns {name!r}, which the trainer logs itself; give it another "
            "name"
        )
    check_scalars(outputs, step)


def check_scalars(values: Any, step: Callable[..., Any]) -> None:
    """Checks that a step returned a dict of scalar tensors.

    Raises:
        UserError: that names the method and the key.
    """
    if not isinstance(values, Mapping):
        kind = type(values).__name__
        raise UserError(f"{_name_of(step)} must return a dict of scalars or None, not {kind}")
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise UserError(
                f"{_name_of(step)}: {name!r} is {str(value)[:40]} ({type(value).__name__}), not a "
                "tensor; return the tensor itself, without .item()"
            )
        if value.is_complex():
            raise UserError(f"{_name_of(step)}: {name!r} is complex; {COMPLEX_ADVICE}")
        if value.ndim > 0:
            raise UserError(
                f"{_name_of(step)}: {name!r} has the shape {tuple(value.shape)}; return a scalar, "
                "such as its .mean()"
            )


def _name_of(step: Callable[..., Any]) -> str:
    """The name of a method with that of the object's class."""
    owner = getattr(step, "__self__", None)
    name = getattr(step, "__name__", repr(step))
    if owner is None:
        return name
    return f"{type(owner).__name__}.{name}"


def scalar_results(results: Mapping[str, Tensor]) -> dict[str, float]:
    """Returns the results that are single numbers; these are logged and can be monitored."""
    return {name: float(value) for name, value in results.items() if value.numel() == 1}


def higher_is_better(metrics: Metric, name: str) -> bool | None:
    """Returns whether higher values of a scalar result are better; None if that is unknown.

    Args:
        metrics: one of our classes, or a Metric or MetricCollection of torchmetrics.
        name: name of the scalar result.
    """
    if isinstance(metrics, nn.ModuleDict):  # a MetricCollection; importing torchmetrics takes 1.5 s
        return _direction_in_collection(metrics, name)
    stated = getattr(metrics, "higher_is_better", None)
    if isinstance(stated, Mapping):
        stated = stated.get(name)
    return _as_direction(stated)


def _direction_in_collection(collection: nn.ModuleDict, name: str) -> bool | None:
    names = list(collection.keys())  # with the collection's prefix and postfix
    if name not in names:  # it is one of several results of a metric
        return None
    return _as_direction(getattr(collection[name], "higher_is_better", None))


def _as_direction(stated: Any) -> bool | None:
    """What a metric states, if that is a boolean; torchmetrics' MeanMetric, say, states None."""
    if isinstance(stated, bool):
        return stated
    return None
