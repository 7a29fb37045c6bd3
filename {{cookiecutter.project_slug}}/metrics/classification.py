"""Metrics of classifiers."""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from metrics.calibration import calibration_error
from utils.process_group import all_reduce_sum


class ClassificationMetrics(nn.Module):
    """Computes all metrics from the confusion matrix and the sum of the losses.

    Both stay on the device until `compute` is called. The results are:

    - ``loss`` (mean), ``accuracy`` and ``f1`` (mean over the classes that have samples): scalars.
    - ``precision_by_class``, ``recall_by_class`` and ``f1_by_class``: shape (C,).
    - ``confusion``: counts by true class (row) and predicted class (column), int64, shape (C, C).

    A ratio whose denominator is zero is zero.

    Args:
        classes: number of classes, C.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"loss": False, "accuracy": True, "f1": True}
    confusion: Tensor
    loss_sum: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.register_buffer("confusion", confusion, persistent=False)
        self.register_buffer("loss_sum", torch.zeros(()), persistent=False)

    def reset(self) -> None:
        """Discards all samples."""
        self.confusion.zero_()
        self.loss_sum.zero_()

    def update(self, losses: Tensor, logits: Tensor, target: Tensor) -> None:
        """Adds a batch.

        Args:
            losses: the loss of each sample, shape (N,).
            logits: shape (N, C).
            target: class indices, int64, shape (N,).
        """
        self.loss_sum += losses.detach().sum()
        cells = target * len(self.confusion) + logits.argmax(1)
        self.confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))

    def compute(self) -> dict[str, Tensor]:
        """Returns the metrics of all samples, over all processes."""
        confusion = self.confusion.clone()
        loss_sum = self.loss_sum.clone()
        all_reduce_sum([confusion, loss_sum])

        samples = confusion.sum()
        correct = confusion.diagonal()
        support = confusion.sum(1)
        predicted = confusion.sum(0)
        f1 = _f1_by_class(correct, support, predicted)
        return {
            "loss": loss_sum / samples,
            "accuracy": correct.sum() / samples,
            "f1": f1[support > 0].mean(),
            "precision_by_class": correct / predicted.clamp(min=1),
            "recall_by_class": correct / support.clamp(min=1),
            "f1_by_class": f1,
            "confusion": confusion,
        }


def predictions_of(losses: Tensor | None, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
    """What `BaseTrainer.record_samples` keeps of a batch: class, prediction, probability, loss.

    Args:
        losses: the loss of each sample, shape (N,); None if it can only be computed for a batch.
        logits: shape (N, C).
        target: class indices, int64, shape (N,).

    Returns:
        Values of shape (N,) by name; ``probability`` is that of the predicted class.
    """
    predicted = logits.argmax(1)
    probabilities = logits.float().softmax(1)
    values = {
        "true": target,
        "predicted": predicted,
        "probability": probabilities.gather(1, predicted.unsqueeze(1)).squeeze(1),
    }
    if losses is not None:
        values["loss"] = losses
    return values


def metrics_of_predictions(samples: Mapping[str, Tensor], classes: int) -> dict[str, Tensor]:
    """The scalar metrics of samples, with ``ece``, the expected calibration error.

    Args:
        samples: the values that `predictions_of` returns.
        classes: number of classes.
    """
    true = samples["true"]
    is_correct = (true == samples["predicted"]).double()
    support = true.bincount(minlength=classes)
    correct = true.bincount(is_correct, minlength=classes)
    predicted = samples["predicted"].bincount(minlength=classes)
    metrics = {}
    if "loss" in samples:
        metrics["loss"] = samples["loss"].double().mean()
    metrics["accuracy"] = is_correct.mean()
    metrics["f1"] = _f1_by_class(correct, support, predicted)[support > 0].mean()
    metrics["ece"] = calibration_error(samples["probability"], is_correct)
    return metrics


def mean_probabilities(logits: Sequence[Tensor]) -> Tensor:
    """The logarithms of the means of class probabilities, which are logits as well.

    Args:
        logits: those of each model, shape (N, C).

    Returns:
        float32, shape (N, C).
    """
    log_probabilities = torch.stack(list(logits)).float().log_softmax(2)
    return log_probabilities.logsumexp(0) - math.log(len(logits))


def _f1_by_class(correct: Tensor, support: Tensor, predicted: Tensor) -> Tensor:
    """F1 from the numbers of samples of each class, shape (C,)."""
    return 2 * correct / (support + predicted).clamp(min=1)
