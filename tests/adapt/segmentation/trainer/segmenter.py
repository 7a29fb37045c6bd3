"""Training of networks that tell the class of each pixel."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from metrics.protocol import Metric
from logger.figures import Figure


class Segmenter(BaseTrainer):
    """Trains a network that gives logits, shape (N, C, H, W), against masks, shape (N, H, W)."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch["input"]).float()
        return {"loss": nn.functional.cross_entropy(logits, batch["target"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        self.metrics.update(model(batch["input"]).argmax(1), batch["target"])

    def configure_metrics(self) -> Metric:
        from torchmetrics import MetricCollection
        from torchmetrics.classification import MulticlassJaccardIndex

        return MetricCollection({"iou": MulticlassJaccardIndex(len(self.dataset.classes))})

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        batch = self.loaders[split].dataset.__getitems__(torch.arange(9))
        guesses = {**batch, "target": self.predict(batch).argmax(1)}
        figure = self.dataset.draw(guesses, f"scenes: {split}, IoU {results['iou'].item():.3f}")
        return {"masks": figure} if figure else {}
