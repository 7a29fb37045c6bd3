"""Training of classifiers that begin with weights from elsewhere."""

from collections.abc import Sequence
from typing import Any

import torch

from base.base_dataset import Batch
from config.schema import Count, Positive
from trainer.classifier import Classifier


class FineTuner(Classifier):
    """Trains what `model.freeze` names later, and more carefully, than the rest.

    Args:
        unfreeze_epoch: First epoch, counted from 1, in which these parameters are trained;
            default: never.
        backbone_rate: Their learning rate as a fraction of optimizer.lr.
    """

    def __init__(
        self, *, unfreeze_epoch: Count | None = None, backbone_rate: Positive = 0.1, **kwargs: Any
    ) -> None:
        self.unfreeze_epoch = unfreeze_epoch
        self.backbone_rate = backbone_rate
        super().__init__(**kwargs)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = super().configure_optimizers()
        self.frozen = [p for p in self.model.parameters() if not p.requires_grad]
        if self.unfreeze_epoch and self.frozen:  # without gradients, they stay as they are
            rate = self.backbone_rate * self.settings.optimizer.lr
            optimizers[0].add_param_group({"params": self.frozen, "lr": rate})
        return optimizers

    def update(self, batches: Sequence[Batch]) -> None:
        trained = self.unfreeze_epoch is not None and self.epoch >= self.unfreeze_epoch
        if self.frozen and self.frozen[0].requires_grad != trained:
            for parameter in self.frozen:
                parameter.requires_grad_(trained)
            self.model.train()  # batch normalisation counts again, too
            if not self.sharded:
                self.parallel = self.spread()
        super().update(batches)
