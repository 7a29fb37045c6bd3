"""Metrics of models that predict numbers."""

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
from torch import Tensor

from utils.process_group import all_gather_object


class RegressionMetrics:
    """Keeps all targets and predictions, so that the metrics are exact for values of any size.

    The results are:

    - ``mse``: mean squared error.
    - ``mae``: mean absolute error.
    - ``r2``: coefficient of determination, over all outputs; 0 if the targets are constant.
    - ``true`` and ``predicted``: targets and predictions, float32, shape (N, K).
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"mse": False, "mae": False, "r2": True}

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Discards all samples."""
        self.targets: list[Tensor] = []
        self.predictions: list[Tensor] = []

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Adds a batch of predictions and targets, both of shape (N, K)."""
        self.targets.append(true.detach().float())
        self.predictions.append(predicted.detach().float())

    def compute(self) -> dict[str, Tensor]:
        """Returns the metrics of all samples, over all processes."""
        true = self._all_samples(self.targets)
        predicted = self._all_samples(self.predictions)
        error = predicted - true
        residual_sum = error.square().sum()
        total_sum = (true - true.mean(0)).square().sum()
        return {
            "mse": error.square().mean(),
            "mae": error.abs().mean(),
            "r2": torch.where(total_sum > 0, 1 - residual_sum / total_sum, 0),
            "true": true,
            "predicted": predicted,
        }

    def _all_samples(self, batches: list[Tensor]) -> Tensor:
        """Concatenates the batches of all processes, some of which may have none, on the CPU."""
        all_batches: list[Tensor] = []
        for rank_batches in all_gather_object([batch.cpu() for batch in batches]):
            all_batches += rank_batches
        return torch.cat(all_batches)

    def to(self, device: torch.device) -> Self:
        """Does nothing: batches stay on the device that they come from."""
        return self
