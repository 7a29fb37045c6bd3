"""Whether the loss of a batch is the mean of the losses of its samples."""

import math

import torch
from torch import Tensor

from base.base_trainer import BaseTrainer
from checks.trial import seed_step
from checks.verdict import Verdict
from utils.device import to_device

SAMPLES = 6
MEAN_LOSSES = ("cross_entropy", "mse", "l1", "huber")  # without class weights


def check_batch_loss(verdict: Verdict, trial: BaseTrainer) -> None:
    """Compares the loss of a batch with those of its samples, for losses that are such means."""
    settings = trial.settings.loss
    has_weights = settings.balanced or settings.class_weights
    overrides_update = type(trial).update is not BaseTrainer.update
    if settings.name not in MEAN_LOSSES or has_weights or overrides_update:
        return
    trial.autocast_dtype = torch.float32
    indices = torch.arange(SAMPLES) * (len(trial.dataset) - 1) // SAMPLES
    loss = _loss_of_samples(trial, indices)
    single_losses = [_loss_of_samples(trial, indices[[row]]) for row in range(SAMPLES)]
    mean = sum(single_losses) / SAMPLES
    verdict.figures["loss of a batch / of its samples"] = f"{loss:.4g} / {mean:.4g}"
    if not math.isclose(loss, mean, rel_tol=1e-4, abs_tol=1e-6):
        verdict.failures.append(
            f"the loss of a batch ({loss:.4g}) is not the mean of the losses of its samples "
            f"({mean:.4g}); look for a reshape that mixes samples, a broadcast, or a softmax or "
            "mean over dimension 0 in training_step"
        )


def _loss_of_samples(trial: BaseTrainer, indices: Tensor) -> float:
    batch = to_device(trial.loaders["train"].load_batch(indices), trial.device)
    seed_step(trial)
    trial.model.eval()
    loss = trial.training_step(trial.model, batch)["loss"].item()
    trial.model.train()
    return loss
