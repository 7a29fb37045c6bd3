"""Training of variational autoencoders."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn.functional import binary_cross_entropy_with_logits

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from logger.figures import image_grid, save_figure
from model.vae import VAE
from utils.randomness import make_generator
from utils.ranks import is_main_process

SAMPLES = 25


class Variational(BaseTrainer):
    """Minimises the negative evidence lower bound; draws new images after each validation."""

    model: VAE

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images = batch["input"]
        logits, mean, std = model(images)
        sum_of_pixels = binary_cross_entropy_with_logits(logits, images, reduction="sum")
        reconstruction = sum_of_pixels / len(images)
        divergence = kl_divergence(Normal(mean, std), Normal(0, 1)).sum(1).mean()
        loss = reconstruction + divergence
        return {"loss": loss, "reconstruction": reconstruction, "divergence": divergence}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.training_step(model, batch)

    def after_evaluation(self, split: str, results: Mapping[str, Tensor]) -> None:
        """Decodes the same random codes each time: a figure in the log and in the run folder."""
        codes = torch.randn(SAMPLES, self.model.code, generator=make_generator(0))
        with self.evaluating() as model:
            decoder = self.exported_model(model)
            images = decoder(codes.to(self.device)).float().cpu()
        step = self.progress.step
        figure = image_grid(images, [""] * SAMPLES, f"ellipses: samples after step {step}")
        self.run_log.figures({"samples": figure}, step)
        if is_main_process():
            folder = self.run / "samples"
            folder.mkdir(exist_ok=True)
            save_figure(figure, folder / f"step_{step:08d}.png")

    def exported_model(self, model: Any) -> nn.Module:
        """The decoder, which makes images, from 0 to 1, of codes."""
        return nn.Sequential(model.decoder, nn.Sigmoid())

    def example_inputs(self, batch: Batch) -> Tensor:
        return torch.zeros(1, self.model.code)
