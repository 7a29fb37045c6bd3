"""Metrics of models that predict numbers."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Self

import torch
from torch import Tensor

from utils.errors import UserError
from utils.process_group import all_gather_object

MIN_STEPS_PER_STD = 32  # rounding then changes a variance by less than 0.01 %
FLOAT32_DIGITS = 24  # binary
MAX_SQUARED = 1e18  # float32 contains the square of such a number, and sums of squares


class RegressionMetrics:
    """Keeps all targets and predictions, so that the metrics are exact for values of any size.

    They are computed in float64, on the CPU. The results are in the units of the data:

    - ``mse``: mean squared error.
    - ``mae``: mean absolute error.
    - ``r2``: coefficient of determination, averaged over the outputs whose targets vary; NaN if
      all targets are constant, as R² is undefined then. It does not depend on offsets and units.
    - ``true`` and ``predicted``: targets and predictions, float64, shape (N, K).

    Args:
        means_and_stds: of each column if targets and predictions are standardized, K items.
    """

    higher_is_better: ClassVar[Mapping[str, bool]] = {"mse": False, "mae": False, "r2": True}

    def __init__(self, means_and_stds: Sequence[tuple[float, float]] = ()) -> None:
        if not means_and_stds:
            means_and_stds = [(0.0, 1.0)]
        means, stds = torch.tensor(means_and_stds, dtype=torch.float64).T
        self.means = means
        self.stds = stds
        self.reset()

    def reset(self) -> None:
        """Discards all samples."""
        self.targets: list[Tensor] = []
        self.predictions: list[Tensor] = []

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Adds a batch of predictions and targets, both of shape (N, K) and of any real dtype."""
        self.targets.append(true.detach())
        self.predictions.append(predicted.detach())

    def compute(self) -> dict[str, Tensor]:
        """Returns the metrics of all samples, over all processes."""
        true = self._all_samples(self.targets)
        predicted = self._all_samples(self.predictions)
        return {
            **metrics_of_numbers(true, predicted, self.stds),
            "true": self.means + self.stds * true,
            "predicted": self.means + self.stds * predicted,
        }

    def _all_samples(self, batches: list[Tensor]) -> Tensor:
        """Concatenates the batches of all processes, some of which may have none, on the CPU."""
        all_batches: list[Tensor] = []
        local_batches = [batch.cpu().double() for batch in batches]
        for rank_batches in all_gather_object(local_batches):
            all_batches += rank_batches
        return torch.cat(all_batches)

    def to(self, device: torch.device) -> Self:
        """Does nothing: batches stay on the device that they come from."""
        return self


def metrics_of_numbers(true: Tensor, predicted: Tensor, stds: Tensor) -> dict[str, Tensor]:
    """The scalar metrics of targets and predictions, which may be standardized.

    Args:
        true: float64, shape (N, K).
        predicted: float64, shape (N, K).
        stds: the standard deviation of each column, or 1, float64, shape (K,) or (1,).
    """
    error = predicted - true
    error_in_units = stds * error
    return {
        "mse": error_in_units.square().mean(),
        "mae": error_in_units.abs().mean(),
        "r2": _coefficient_of_determination(true, error),
    }


def _coefficient_of_determination(true: Tensor, error: Tensor) -> Tensor:
    """Computes R² from targets and errors, float64, shape (N, K)."""
    # Not by a sum of squares: that of constant numbers is rarely exactly 0.
    varies = true.amax(0) > true.amin(0)
    if not varies.all():
        true = true[:, varies]
        error = error[:, varies]
    residual_sums = error.square().sum(0)
    total_sums = (true - true.mean(0)).square().sum(0)
    return (1 - residual_sums / total_sums).mean()


def check_precision(true: Tensor, scale: float, title: str) -> None:
    """Raises a UserError if float32, in which a network computes, is unsuitable for the targets.

    Args:
        true: targets, float64, shape (N, K).
        scale: what the loss divides them by.
        title: name of the data, for the message.
    """
    for column, values in enumerate(true.T):
        problem = _find_precision_problem(values, scale)
        if problem is not None:
            raise UserError(
                f"{title}: target {column}, with values such as {values[0].item()!r}, "
                f"{problem}; standardize the targets in the data set, in float64 (see "
                "data_loader/standardization.py), or choose another unit or offset"
            )


def _find_precision_problem(values: Tensor, scale: float) -> str | None:
    largest = values.abs().max()
    if largest / scale > MAX_SQUARED:
        return "is so large that float32 cannot contain its square"
    # The distance between neighbouring numbers in float32.
    step = 2.0 ** (torch.frexp(largest).exponent.item() - FLOAT32_DIGITS)
    if values.amax() == values.amin():
        if step > 1:
            return "is constant in float32, which cannot distinguish such numbers"
        return None
    std = values.std(correction=0)
    if std < MIN_STEPS_PER_STD * step:
        return f"has the standard deviation {std:.2g}, but float32 has steps of {step:.2g}"
    if std / scale < 1 / MAX_SQUARED:
        return "varies so little that its square is 0 in float32"
    return None
