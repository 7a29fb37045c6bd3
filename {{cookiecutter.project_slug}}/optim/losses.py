"""Builds the loss that the settings name."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from config.classes import find_component
from config.constructors import changed_arguments, constructor_parameters
from config.schema import LossSettings
from utils.errors import USER_CODE_ERRORS, UserError, describe_error

LossFunction = Callable[[Any, Any], Tensor]
NO_INDEX = -100  # torch's default of ignore_index


class Loss:
    """A function, or modules of torch, with their arguments.

    Args:
        mean: computes the loss of a batch from outputs and targets.
        per_sample: computes the loss of each sample or element.
        scale: what outputs and targets are divided by before.

    Attributes:
        unweighted: the same loss without class weights.
    """

    def __init__(self, mean: LossFunction, per_sample: LossFunction, scale: float = 1.0) -> None:
        self.mean = mean
        self.per_sample = per_sample
        self.scale = scale
        self.unweighted = self

    def __call__(self, outputs: Any, target: Any, reduction: str = "mean") -> Tensor:
        """The loss, computed in float32 at least, also under autocast.

        Args:
            outputs: of the model.
            target: as the loss requires it.
            reduction: ``mean``, or ``none`` for the loss of each sample.

        Returns:
            A scalar, or shape (N,).
        """
        if reduction == "mean":
            loss = self._check(self.mean(*self._prepare(outputs, target)))
            return loss if loss.ndim == 0 else loss.mean()
        losses = self.of_samples(outputs, target)
        if losses is None:
            losses = self(outputs, target).expand(len(target))
        return losses

    def of_samples(self, outputs: Any, target: Any) -> Tensor | None:
        """The loss of each sample, shape (N,); None if it can only be computed for a batch."""
        losses = self._check(self.per_sample(*self._prepare(outputs, target)))
        if losses.ndim == 0 or len(losses) != len(target):
            return None
        return losses.flatten(1).mean(1) if losses.ndim > 1 else losses

    def _prepare(self, outputs: Any, target: Any) -> tuple[Any, Any]:
        """Outputs and targets, divided by the scale, the outputs in float32 at least."""
        if isinstance(outputs, Tensor) and outputs.itemsize < 4:
            outputs = outputs.float()
        if self.scale != 1:
            outputs = outputs / self.scale
            target = target / self.scale
        return outputs, target

    def _check(self, loss: Any) -> Tensor:
        if not isinstance(loss, Tensor):
            raise UserError(
                f"the loss must return a tensor, not {type(loss).__name__}; see loss.name"
            )
        return loss


def build_loss(
    settings: LossSettings, dataset: Any, device: torch.device, weighted_by: Any = None
) -> Loss:
    """The loss that the settings name.

    Args:
        settings: name, arguments and class weights.
        dataset: has `target_mean_and_std` if the targets are numbers that are not standardized.
        device: where the loss is computed.
        weighted_by: the training set, with `classes` and, for balanced weights, `targets`. None for
            a loss without weights.

    Raises:
        UserError: if the loss cannot be built, or does not accept the class weights.
    """
    component = find_component(LossSettings, settings.name)
    loss = _build(component, settings, dataset, device, None)
    if weighted_by is None or not (settings.balanced or settings.class_weights):
        return loss
    if "weight" not in constructor_parameters(component):
        raise UserError(f"loss.name = {settings.name!r} does not accept class weights")
    weighted = _build(component, settings, dataset, device, class_weights(settings, weighted_by))
    weighted.unweighted = loss
    return weighted


def _build(
    component: Any,
    settings: LossSettings,
    dataset: Any,
    device: torch.device,
    weight: Tensor | None,
) -> Loss:
    arguments = changed_arguments(component, settings)
    if weight is not None:
        arguments["weight"] = weight.to(device)
    _, scale = getattr(dataset, "target_mean_and_std", (0.0, 1.0))
    parameters = constructor_parameters(component)
    if "scale" in parameters:
        arguments["scale"] = scale
        scale = 1.0  # the function divides by it
    functions: dict[str, LossFunction] = {}
    for reduction in ("mean", "none"):
        if "reduction" in parameters:
            arguments["reduction"] = reduction
        if isinstance(component, type):
            functions[reduction] = _construct(component, arguments, settings.name).to(device)
        else:
            functions[reduction] = functools.partial(component, **arguments)
    return Loss(functions["mean"], functions["none"], scale)


def _construct(component: Any, arguments: dict[str, Any], name: str) -> nn.Module:
    try:
        module: nn.Module = component(**arguments)
    except USER_CODE_ERRORS as error:
        raise UserError(f"loss.name = {name!r} cannot be built: {describe_error(error)}") from error
    if list(module.parameters()):
        raise UserError(
            f"loss.name = {name!r} has parameters, which no optimizer would train; make it a part "
            "of the model"
        )
    return module


def class_weights(settings: LossSettings, dataset: Any) -> Tensor:
    """The weight of each class, float32, shape (C,), whose mean over all samples is 1 if balanced.

    Raises:
        UserError: if there are not as many weights as classes, or no `targets` to count.
    """
    classes = len(dataset.classes)
    if settings.class_weights:
        if settings.balanced:
            raise UserError("loss.balanced cannot be combined with loss.class_weights; use one")
        if len(settings.class_weights) != classes:
            raise UserError(
                f"loss.class_weights has {len(settings.class_weights)} values, but "
                f"{dataset.title} has {classes} classes"
            )
        return torch.tensor(settings.class_weights)
    targets = getattr(dataset, "targets", None)
    if targets is None or classes == 0:
        raise UserError(
            f"loss.balanced = true: {dataset.title} has no attribute `targets` to count the "
            "classes of"
        )
    labels = targets
    if targets.is_floating_point():
        labels = targets.argmax(1)
    labels = labels[labels != settings.arguments.get("ignore_index", NO_INDEX)]
    counts = torch.bincount(labels.flatten(), minlength=classes)
    occurring_classes = (counts > 0).sum()
    weights = labels.numel() / (counts * occurring_classes).clamp(min=1)
    return weights.where(counts > 0, 1.0)  # of classes without samples
