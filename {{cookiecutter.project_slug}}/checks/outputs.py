"""The outputs of a model for a batch, and how well they fit the targets."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from base.base_dataset import Batch, class_labels
from base.base_trainer import BaseTrainer
from checks.verdict import Skipped
from utils.errors import describe_error

STANDARD_ERRORS = 4.0  # by which random outputs hardly ever differ from chance


@dataclass(frozen=True)
class Score:
    """How well the outputs for a batch fit its targets.

    Attributes:
        name: ``accuracy`` for classes, or ``correlation`` for numbers: the mean over their columns.
        value: higher is better; 1 is the highest.
        chance: the value of the best outputs that do not depend on the inputs.
        limit: random outputs hardly ever reach a higher value.
    """

    name: str
    value: float
    chance: float
    limit: float

    @property
    def is_random(self) -> bool:
        """Whether random outputs may reach the value."""
        return self.value <= self.limit


def score_of(trial: BaseTrainer, batch: Batch, training: bool = False) -> Score | None:
    """The score of `predict_step` on a batch; None if the targets are neither classes nor numbers.

    Args:
        trial: the copy of a trainer.
        batch: on the device.
        training: whether in training mode.

    Raises:
        Skipped: if `predict_step` fails.
    """
    labels = labels_of(trial, batch)
    if labels is not None:
        logits = logits_of(trial, batch, training)
        if logits is not None:
            return accuracy_of(logits, labels, len(trial.dataset.classes))
        return None
    target = numbers_of(trial, batch)
    if target is not None:
        outputs = predict(trial, batch, training)
        if isinstance(outputs, Tensor) and outputs.ndim == 2:
            return _correlation(outputs.detach(), target)
    return None


def accuracy_of(logits: Tensor, labels: Tensor, classes: int) -> Score:
    """The accuracy of logits, shape (N, C), without the samples whose label is negative."""
    is_counted = labels >= 0  # the loss ignores the others
    logits = logits[is_counted]
    labels = labels[is_counted]
    count = max(len(labels), 1)
    value = (logits.argmax(1) == labels).double().sum().item() / count
    largest_class = labels.bincount(minlength=classes).max()
    chance = largest_class.item() / count
    standard_error = math.sqrt(chance * (1 - chance) / count)
    return Score("accuracy", value, chance, chance + STANDARD_ERRORS * standard_error)


def _correlation(outputs: Tensor, target: Tensor) -> Score | None:
    """The mean correlation of the targets that vary with the first outputs."""
    count, columns = target.shape
    if outputs.shape[1] < columns:
        return None
    correlations = []
    for column in range(columns):
        pair = torch.stack([outputs[:, column].double(), target[:, column].double()])
        if bool((pair[1] != pair[1, 0]).any()):
            # Outputs that are all the same have no correlation; it counts as 0.
            correlations.append(pair.corrcoef()[0, 1].nan_to_num(0.0).item())
    if not correlations:
        return None
    value = sum(correlations) / len(correlations)
    return Score("correlation", value, 0.0, STANDARD_ERRORS / math.sqrt(count))


def target_of(batch: Any) -> Tensor | None:
    """The ``target`` of a batch; None if it has none."""
    if isinstance(batch, Mapping) and isinstance(batch.get("target"), Tensor):
        target: Tensor = batch["target"]
        return target
    return None


def labels_of(trial: BaseTrainer, batch: Any) -> Tensor | None:
    """The classes of a batch, int64, shape (N,); None if the targets are no classes."""
    target = target_of(batch)
    if target is None or not trial.dataset.classes:
        return None
    has_probabilities = target.is_floating_point() and target.ndim == 2
    has_classes = not target.is_floating_point() and target.ndim == 1
    if has_probabilities or has_classes:
        return class_labels(target)
    return None


def numbers_of(trial: BaseTrainer, batch: Any) -> Tensor | None:
    """The numbers to predict, shape (N, K); None if the targets are anything else."""
    target = target_of(batch)
    if target is None or trial.dataset.classes:
        return None
    if target.is_floating_point() and target.ndim == 2 and len(target) > 1:
        return target
    return None


def predict(trial: BaseTrainer, batch: Batch, training: bool = False) -> Any:
    """The result of `predict_step`.

    Args:
        trial: the copy of a trainer.
        batch: on the device.
        training: whether in training mode.

    Raises:
        Skipped: if it fails, because training does not need it.
    """
    trial.model.train(training)
    try:
        with trial.autocast(), torch.set_grad_enabled(trial.evaluates_with_gradients):
            return trial.predict_step(trial.model, batch)
    except Exception as error:  # whatever the code of a project may raise
        raise Skipped(
            f"{type(trial).__name__}.predict_step fails: {describe_error(error)}"
        ) from error
    finally:
        trial.model.train()


def logits_of(trial: BaseTrainer, batch: Batch, training: bool = False) -> Tensor | None:
    """The outputs for a batch of a classifier, shape (N, C); None if they are anything else."""
    outputs = predict(trial, batch, training)
    shape = (len(batch["target"]), len(trial.dataset.classes))
    if isinstance(outputs, Tensor) and outputs.shape == shape:
        return outputs.detach().float()
    return None
