"""Training of autoencoders."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from logger.figures import Figure


class Reconstruction(BaseTrainer):
    """Minimises the mean squared error; it is 1 if the network outputs the mean image."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": nn.functional.mse_loss(model(batch["input"]).float(), batch["input"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        errors = (model(batch["input"]).float() - batch["input"]) ** 2
        self.metrics.update(value=errors.flatten(1).mean(1))

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        dataset = self.loaders[split].dataset
        batch = dataset.transform(dataset.__getitems__(torch.arange(25)), None)
        pairs = torch.cat([batch["input"], self.predict(batch)], dim=3)
        figure = dataset.draw({"input": pairs}, f"blobs: {split}, with reconstructions")
        if figure is None:
            return {}
        return {"reconstructions": figure}
