"""Training of networks that give back what they are given."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from logger.figures import Figure


class Reconstruction(BaseTrainer):
    """Minimises the mean squared error, which is 1 for a network that always gives the mean."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(model(batch["input"]).float(), batch["input"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        errors = (model(batch["input"]).float() - batch["input"]) ** 2
        self.metrics.update(value=errors.flatten(1).mean(1))

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        dataset = self.loaders[split].dataset
        batch = dataset.transform(dataset.__getitems__(torch.arange(25)), None)
        pairs = torch.cat([batch["input"], self.predict(batch)], dim=3)
        figure = dataset.draw({"input": pairs}, f"blobs: {split}, and what the network makes of it")
        return {"reconstructions": figure} if figure else {}
