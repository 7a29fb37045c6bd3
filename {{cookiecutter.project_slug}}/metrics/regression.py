"""Metrics and pictures of models that predict numbers."""

from typing import Self

import torch
from torch import Tensor

from logger.figures import Figure, new_figure
from utils.process_group import all_gather_object

SHOWN = 2000  # points in a picture, at most


class RegressionMetrics:
    """Keeps all predictions; what is told of them is exact, whatever their size.

    `loss` is the mean squared error, `mae` the mean absolute one, and `r2` the share of the
    targets' variance that is explained (coefficient of determination; of several outputs, over
    all; 0 where they do not vary). `true` and `predicted` are the numbers, float32, shape (N, K).
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all samples."""
        self.true, self.predicted = list[Tensor](), list[Tensor]()

    def update(self, predicted: Tensor, true: Tensor) -> None:
        """Takes account of a batch, both of shape (N, K)."""
        self.true.append(true.float())
        self.predicted.append(predicted.float())

    def compute(self) -> dict[str, Tensor]:
        """The metrics of all samples, of all processes together."""
        parts = all_gather_object(
            [(t.cpu(), p.cpu()) for t, p in zip(self.true, self.predicted, strict=True)]
        )
        batches = [pair for own in parts for pair in own]  # a process may have none
        true, predicted = (torch.cat(values) for values in zip(*batches, strict=True))
        error, total = predicted - true, (true - true.mean(0)).square().sum()
        return {
            "loss": error.square().mean(),
            "mae": error.abs().mean(),
            "r2": torch.where(total > 0, 1 - error.square().sum() / total, 0),
            "true": true,
            "predicted": predicted,
        }

    def higher_is_better(self, name: str) -> bool:
        """Whether more of a metric is better."""
        return name == "r2"

    def to(self, device: torch.device) -> Self:
        """Nothing is held beforehand; what comes is on the right device."""
        return self


def predicted_vs_true_figure(true: Tensor, predicted: Tensor, heading: str) -> Figure:
    """Predicted against true numbers, both of shape (N, K); what is right is on the diagonal."""
    figure = new_figure(6, 6)
    axes = figure.add_subplot(title=heading, xlabel="true", ylabel="predicted")
    ends = [min(true.min(), predicted.min()).item(), max(true.max(), predicted.max()).item()]
    margin = 0.05 * (ends[1] - ends[0]) or 1.0
    axes.set(xlim=(ends[0] - margin, ends[1] + margin), ylim=(ends[0] - margin, ends[1] + margin))
    axes.locator_params(nbins=5)
    axes.axline((float(true.mean()),) * 2, slope=1, color="grey", linewidth=1)
    axes.scatter(true[:SHOWN].numpy(), predicted[:SHOWN].numpy(), s=8, alpha=0.5)
    return figure


def curve_figure(
    x: Tensor, y: Tensor, heading: str, names: tuple[str, str], curve: Tensor | None = None
) -> Figure:
    """Points (x, y) by their names, and the curve that a model takes through them at the same x.

    All have the shape (N, 1), on the CPU.
    """
    figure, order = new_figure(7, 5), x[:, 0].argsort()
    axes = figure.add_subplot(title=heading, xlabel=names[0], ylabel=names[1])
    axes.scatter(x[:SHOWN, 0].numpy(), y[:SHOWN, 0].numpy(), s=8, alpha=0.5, label="data")
    if curve is not None:
        axes.plot(x[order, 0].numpy(), curve[order, 0].numpy(), color="C1", label="model")
        axes.legend()
    return figure
