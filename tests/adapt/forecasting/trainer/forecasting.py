"""Training of forecasts with an interval."""

from typing import Any

from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer


class Forecasting(BaseTrainer):
    """Trains a network to predict the median, and a lower and an upper quantile, in this order."""

    default_loss = "quantile"

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.loss(model(batch["input"]), batch["target"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = model(batch["input"])
        target = batch["target"]
        median, low, high = outputs.chunk(3, dim=1)
        is_inside = (low <= target) & (target <= high)
        return {
            "loss": self.loss(outputs, target),
            "absolute_error": (median - target).abs().mean(),
            "coverage": is_inside.float().mean(),
        }

    def describe(self, outputs: Tensor) -> list[list[dict[str, Any]]]:
        """The median and the interval of each hour."""
        described = []
        for quantiles in outputs.reshape(len(outputs), 3, -1).transpose(1, 2).tolist():
            hours = []
            for hour, (median, low, high) in enumerate(quantiles, start=1):
                hours.append({"hour": hour, "median": median, "low": low, "high": high})
            described.append(hours)
        return described
