"""A copy of a trainer for each check, and the steps that checks make with it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from checks.verdict import Skipped
from optim.optimizers import parameters_of
from sanity_check import copy_trainer
from storage.state import preserve_state
from utils.device import to_device
from utils.randomness import RandomStream, make_generator, permute, preserve_global_rng, seed_torch

MAX_SLOWDOWN = 4  # by other programs, after which a deadline does not wait any longer


class Deadline:
    """Limits the time of a part of a check.

    Args:
        seconds: of wall time and of processor time. If other programs use the processor, the wall
            time may be up to four times as long.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started = time.perf_counter()
        self.computing_started = time.process_time()

    def is_over(self) -> bool:
        """Whether the time is over."""
        elapsed = time.perf_counter() - self.started
        if elapsed > MAX_SLOWDOWN * self.seconds:
            return True
        computed = time.process_time() - self.computing_started
        return elapsed > self.seconds and computed > self.seconds


@contextmanager
def copied(trainer: BaseTrainer) -> Iterator[BaseTrainer]:
    """A copy of a trainer: nothing that a check does with it changes the trainer or its data.

    Raises:
        Skipped: if the model cannot be copied.
    """
    dataset = trainer.loaders["train"].dataset
    with (
        preserve_global_rng(trainer.device),
        preserve_state(dataset, trainer.excluded_from_data_state),
    ):
        trial = copy_trainer(trainer)
        if trial.model is trainer.model:
            raise Skipped(f"{type(trainer.model).__name__} cannot be copied")
        seed_step(trial)
        yield trial


def seed_step(trial: BaseTrainer, number: int = 0) -> None:
    """Seeds the random numbers of a step, such as those of dropout."""
    seed_torch(trial.settings.seed, RandomStream.UPDATE, number, device=trial.device)


def make_step(trial: BaseTrainer, step: Step) -> dict[str, Tensor]:
    """Makes a step as `BaseTrainer.fit` does, but the schedule does not change the rates."""
    outputs = trial.update(step.to(trial.device))
    if trial.moving_average is not None:
        trial.moving_average.update_parameters(trial.model)
    trial.progress.step += 1
    trial.after_step(outputs)
    return outputs


def single_batch_step(batch: Batch, count: int) -> Step:
    """The step of one batch of `count` samples."""
    return Step([batch], [1.0], [count])


def training_batch(trial: BaseTrainer, count: int) -> Batch:
    """Up to `count` random samples as in training, always the same ones, on the device."""
    dataset = trial.dataset
    positions = torch.arange(min(count, len(dataset)))
    indices = permute(positions, len(dataset), make_generator(0)).to(dataset.device)
    rng = make_generator(0)
    rng.select(slice(None), len(indices), dataset.device)
    batch = dataset.transform(dataset.__getitems__(indices), rng)
    return to_device(batch, trial.device)


def loss_of(outputs: Mapping[str, Tensor]) -> float:
    """The loss of a step.

    Raises:
        Skipped: if `update` of the trainer returns none.
    """
    if "loss" not in outputs:
        raise Skipped("`update` of the trainer returns no loss")
    return outputs["loss"].item()


def use_adam(trial: BaseTrainer, rate: float) -> None:
    """Replaces the optimizers by Adam, so that a wrong rate does not hide other faults."""
    optimizers: list[torch.optim.Optimizer] = []
    for optimizer in trial.optimizers:
        optimizers.append(torch.optim.Adam(parameters_of([optimizer]), lr=rate))
    trial.optimizers = optimizers


def disable_dropout(model: nn.Module) -> None:
    """Sets the probability of all dropout modules to 0."""
    for module in model.modules():
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0


def require_one_optimizer(trial: BaseTrainer) -> None:
    """Raises Skipped if there are several optimizers, whose losses may compete."""
    if len(trial.optimizers) > 1:
        raise Skipped(
            f"{type(trial).__name__} has {len(trial.optimizers)} optimizers, whose losses may "
            "compete, so their values say little"
        )
