"""Builds the loss that the settings name."""

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from config.classes import find_component
from config.constructors import changed_arguments, constructor_parameters
from config.schema import LossSettings
from utils.errors import USER_CODE_ERRORS, UserError, describe_error


class Loss:
    """A function, or a module of torch, with its arguments.

    Args:
        compute: takes outputs, targets and, if it has such a parameter, `reduction`.
        arguments: further arguments by name.
        divides: whether outputs and targets are divided by `scale` before.
        scale: the standard deviation of the targets.
    """

    def __init__(
        self, compute: Any, arguments: dict[str, Any], divides: bool = False, scale: float = 1.0
    ) -> None:
        self.compute = compute
        self.arguments = arguments
        self.divides = divides
        self.scale = scale
        self.reduces = "reduction" in inspect.signature(compute).parameters

    def __call__(self, outputs: Any, target: Any, reduction: str = "mean") -> Tensor:
        """The loss, computed in float32 at least, also under autocast.

        Args:
            outputs: of the model.
            target: as the loss requires it.
            reduction: ``mean``, or ``none`` for the loss of each sample.

        Returns:
            A scalar, or shape (N,).
        """
        if isinstance(outputs, Tensor) and outputs.itemsize < 4:
            outputs = outputs.float()
        if self.divides:
            outputs = outputs / self.scale
            target = target / self.scale
        if self.reduces:
            loss: Tensor = self.compute(outputs, target, reduction=reduction, **self.arguments)
        else:
            loss = self.compute(outputs, target, **self.arguments)
        if reduction == "mean":
            return loss if loss.ndim == 0 else loss.mean()
        if loss.ndim == 0:  # the loss is a mean itself
            return loss.expand(len(outputs))
        return loss.flatten(1).mean(1) if loss.ndim > 1 else loss


def build_loss(settings: LossSettings, dataset: Any, device: torch.device) -> Loss:
    """The loss that the settings name.

    Args:
        settings: name, arguments and class weights.
        dataset: has `classes`, `targets` for balanced weights and, if the targets are numbers,
            `target_mean_and_std`.
        device: where the loss is computed.

    Raises:
        UserError: if the loss cannot be built, or does not accept the class weights.
    """
    component = find_component(LossSettings, settings.name)
    arguments = changed_arguments(component, settings)
    parameters = constructor_parameters(component)
    if settings.balanced or settings.class_weights:
        if "weight" not in parameters:
            raise UserError(f"loss.name = {settings.name!r} does not accept class weights")
        arguments["weight"] = class_weights(settings, dataset).to(device)
    _, scale = getattr(dataset, "target_mean_and_std", (0.0, 1.0))
    if isinstance(component, type):
        return Loss(
            _construct(component, arguments, settings.name).to(device), {}, scale != 1, scale
        )
    if "scale" in parameters:
        arguments["scale"] = scale
        return Loss(component, arguments)
    return Loss(component, arguments, divides=scale != 1, scale=scale)


def _construct(component: Any, arguments: dict[str, Any], name: str) -> nn.Module:
    if "reduction" in constructor_parameters(component):
        arguments["reduction"] = "none"
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
    counts = torch.bincount(labels.flatten(), minlength=classes)
    occurring_classes = (counts > 0).sum()
    weights: Tensor = labels.numel() / (counts * occurring_classes).clamp(min=1)
    return weights
