"""A copy of a trainer for each check, and the steps that checks make with it."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import Batch, class_labels
from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from checks.verdict import Skipped
from optim.optimizers import parameters_of
from sanity_check import copy_trainer
from storage.state import preserve_state
from utils.device import to_device
from utils.errors import describe_error
from utils.randomness import RandomStream, make_generator, permute, preserve_global_rng, seed_torch


class Deadline:
    """The end of the time that a part of a check may take.

    Args:
        seconds: from now on. If other programs use the processor, it may take up to four times as
            long until this process has computed for so long.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.started = time.perf_counter()
        self.computing_started = time.process_time()

    def is_over(self) -> bool:
        """Whether the time is over."""
        elapsed = time.perf_counter() - self.started
        computed = time.process_time() - self.computing_started
        return elapsed > 4 * self.seconds or min(elapsed, computed) > self.seconds


@contextmanager
def copied(trainer: BaseTrainer) -> Iterator[BaseTrainer]:
    """A copy of a new trainer; what is done with it leaves nothing behind.

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
    """Seeds what a step draws, such as dropout."""
    seed_torch(trial.settings.seed, RandomStream.UPDATE, number, device=trial.device)


def make_step(trial: BaseTrainer, step: Step) -> dict[str, Tensor]:
    """A step as in `BaseTrainer.fit`, with the learning rates that the optimizers have."""
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
    """Replaces the optimizers by Adam, which learns something with any network."""
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


def target_of(batch: Any) -> Tensor | None:
    """The ``target`` of a batch; None if it has none."""
    if isinstance(batch, Mapping) and isinstance(batch.get("target"), Tensor):
        target: Tensor = batch["target"]
        return target
    return None


def labels_of(trial: BaseTrainer, batch: Any) -> Tensor | None:
    """The classes of a batch, int64, shape (N,); None if the targets are no classes."""
    target = target_of(batch)
    if target is None or not trial.dataset.classes:
        return None
    has_probabilities = target.is_floating_point() and target.ndim == 2
    if has_probabilities or (target.ndim == 1 and not target.is_floating_point()):
        return class_labels(target)
    return None


def predict(trial: BaseTrainer, batch: Batch, training: bool = False) -> Any:
    """The result of `predict_step`.

    Args:
        trial: the copy of a trainer.
        batch: on the device.
        training: whether in training mode.

    Raises:
        Skipped: if it fails, because training does not need it.
    """
    trial.model.train(training)
    try:
        with trial.autocast(), torch.set_grad_enabled(trial.evaluates_with_gradients):
            return trial.predict_step(trial.model, batch)
    except Exception as error:  # whatever the code of a project may raise
        raise Skipped(
            f"{type(trial).__name__}.predict_step fails: {describe_error(error)}"
        ) from error
    finally:
        trial.model.train()


def logits_of(trial: BaseTrainer, batch: Batch, training: bool = False) -> Tensor | None:
    """The outputs for a batch of a classifier, shape (N, C); None if they are anything else."""
    outputs = predict(trial, batch, training)
    shape = (len(batch["target"]), len(trial.dataset.classes))
    if isinstance(outputs, Tensor) and outputs.shape == shape:
        return outputs.detach().float()
    return None


def accuracy_of(trial: BaseTrainer, batch: Batch, training: bool = False) -> float | None:
    """The accuracy on a batch; None if the trainer is no classifier."""
    labels = labels_of(trial, batch)
    if labels is None:
        return None
    logits = logits_of(trial, batch, training)
    if logits is None:
        return None
    return (logits.argmax(1) == labels).float().mean().item()
