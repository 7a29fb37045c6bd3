"""Training of siamese networks."""

from typing import Any

from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from config.schema import Positive


class PairDistances(BaseTrainer):
    """Minimises the contrastive loss of distances (Hadsell et al., 2006).

    Args:
        margin: Distance from which a pair of different words has no loss.
    """

    def __init__(self, margin: Positive = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.margin = margin

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        distances = self.predict_step(model, batch)["distance"].float()
        same = batch["same"]
        too_close = (self.margin - distances).clamp(min=0)
        losses = same * distances.square() + (1 - same) * too_close.square()
        correct = (distances < self.margin / 2) == same.bool()
        return {"loss": losses.mean(), "accuracy": correct.float().mean()}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.training_step(model, batch)

    def predict_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        pair = batch["pair"]
        return {"distance": model(pair["left"], pair["right"])}

    def example_inputs(self, batch: Batch) -> dict[str, Tensor]:
        pair: dict[str, Tensor] = batch["pair"]
        return pair
