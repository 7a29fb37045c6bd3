"""Training of regressors: the targets are numbers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from logger.figures import Figure, curve_figure, predicted_vs_true_figure
from metrics.regression import RegressionMetrics
from utils.errors import UserError
from utils.parallel import unsharded

CURVE_POINTS = 500  # samples through which the figure of a curve is drawn


class Regressor(BaseTrainer):
    """Trains a network that computes numbers from ``input``, by `loss.name`.

    The ``target`` is float32, shape (N, K). The first K outputs are the predictions; a loss such as
    ``gaussian`` or ``quantile`` needs more outputs. If the data set has `target_mean_and_std`, the
    loss is computed for standardized targets, so that the same learning rate works for targets in
    any unit.
    """

    default_loss = "mse"

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.loss(model(batch["input"]), batch["target"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch["input"])
        target = batch["target"]
        self._check_shapes(outputs, target)
        self.metrics.update(outputs[:, : target.shape[1]], target)
        return {"loss": self.loss(outputs, target)}

    def _check_shapes(self, outputs: Tensor, target: Tensor) -> None:
        is_table = outputs.ndim == target.ndim == 2
        if is_table and outputs.shape[1] >= target.shape[1] and target.is_floating_point():
            return
        message = f"the model computes {tuple(outputs.shape[1:])} for an input, but targets "
        message += f"have the shape {tuple(target.shape[1:])}"
        if self.dataset.classes:
            message += "; a regressor needs data without classes"
        raise UserError(message)

    def configure_metrics(self) -> RegressionMetrics:
        return RegressionMetrics()

    def describe(self, outputs: Tensor) -> list[list[dict[str, Any]]]:
        """The numbers for each sample."""
        return [[{"value": value} for value in row] for row in outputs.tolist()]

    def tables(self, results: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
        """The formula of a polynomial, in the units of the data."""
        powers: Any = getattr(self.model, "powers", None)
        if powers is None:
            return {}
        x, y = getattr(self.dataset, "axes", ("x", "y"))
        with unsharded(self.model):
            coefficients = powers()
        return {"formula": [[self.dataset.title], [f"{y} = {format_polynomial(coefficients, x)}"]]}

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        """Predicted against true numbers and, if there is one input, the curve."""
        heading = f"{self.dataset.title}: {split}, R² {results['r2'].item():.4f}"
        predicted = predicted_vs_true_figure(results["true"], results["predicted"], heading)
        figures = {"predicted": predicted}
        batch = self.loaders[split].sample_batch(CURVE_POINTS)
        if batch["input"].shape[1:] == (1,):
            axes = getattr(self.dataset, "axes", ("x", "y"))
            curve = self.predict(batch)[:, :1]
            figures["curve"] = curve_figure(batch["input"], batch["target"], heading, axes, curve)
        return figures


def format_polynomial(coefficients: list[float], x: str) -> str:
    """A polynomial as text, such as ``3 +2 x -0.5 x^2``.

    Args:
        coefficients: those of 1, x, x², ...
        x: name of the variable.
    """
    terms = []
    for power, coefficient in enumerate(coefficients):
        if power == 0:
            terms.append(f"{coefficient:.6g}")
        elif power == 1:
            terms.append(f"{coefficient:+.6g} {x}")
        else:
            terms.append(f"{coefficient:+.6g} {x}^{power}")
    return " ".join(terms)
