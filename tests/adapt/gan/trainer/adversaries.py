"""Training of a generator and a discriminator, each with its optimizer."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam, Optimizer

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from data_loader.ring import PLACES, SPREAD
from metrics.protocol import Metric
from utils.randomness import generator


class Adversaries(BaseTrainer):
    """Lets both networks make a step in turn (Goodfellow et al., arXiv:1406.2661)."""

    def configure_optimizers(self) -> list[Optimizer]:
        model: Any = self.model
        rate, parts = self.settings.optimizer.lr, (model.discriminator, model.generator)
        return [Adam(part.parameters(), rate, betas=(0.5, 0.99)) for part in parts]

    def training_step(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        real = batch["input"]
        made = model(torch.randn_like(real))
        detected = softplus(-model.discriminator(real)) + softplus(model.discriminator(made))
        return {"discriminator": detected.mean(), "loss": self._fooled(model, made)}

    def _fooled(self, model: Any, made: Tensor) -> Tensor:
        return softplus(-model.discriminator(made)).mean()

    def update(self, batches: Sequence[Batch]) -> None:
        for batch in batches:
            for optimizer, name in zip(self.optimizers, ("discriminator", "loss"), strict=True):
                scalars = self.training_step(self.model, batch)
                self.model.zero_grad()  # the other network's gradients, too
                scalars[name].backward()
                optimizer.step()
            self.meter.add(scalars)

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        noise = torch.randn(1000, 2, generator=generator(0)).to(self.device)
        self.metrics.update(value=nearest(model(noise)))

    def configure_metrics(self) -> Metric:
        return Coverage()

    def higher_is_better(self, name: str) -> bool:
        return True


def nearest(points: Tensor) -> Tensor:
    """The place that each point, shape (N, 2), is at, int64, shape (N,); 8 if it is at none."""
    distances, places = torch.cdist(points, PLACES.to(points.device)).min(1)
    return torch.where(distances < 4 * SPREAD, places, 8)


class Coverage(nn.Module):
    """The share of points that are at a place, and of places that get half of their due."""

    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(9))

    def reset(self) -> None:
        """Forgets all points."""
        self.counts.zero_()

    def update(self, value: Tensor) -> None:
        """Takes account of places, int64, shape (N,)."""
        self.counts += value.bincount(minlength=9)

    def compute(self) -> dict[str, Tensor]:
        """Both shares."""
        shares = self.counts[:8] / self.counts.sum()
        return {"hits": shares.sum(), "coverage": (shares > 1 / 16).float().mean()}
