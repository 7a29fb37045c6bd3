"""Training of regressors: what is predicted are numbers."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from logger.figures import Figure
from metrics.regression import RegressionMetrics, curve_figure, predicted_vs_true_figure
from utils.errors import UserError
from utils.parallel import gathered

DRAWN = 500  # points through which a curve is drawn


class Regressor(BaseTrainer):
    """Trains a network that gives numbers for ``input``, both float32, against ``target``.

    Outputs and targets have the shape (N, K). The loss is their mean squared difference; in
    training, its share of the targets' variance (where the data set has `target_mean_and_std`), so
    that a learning rate serves targets of any unit.
    """

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        error = functional.mse_loss(model(batch["input"]).float(), batch["target"])
        _, std = getattr(self.dataset, "target_mean_and_std", (0.0, 1.0))
        return {"loss": error / std**2}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        outputs, target = model(batch["input"]), batch["target"]
        if outputs.shape != target.shape:
            shapes = f"{tuple(outputs.shape[1:])} for an input, but targets are "
            hint = "; a regressor is not for classes" * bool(self.dataset.classes)
            raise UserError(f"the model gives {shapes}{tuple(target.shape[1:])}{hint}")
        self.metrics.update(outputs, target)

    def configure_metrics(self) -> RegressionMetrics:
        return RegressionMetrics()

    def describe(self, outputs: Tensor) -> list[list[dict[str, float]]]:
        """The numbers."""
        return [[{"value": value} for value in row] for row in outputs.tolist()]

    def tables(self, results: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
        """The formula of a model that is one, with its `powers` in the units of the data."""
        powers: Any = getattr(self.model, "powers", None)
        if powers is None:
            return {}
        x, y = getattr(self.dataset, "axes", ("x", "y"))
        with gathered(self.model):
            terms = [f"{factor:+.6g} {x}^{power}" for power, factor in enumerate(powers())]
        text = " ".join(terms).replace(f" {x}^0", "").replace(f"{x}^1", x).removeprefix("+")
        return {"formula": [[self.dataset.title], [f"{y} = {text}"]]}

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        title = f"{self.dataset.title}: {split}, R² {results['r2'].item():.4f}"
        figure = predicted_vs_true_figure(results["true"], results["predicted"], title)
        batch = self.loaders[split].sample_batch(DRAWN)
        if batch["input"].shape[1:] != (1,):
            return {"predicted": figure}
        axes = getattr(self.dataset, "axes", ("x", "y"))
        curve = curve_figure(batch["input"], batch["target"], title, axes, self.predict(batch))
        return {"predicted": figure, "curve": curve}
