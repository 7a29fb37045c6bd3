"""Training of a generative adversarial network: two networks, each with its optimizer."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.optim import Optimizer

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from data_loader.ring import CENTRES, STD
from metrics.protocol import Metric
from model.gan import GAN
from optim.optimizers import build_optimizers
from utils.randomness import make_generator

EVALUATED_POINTS = 1000


class Adversaries(BaseTrainer):
    """Makes a step of the discriminator, then one of the generator (arXiv:1406.2661)."""

    model: GAN

    def configure_optimizers(self) -> list[Optimizer]:
        optimizers = build_optimizers(self.model.discriminator, self.settings)
        optimizers += build_optimizers(self.model.generator, self.settings)
        return optimizers

    def update(self, step: Step) -> dict[str, Tensor]:
        discriminator, generator = self.optimizers
        outputs = self.optimize(step, discriminator, self.discriminator_step)
        return self.optimize(step, generator) | {"discriminator": outputs["loss"]}

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss of the generator."""
        generated = model(torch.randn_like(batch["input"]))
        return {"loss": softplus(-self.model.discriminator(generated)).mean()}

    def discriminator_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """The loss of the discriminator."""
        real = batch["input"]
        generated = model(torch.randn_like(real))
        real_loss = softplus(-self.model.discriminator(real)).mean()
        generated_loss = softplus(self.model.discriminator(generated)).mean()
        return {"loss": real_loss + generated_loss}

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
