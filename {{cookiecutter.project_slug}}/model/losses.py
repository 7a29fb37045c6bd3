"""Losses: `loss.name` selects a function of this file, with its further parameters as settings.

A function takes the outputs of a model and the targets. It can also have the parameters

- ``reduction``: ``mean``, the default, or ``none`` for the loss of each sample;
- ``weight``: the weight of each class, float32, shape (C,), from `loss.balanced` or
  `loss.class_weights`;
- ``scale``: the standard deviation of the targets. Differences are divided by it, so that the same
  learning rate works for targets in any unit.
"""

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from config.schema import Fraction, NonNegative, Positive
from utils.errors import UserError

MIN_UNCERTAINTY = 1e-6  # a power of 0 between 0 and 1 has an infinite gradient

Quantile = Annotated[float, Field(gt=0, lt=1)]

# Classes


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    label_smoothing: Fraction = 0.0,
    ignore_index: int = -100,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy of classes.

    Args:
        logits: shape (N, C) or (N, C, ...).
        target: classes, int64, shape (N,) or (N, ...), or class probabilities, shape (N, C, ...).
        label_smoothing: Weight of the uniform distribution that is mixed into the target
            (arXiv:1512.00567, section 7).
        ignore_index: Class of targets that do not count.
        weight: the weight of each class.
        reduction: mean or none.
    """
    torch_reduction = reduction
    if weight is not None:
        torch_reduction = "none"
    try:
        losses = functional.cross_entropy(
            logits,
            target,
            ignore_index=ignore_index,
            label_smoothing=label_smoothing,
            reduction=torch_reduction,
        )
    except IndexError as error:  # on the CPU; an accelerator ends the process
        raise UserError(_describe_invalid_class(logits, target, ignore_index)) from error
    if weight is None:
        return losses
    labels = target
    if target.is_floating_point():
        labels = target.argmax(1)
    losses = losses * weight[labels.where(labels != ignore_index, 0)]
    if reduction == "none":
        return losses
    return losses.sum() / (labels != ignore_index).sum()


def focal(
    logits: Tensor,
    target: Tensor,
    gamma: NonNegative = 2.0,
    weight: Tensor | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Cross entropy with lower weights for well-classified samples (Lin et al., arXiv:1708.02002).

    Args:
        logits: shape (N, C) or (N, C, ...).
        target: classes, int64, shape (N,) or (N, ...).
        gamma: Exponent that reduces the weight of well-classified samples; 0: cross entropy.
        weight: the weight of each class.
        reduction: mean or none.
    """
    losses = cross_entropy(logits, target, reduction="none")
    uncertainty = (1 - (-losses).exp()).clamp(min=MIN_UNCERTAINTY)
    losses = uncertainty**gamma * losses
    if weight is not None:
        losses = losses * weight[target]
    return _reduce(losses, reduction)


def binary_cross_entropy(
    logits: Tensor,
    target: Tensor,
    pos_weight: tuple[Positive, ...] | None = None,
    reduction: str = "mean",
) -> Tensor:
    """Binary cross entropy of labels that are independent of each other (multi-label).

    Args:
        logits: shape (N, C).
        target: 1 where a label applies, else 0, any dtype, shape (N, C).
        pos_weight: Weight of the samples to which a label applies, for each label.
        reduction: mean or none.
    """
    _check_shapes("binary_cross_entropy", logits, target)
    positive_weight = None
    if pos_weight is not None:
        if len(pos_weight) not in (1, logits.shape[-1]):
            raise UserError(
                f"loss.pos_weight has {len(pos_weight)} values, but there are {logits.shape[-1]} "
                "labels; give one for each label, or one for all"
            )
        positive_weight = torch.tensor(pos_weight, device=logits.device)
    return functional.binary_cross_entropy_with_logits(
        logits, target.to(logits.dtype), pos_weight=positive_weight, reduction=reduction
    )


def dice(
    logits: Tensor, target: Tensor, smooth: NonNegative = 1.0, reduction: str = "mean"
) -> Tensor:
    """One minus the soft Dice coefficient, for segmentation (Milletari et al., arXiv:1606.04797).

    It is computed for each sample and class, and averaged over the classes.

    Args:
        logits: shape (N, C, ...); with C = 1, of the foreground.
        target: classes, int64, shape (N, ...); with C = 1, 1 for the foreground, else 0.
        smooth: Added to numerator and denominator, so that an absent class is no division by 0.
        reduction: mean or none.
    """
    classes = logits.shape[1]
    if classes == 1:
        probabilities = logits.sigmoid()
        target = target.reshape_as(logits).to(logits.dtype)
    else:
        probabilities = logits.softmax(1)
        target = functional.one_hot(target, classes).movedim(-1, 1).to(logits.dtype)
    overlap = (probabilities * target).flatten(2).sum(2)
    total = (probabilities + target).flatten(2).sum(2)
    losses = 1 - (2 * overlap + smooth) / (total + smooth)
    return _reduce(losses.mean(1), reduction)


