"""The learning rates of a run, which are computed without training."""

import tempfile
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from base.base_trainer import BaseTrainer
from builders import build_model, build_trainer, build_training_loaders
from config.schema import Settings
from logger.console import format_table
from logger.figures import save_figure, schedule_figure

HEADER = ("", "first", "highest", "in step", "last", "warm-up")


@dataclass(frozen=True)
class ScheduleRecord:
    """The values that schedules change, before each step of a run.

    Attributes:
        rates: the learning rates by parameter group, float64, shape (steps,); groups with the same
            rates share an entry.
        momenta: the momentum, or the first of ``betas``, by parameter group; only where it changes.
    """

    rates: Mapping[str, np.ndarray]
    momenta: Mapping[str, np.ndarray]


def preview_schedule(settings: Settings, folder: Path) -> None:
    """Draws the learning rates of a run into ``schedule.png``, and prints the main numbers."""
    with tempfile.TemporaryDirectory() as run:
        trainer = build_untrained(settings, Path(run))
        record = record_schedule(trainer)
    name = settings.scheduler.name
    heading = f"{trainer.dataset.title}: schedule {name}, {trainer.steps_per_epoch} steps per epoch"
    figure = schedule_figure(record.rates, record.momenta, heading)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "schedule.png"
    save_figure(figure, file)
    print(file)
    print(heading)
    print(format_table(summary_rows(record.rates)))
    for label, values in record.momenta.items():
        print(f"momentum of {label}: from {values.min():.4g} to {values.max():.4g}")
    if settings.scheduler.span == "minutes":
        print(
            f"scheduler.span = minutes: the steps stand for trainer.max_minutes = "
            f"{settings.trainer.max_minutes:g} of training, whatever the number of steps"
        )
    if depends_on_training(trainer):
        print(
            f"scheduler.name = {name}: it reduces the rates when checkpoint.monitor = "
            f"{settings.checkpoint.monitor} stops improving, which cannot be predicted; these are "
            "the rates until its first reduction"
        )


def build_untrained(settings: Settings, run: Path) -> BaseTrainer:
    """The trainer of a new run, with the initial weights of the constructors."""
    loaders = build_training_loaders(settings)
    model = build_model(settings, loaders["train"].dataset)
    return build_trainer(settings, model, loaders, run)


def record_schedule(trainer: BaseTrainer) -> ScheduleRecord:
    """Sets the learning rates of all steps in turn, as `BaseTrainer.fit` does, and records them."""
    _ = trainer.schedulers  # built before the first step, because they set its rates
    groups = labelled_groups(trainer.optimizers)
    shape = (len(groups), trainer.total_steps)
    rates = np.zeros(shape)
    momenta = np.zeros(shape)
    with warnings.catch_warnings():
        # torch expects a step of the optimizer before that of the scheduler.
        warnings.filterwarnings("ignore", message=r".*optimizer\.step\(\)")
        for step in range(trainer.total_steps):
            trainer.set_learning_rates(step)
            for index, group in enumerate(groups.values()):
                rates[index, step] = float(group["lr"])
                momenta[index, step] = momentum_of(group)
            trainer.progress.step = step + 1
            trainer.step_schedulers()
    changing_momenta: dict[str, np.ndarray] = {}
    for label, values in zip(groups, momenta, strict=True):
        if (values != values[0]).any():
            changing_momenta[label] = values
    all_rates = dict(zip(groups, rates, strict=True))
    return ScheduleRecord(merge_equal(all_rates), merge_equal(changing_momenta))


def labelled_groups(optimizers: Sequence[Optimizer]) -> dict[str, dict[str, Any]]:
    """The parameter groups of all optimizers, by labels for the figure."""
    groups: dict[str, dict[str, Any]] = {}
    for optimizer_index, optimizer in enumerate(optimizers):
        for group_index, group in enumerate(optimizer.param_groups):
            label = group.get("name", "all other parameters")
            if len(optimizers) > 1:
                label = f"optimizer {optimizer_index}: {label}"
            if label in groups:
                label = f"{label} (group {group_index})"
            groups[label] = group
    return groups


def momentum_of(group: Mapping[str, Any]) -> float:
    """The momentum of a parameter group, or the first of its ``betas``; 0 without either."""
    if "betas" in group:
        return float(group["betas"][0])
    return float(group.get("momentum", 0))


def merge_equal(curves: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same curves, where equal ones share an entry; a single one is of all parameters."""
    labels: list[str] = []
    distinct: list[np.ndarray] = []
    counts: list[int] = []
    for label, values in curves.items():
        index = _index_of_equal(values, distinct)
        if index is None:
            labels.append(label)
            distinct.append(values)
            counts.append(1)
        else:
            counts[index] += 1
    if len(distinct) == 1:
        return {"all parameters": distinct[0]}
    merged: dict[str, np.ndarray] = {}
    for label, values, count in zip(labels, distinct, counts, strict=True):
        if count > 1:
            label = f"{label} and {count - 1} more"
        merged[label] = values
    return merged


def _index_of_equal(values: np.ndarray, others: Sequence[np.ndarray]) -> int | None:
    for index, other in enumerate(others):
        if np.array_equal(values, other):
            return index
    return None


def summary_rows(rates: Mapping[str, np.ndarray]) -> list[list[str]]:
    """A table with a row for each curve: first, highest and last rate, and the warm-up."""
    rows = [list(HEADER)]
    for label, values in rates.items():
        peak = int(values.argmax())
        rows.append(
            [
                f"rate of {label}",
                f"{values[0]:.4g}",
                f"{values[peak]:.4g}",
                f"{peak + 1} of {len(values)}",
                f"{values[-1]:.4g}",
                _warmup_of(values),
            ]
        )
    return rows


def _warmup_of(values: np.ndarray) -> str:
    """The number of steps in which the rate rises to its highest value."""
    peak = int(values.argmax())
    rises = (np.diff(values[: peak + 1]) >= 0).all()
    if peak == 0 or not rises:
        return "none"
    return f"{peak} steps"


def depends_on_training(trainer: BaseTrainer) -> bool:
    """Whether a scheduler depends on the results of validations."""
    return any(isinstance(scheduler, ReduceLROnPlateau) for scheduler in trainer.schedulers)
