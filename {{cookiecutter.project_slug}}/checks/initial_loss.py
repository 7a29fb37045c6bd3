"""The loss before the first step, compared with that of outputs which say nothing."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from checks.trial import (
    copied,
    labels_of,
    logits_of,
    predict,
    require_one_optimizer,
    seed_step,
    target_of,
    training_batch,
)
from checks.verdict import Skipped, Verdict
from config.schema import NO_CLASS

MAX_SAMPLES = 512
MAX_RATIO = 2.0  # of the initial to the expected loss
FAILED_RATIO = 10.0
MIN_RATIO = 0.5
CROSS_ENTROPIES = ("cross_entropy", "CrossEntropyLoss")
MAX_VARIANCE = 100.0  # of targets
SAME_LOSS = 1e-5  # relative difference of two losses that are computed in the same way


def check_loss(trainer: BaseTrainer) -> Verdict:
    """Compares the initial loss with that of a constant prediction.

    That is ln C for C classes, and about the variance of standardized numbers. Probabilities in the
    place of logits are found as well: a softmax before the cross entropy.
    """
    verdict = Verdict("loss")
    with copied(trainer) as trial:
        require_one_optimizer(trial)
        trial.autocast_dtype = torch.float32  # losses are compared to five digits
        batch = training_batch(trial, MAX_SAMPLES)
        loss = initial_loss(trial, batch)
        verdict.figures["initial loss"] = loss
        if not math.isfinite(loss):
            verdict.failures.append(
                f"the initial loss is {loss}; check the inputs, and what forward computes"
            )
            return verdict
        _check_softmax(verdict, trial, batch, loss)
        expected = expected_loss(trial, batch)
    _check_targets(verdict, trainer, batch)
    if trainer.settings.model.init_from is not None:
        return verdict  # a trained model has a lower loss
    verdict.figures["of a constant prediction"] = expected
    _compare(verdict, loss, expected)
    return verdict


def initial_loss(trial: BaseTrainer, batch: Batch) -> float:
    """The loss of the first step, in training mode."""
    seed_step(trial)
    with trial.autocast():
        return trial.training_step(trial.parallel_model, batch)["loss"].item()


def expected_loss(trial: BaseTrainer, batch: Batch) -> float:
    """The loss of outputs that are all zero.

    Raises:
        Skipped: if the loss is not one of outputs and ``target``.
    """
    target = target_of(batch)
    if trial.settings.loss.name == NO_CLASS and trial.default_loss == NO_CLASS:
        if labels_of(trial, batch) is not None and logits_of(trial, batch) is not None:
            return math.log(len(trial.dataset.classes))
        raise Skipped(
            f"{type(trial).__name__} computes a loss of its own: what to expect is unknown"
        )
    outputs = predict(trial, batch)
    if target is None or not isinstance(outputs, Tensor):
        raise Skipped("the loss is not one of an output tensor and `target`: its value is unknown")
    if not target.is_floating_point() and outputs.ndim == target.ndim:
        target = target.to(outputs.dtype)
    try:
        return trial.loss(torch.zeros_like(outputs), target).item()
    except Exception as error:  # the trainer may use the loss in another way
        raise Skipped(f"the loss of a constant prediction is unknown ({error})") from error


def uses_cross_entropy(trainer: BaseTrainer) -> bool:
    """Whether the settings name the cross entropy, which takes logits."""
    name = trainer.settings.loss.name
    if name == NO_CLASS:
        name = trainer.default_loss
    return name in CROSS_ENTROPIES


def _check_softmax(verdict: Verdict, trial: BaseTrainer, batch: Batch, loss: float) -> None:
    """Finds probabilities that the cross entropy takes for logits, in the model or the trainer."""
    labels = labels_of(trial, batch)
    if labels is None:
        return
    seed_step(trial)
    try:
        logits = logits_of(trial, batch, training=True)
    except Skipped:
        return
    if logits is None:
        return
    sums = logits.sum(1)
    are_probabilities = bool((logits >= 0).all()) and bool(((sums - 1).abs() < 0.01).all())
    probabilities = logits.softmax(1)
    if are_probabilities:
        probabilities = logits
    doubled = functional.cross_entropy(probabilities, labels).item()
    plain = functional.nll_loss(probabilities.clamp(min=1e-9).log(), labels).item()
    is_doubled = math.isclose(loss, doubled, rel_tol=SAME_LOSS)
    is_plain = math.isclose(loss, plain, rel_tol=SAME_LOSS)
    by_name = are_probabilities and uses_cross_entropy(trial)
    if by_name or (is_doubled and not is_plain):
        verdict.failures.append(
            "softmax before the cross entropy, which takes logits and computes the softmax itself; "
            "remove the softmax from forward or training_step"
        )


def _check_targets(verdict: Verdict, trainer: BaseTrainer, batch: Any) -> None:
    """Warns about numbers whose mean and variance are far from 0 and 1 for the loss."""
    target = target_of(batch)
    if target is None or trainer.dataset.classes or not target.is_floating_point():
        return
    _, scale = getattr(trainer.dataset, "target_mean_and_std", (0.0, 1.0))
    values = target.double() / scale
    variance = values.var().item()
    mean = values.mean().item()
    verdict.figures["variance of the targets"] = variance
    is_far = mean**2 > MAX_VARIANCE * max(variance, 1e-9) or variance > MAX_VARIANCE
    if is_far:
        verdict.warnings.append(
            f"the targets have mean {mean:.3g} and variance {variance:.3g}; standardize them to 0 "
            "and 1 (target_standardization in trainer/regressor.py)"
        )


def _compare(verdict: Verdict, loss: float, expected: float) -> None:
    if expected <= 0:
        return
    ratio = loss / expected
    if ratio > FAILED_RATIO:
        verdict.failures.append(
            f"the initial loss is {ratio:.3g} times that of a constant prediction; scale down the "
            "initial weights of the last layer, or normalise inputs and targets"
        )
    elif ratio > MAX_RATIO:
        verdict.warnings.append(
            f"the initial loss is {ratio:.3g} times that of a constant prediction; scale down the "
            "initial weights of the last layer"
        )
    elif ratio < MIN_RATIO:
        verdict.warnings.append(
            "the initial loss is lower than a guess can be; does the input contain the target, or "
            "is the loss not the mean over the samples?"
        )
