"""Training of a generative adversarial network: two networks, each with its optimizer."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Adam, Optimizer

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from data_loader.ring import CENTRES, STD
from metrics.protocol import Metric
from utils.randomness import make_generator

EVALUATED_POINTS = 1000


class Adversaries(BaseTrainer):
    """Makes a step of the discriminator, then one of the generator (arXiv:1406.2661)."""

    def configure_optimizers(self) -> list[Optimizer]:
        model: Any = self.model
        rate = self.settings.optimizer.arguments["lr"]
        optimizers: list[Optimizer] = []
        for part in (model.discriminator, model.generator):
            optimizers.append(Adam(part.parameters(), rate, (0.5, 0.99)))
        return optimizers

    def training_step(self, model: Any, batch: Batch) -> dict[str, Tensor]:
        real = batch["input"]
        generated = model(torch.randn_like(real))
        real_loss = softplus(-model.discriminator(real)).mean()
        generated_loss = softplus(model.discriminator(generated)).mean()
        generator_loss = softplus(-model.discriminator(generated)).mean()
        return {"discriminator": real_loss + generated_loss, "loss": generator_loss}

    def update(self, step: Step) -> dict[str, Tensor]:
        discriminator_optimizer, generator_optimizer = self.optimizers
        (batch,) = step.batches
        outputs = self.training_step(self.model, batch)
        self._minimise(outputs["discriminator"], discriminator_optimizer)
        outputs = self.training_step(self.model, batch)
        self._minimise(outputs["loss"], generator_optimizer)
        return outputs

    def _minimise(self, loss: Tensor, optimizer: Optimizer) -> None:
        self.model.zero_grad()  # both networks get gradients
        loss.backward()
        optimizer.step()

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        noise = torch.randn(EVALUATED_POINTS, 2, generator=make_generator(0))
        self.metrics.update(model(noise.to(self.device)))

    def configure_metrics(self) -> Metric:
        return Coverage()


class Coverage(nn.Module):
    """How well generated points cover the centres of the data.

    `hits` is the fraction of points near a centre. `coverage` is the fraction of centres that
    have at least half of their expected number of points.
    """

    higher_is_better: ClassVar = {"hits": True, "coverage": True}
    counts: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(len(CENTRES) + 1))  # the last: at no centre

    def reset(self) -> None:
        """Discards all points."""
        self.counts.zero_()

    def update(self, points: Tensor) -> None:
        """Adds points, shape (N, 2)."""
        distances, nearest = torch.cdist(points, CENTRES.to(points.device)).min(1)
        centres = torch.where(distances < 4 * STD, nearest, len(CENTRES))
        self.counts += centres.bincount(minlength=len(CENTRES) + 1)

    def compute(self) -> dict[str, Tensor]:
        """Returns both fractions."""
        fractions = self.counts[:-1] / self.counts.sum()
        half_of_expected = 0.5 / len(CENTRES)
        covered = fractions > half_of_expected
        return {"hits": fractions.sum(), "coverage": covered.float().mean()}