# Numbers


def mse(outputs: Tensor, target: Tensor, scale: float = 1.0, reduction: str = "mean") -> Tensor:
    """Mean squared error; outputs and targets have the same shape."""
    _check_shapes("mse", outputs, target)
    return functional.mse_loss(outputs / scale, target / scale, reduction=reduction)


def l1(outputs: Tensor, target: Tensor, scale: float = 1.0, reduction: str = "mean") -> Tensor:
    """Mean absolute error; outputs and targets have the same shape."""
    _check_shapes("l1", outputs, target)
    return functional.l1_loss(outputs / scale, target / scale, reduction=reduction)


def huber(
    outputs: Tensor,
    target: Tensor,
    delta: Positive = 1.0,
    scale: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Squared error near zero, absolute error elsewhere (Huber, 1964).

    Args:
        outputs: the shape of the targets.
        target: floating-point numbers.
        delta: Error, in standard deviations of the targets, from which the loss is linear.
        scale: standard deviation of the targets.
        reduction: mean or none.
    """
    _check_shapes("huber", outputs, target)
    return functional.huber_loss(outputs / scale, target / scale, delta=delta, reduction=reduction)


def gaussian(
    outputs: Tensor, target: Tensor, scale: float = 1.0, reduction: str = "mean"
) -> Tensor:
    """Negative log-likelihood of normal distributions (Nix and Weigend, 1994).

    Args:
        outputs: the means, then the logarithms of the variances of standardized targets, shape
            (N, 2 K).
        target: shape (N, K).
        scale: standard deviation of the targets.
        reduction: mean or none.
    """
    _check_columns("gaussian", outputs, target, 2)
    mean, log_variance = outputs.chunk(2, dim=1)
    error = (mean - target) / scale
    losses = (log_variance + error.square() * (-log_variance).exp() + math.log(2 * math.pi)) / 2
    return _reduce(losses, reduction)


def quantile(
    outputs: Tensor,
    target: Tensor,
    quantiles: tuple[Quantile, ...] = (0.5, 0.1, 0.9),
    scale: float = 1.0,
    reduction: str = "mean",
) -> Tensor:
    """Quantile (pinball) loss (Koenker and Bassett, 1978).

    Args:
        outputs: each quantile of all targets, shape (N, Q K).
        target: shape (N, K).
        quantiles: Quantiles to predict; the first one is evaluated as the prediction.
        scale: standard deviation of the targets.
        reduction: mean or none.
    """
    _check_columns("quantile", outputs, target, len(quantiles))
    levels = torch.tensor(quantiles, device=outputs.device).reshape(-1, 1)
    predicted = outputs.reshape(len(outputs), len(quantiles), -1)
    error = (target[:, None] - predicted) / scale
    losses = torch.maximum(levels * error, (levels - 1) * error)
    return _reduce(losses.mean(1), reduction)


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.mean()


def _check_shapes(name: str, outputs: Tensor, target: Tensor) -> None:
    """Raises a UserError if outputs and targets would be broadcast."""
    if outputs.shape != target.shape:
        raise UserError(
            f"loss.name = {name!r}: the model computes {tuple(outputs.shape[1:])} for an input, "
            f"but targets have the shape {tuple(target.shape[1:])}"
        )


def _check_columns(name: str, outputs: Tensor, target: Tensor, per_target: int) -> None:
    """Raises a UserError unless there are `per_target` outputs for each target."""
    are_tables = outputs.ndim == target.ndim == 2
    if not are_tables or outputs.shape[1] != per_target * target.shape[1]:
        raise UserError(
            f"loss.name = {name!r} needs {per_target} outputs for each target, but the model "
            f"computes {tuple(outputs.shape[1:])} for targets of the shape "
            f"{tuple(target.shape[1:])}"
        )


def _describe_invalid_class(logits: Tensor, target: Tensor, ignore_index: int) -> str:
    classes = logits.shape[1]
    is_invalid = ((target < 0) | (target >= classes)) & (target != ignore_index)
    first = is_invalid.nonzero()[0].tolist()
    value = int(target[tuple(first)])
    return (
        f"the target {value} of sample {first[0]} in a batch is not a class: the model computes "
        f"{classes} classes, so targets must be 0 to {classes - 1}"
    )
