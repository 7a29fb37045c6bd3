"""Metrics that stay on the device until they are read."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from utils.process_group import all_reduce_sum


class Metrics(Protocol):
    """What a trainer needs of its metrics; torchmetrics' collections have it too."""

    def reset(self) -> None:
        """Forgets all samples."""

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Takes account of a batch."""

    def compute(self) -> dict[str, Tensor]:
        """The metrics of all samples, by name; those that are single numbers are logged."""

    def to(self, device: torch.device) -> Self:
        """Moves what is counted to a device."""


class ClassificationMetrics(nn.Module):
    """Counts samples by true and predicted class; all metrics follow from that and the losses.

    `loss`, `accuracy` and `f1` (mean over the classes that occur) are scalars; ``*_by_class`` have
    one value a class, shape (C,); `confusion` is the counts, int64, shape (C, C), by true (row) and
    predicted (column) class. What would be divided by zero is zero.
    """

    counts: Tensor
    losses: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(classes, classes, dtype=torch.int64))
        self.register_buffer("losses", torch.zeros(()))

    def reset(self) -> None:
        """Forgets all samples."""
        self.counts.zero_()
        self.losses.zero_()

    def update(self, losses: Tensor, logits: Tensor, target: Tensor) -> None:
        """Takes account of a batch: shapes (N,), (N, C) and (N,)."""
        self.losses += losses.sum()
        places = target * len(self.counts) + logits.argmax(1)
        self.counts.view(-1).index_add_(0, places, torch.ones_like(places))

    def compute(self) -> dict[str, Tensor]:
        """The metrics of all samples, of all processes together."""
        counts, losses = self.counts.clone(), self.losses.clone()
        all_reduce_sum([counts, losses])
        right, true, guessed = counts.diagonal(), counts.sum(1), counts.sum(0)
        f1 = 2 * right / (true + guessed).clamp(min=1)
        return {
            "loss": losses / counts.sum(),
            "accuracy": right.sum() / counts.sum(),
            "f1": f1[true + guessed > 0].mean(),
            "precision_by_class": right / guessed.clamp(min=1),
            "recall_by_class": right / true.clamp(min=1),
            "f1_by_class": f1,
            "confusion": counts,
        }

    def higher_is_better(self, name: str) -> bool:
        """Whether more of a metric is better."""
        return name != "loss"


def scalars_in(results: Mapping[str, Tensor]) -> dict[str, float]:
    """The metrics that are single numbers."""
    return {name: value.item() for name, value in results.items() if value.numel() == 1}
