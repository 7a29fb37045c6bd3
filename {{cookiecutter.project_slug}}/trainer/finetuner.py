"""Training of classifiers that begin with weights from elsewhere."""

from pathlib import Path

import torch
from torch import Tensor

from base.base_model import BaseModel
from base.base_trainer import Loaders
from base.batch_loader import Step
from config.schema import Count, Positive, Settings
from trainer.classifier import Classifier


class FineTuner(Classifier):
    """Trains what `model.freeze` names later, and more carefully, than the rest.

    Args:
        unfreeze_epoch: Epoch, from 1, from which on it is trained too; by default, never.
        backbone_rate: Its learning rate as a share of optimizer.lr.
    """

    def __init__(
        self,
        settings: Settings,
        model: BaseModel,
        loaders: Loaders,
        run: Path,
        unfreeze_epoch: Count | None = None,
        backbone_rate: Positive = 0.1,
    ) -> None:
        self.unfreeze_epoch, self.backbone_rate = unfreeze_epoch, backbone_rate
        super().__init__(settings, model, loaders, run)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = super().configure_optimizers()
        self.frozen = [p for p in self.model.parameters() if not p.requires_grad]
        if self.unfreeze_epoch and self.frozen:  # without gradients, they stay as they are
            rate = self.backbone_rate * self.settings.optimizer.lr
            optimizers[0].add_param_group({"params": self.frozen, "lr": rate})
        return optimizers

    def update(self, step: Step) -> dict[str, Tensor]:
        trained = (
            self.unfreeze_epoch is not None
            and self.epoch_of(self.progress.step + 1) >= self.unfreeze_epoch
        )
        if self.frozen and self.frozen[0].requires_grad != trained:
            for parameter in self.frozen:
                parameter.requires_grad_(trained)
            self.model.train()  # batch normalisation counts again, too
            if not self.sharded:
                self.parallel_model = self.wrap_model()
        return super().update(step)
