"""Training of classifiers whose backbone has pretrained weights."""

from typing import Any

import torch
from torch import Tensor, nn

from base.batch_loader import Step
from config.schema import Count, Positive
from optim.optimizers import build_optimizers
from trainer.classifier import Classifier


class FineTuner(Classifier):
    """Trains the parameters that `model.freeze` has frozen from a later epoch on, at a lower rate.

    Args:
        unfreeze_epoch: Epoch, counted from 1, from which they are trained; null: never.
        backbone_rate: Their learning rate, relative to optimizer.lr.
    """

    def __init__(
        self, *, unfreeze_epoch: Count | None = None, backbone_rate: Positive = 0.1, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.unfreeze_epoch = unfreeze_epoch
        self.backbone_rate = backbone_rate
        self.frozen: list[nn.Parameter] = []  # found by `configure_optimizers`

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizers = build_optimizers(self.model, self.settings)
        # FSDP2 has replaced the parameters by sharded ones.
        self.frozen = [p for p in self.model.parameters() if not p.requires_grad]
        if self.unfreeze_epoch is not None and self.frozen:
            # Without gradients, an optimizer does not change them. The last optimizer is used:
            # after Muon, which takes matrices only, it is AdamW.
            rate = self.backbone_rate * self.settings.optimizer.arguments["lr"]
            optimizers[-1].add_param_group({"params": self.frozen, "lr": rate})
        return optimizers

    def update(self, step: Step) -> dict[str, Tensor]:
        epoch = self.epoch_of(self.progress.step + 1)
        is_trained = self.unfreeze_epoch is not None and epoch >= self.unfreeze_epoch
        if self.frozen and self.frozen[0].requires_grad != is_trained:
            self._set_trained(is_trained)
        return super().update(step)

    def _set_trained(self, is_trained: bool) -> None:
        for parameter in self.frozen:
            parameter.requires_grad_(is_trained)
        self.model.train()  # also switches their batch normalisation
        if not self.sharded:
            self.parallel_model = self.wrap_model()  # DDP registers the parameters to exchange
