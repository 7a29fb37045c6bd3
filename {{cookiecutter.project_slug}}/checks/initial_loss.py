"""The loss before the first step, compared with that of outputs that are all zero."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from checks.outputs import labels_of, logits_of, predict, target_of
from checks.trial import copied, require_one_optimizer, seed_step, training_batch
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
    """Compares the initial loss with that of outputs that are all zero.

    That is ln C for C classes, and about the variance of standardized numbers. A softmax before the
    cross entropy is found as well.
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
        if verdict.failures:
            return verdict
        expected = expected_loss(trial, batch)
    verdict.figures["of a constant prediction"] = expected
    _check_targets(verdict, trainer, batch)
    if loss < 0 < expected:
        verdict.failures.append(
            "the loss is negative, but that of a constant prediction is positive; is the sign of "
            "the loss reversed? Then training increases it"
        )
    elif expected > 0 and trainer.settings.model.init_from is None:  # a trained loss is lower
        _compare(verdict, loss / expected)
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
    seed_step(trial)  # for the same dropout as in the initial loss
    try:
        outputs = logits_of(trial, batch, training=True)
    except Skipped:
        return
    if outputs is None:
        return
    is_in_model = _are_probabilities(outputs) and uses_cross_entropy(trial)
    if is_in_model or _is_loss_of_softmax(loss, outputs, labels):
        verdict.failures.append(
            "softmax before the cross entropy, which takes logits and computes the softmax itself; "
            "remove the softmax from forward or training_step"
        )


def _is_loss_of_softmax(loss: float, outputs: Tensor, labels: Tensor) -> bool:
    """Whether a loss is the cross entropy of a softmax, which the trainer has computed before it.

    Args:
        loss: as the trainer computes it.
        outputs: of the model: logits or probabilities, shape (N, C).
        labels: int64, shape (N,).
    """
    probabilities = outputs.softmax(1)
    if _are_probabilities(outputs):
        probabilities = outputs
    correct = functional.nll_loss(probabilities.clamp(min=1e-9).log(), labels).item()
    if math.isclose(loss, correct, rel_tol=SAME_LOSS):
        return False
    for wrong_logits in (probabilities, outputs.softmax(0)):
        wrong = functional.cross_entropy(wrong_logits, labels).item()
        if math.isclose(loss, wrong, rel_tol=SAME_LOSS):
            return True
    return False


def _are_probabilities(outputs: Tensor) -> bool:
    """Whether each row, shape (N, C), is positive and has the sum 1."""
    are_positive = bool((outputs >= 0).all())
    return are_positive and bool(((outputs.sum(1) - 1).abs() < 0.01).all())


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
            "and 1"
        )


def _compare(verdict: Verdict, ratio: float) -> None:
    """Judges the ratio of the initial loss to that of a constant prediction."""
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
