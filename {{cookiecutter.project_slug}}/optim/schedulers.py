"""Builds the learning rate schedule that the settings name."""

import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR, ReduceLROnPlateau

from config.classes import find_component
from config.constructors import changed_arguments, constructor_parameters
from config.schema import SchedulerSettings
from utils.errors import UserError, naming_source

Schedule = Callable[[int], float]
MAX_CHECKED_STEPS = 1000


def build_schedule(
    options: SchedulerSettings, total_steps: int, steps_per_epoch: int
) -> Schedule | None:
    """The schedule as a function of the step; None if the settings name a class of torch.

    Raises:
        UserError: if a class of torch is combined with `scheduler.warmup`. The schedule itself
            raises one if its function fails, or returns no finite number.
    """
    function: Any = find_component(SchedulerSettings, options.name)
    if not inspect.isfunction(function):
        if options.warmup > 0:
            raise UserError(
                f"scheduler.warmup = {options.warmup}: {options.name} has no warm-up; use a "
                "function of optim/schedules.py, or override `schedulers` in your trainer"
            )
        return None
    warmup_steps = round(total_steps * options.warmup)
    constants = {
        "warmup_steps": warmup_steps,
        "total_steps": total_steps,
        "steps_per_epoch": steps_per_epoch,
    }
    arguments = _accepted(function, constants) | changed_arguments(function, options)

    def schedule(step: int) -> float:
        if step < warmup_steps:
            progress = (step + 1) / (warmup_steps + 1)
            return options.start + (1 - options.start) * progress
        progress = (step - warmup_steps) / (total_steps - warmup_steps)
        varying = _accepted(function, {"step": step, "progress": progress})
        source = f"scheduler.name = {options.name!r}: step {step + 1} of {total_steps}"
        with naming_source(source):
            factor = float(function(**arguments, **varying))
        if not (math.isfinite(factor) and factor >= 0):
            raise UserError(f"{source} has the rate {factor}; return a finite number >= 0")
        return factor

    return schedule


def check_span(options: SchedulerSettings, max_minutes: float | None) -> None:
    """Checks that a schedule over the training time is a function, and that this time is set.

    Raises:
        UserError: if it is not.
    """
    if options.span == "steps":
        return
    problem = f"scheduler.span = {options.span!r}"
    if not inspect.isfunction(find_component(SchedulerSettings, options.name)):
        raise UserError(
            f"{problem}: {options.name} counts its steps; use a function of optim/schedules.py, or "
            "scheduler.span=steps"
        )
    if max_minutes is None:
        raise UserError(f"{problem}: set trainer.max_minutes, the time that the schedule spans")


def check_schedule(schedule: Schedule, total_steps: int) -> None:
    """Computes up to a thousand rates of a run, so that errors show before training.

    Raises:
        UserError: if one is not a finite number, or the function fails.
    """
    stride = max(1, total_steps // MAX_CHECKED_STEPS)
    for step in (*range(0, total_steps, stride), total_steps - 1):
        schedule(step)


def build_schedulers(
    options: SchedulerSettings,
    optimizers: Iterable[Optimizer],
    total_steps: int,
    steps_per_epoch: int,
) -> list[LRScheduler]:
    """A scheduler of torch for each optimizer; none if the settings name a function.

    Raises:
        UserError: if the class rejects its arguments.
    """
    scheduler_class = find_component(SchedulerSettings, options.name)
    if inspect.isfunction(scheduler_class):
        return []
    given = {"total_steps": total_steps, "steps_per_epoch": steps_per_epoch}
    arguments = _accepted(scheduler_class, given) | changed_arguments(scheduler_class, options)
    schedulers = []
    for optimizer in optimizers:
        try:
            schedulers.append(scheduler_class(optimizer, **arguments))
        except (TypeError, ValueError) as error:
            raise UserError(f"scheduler.name = {options.name!r}: {error}") from error
    return schedulers


def check_direction(
    schedulers: Iterable[LRScheduler], monitor: str, higher_is_better: bool
) -> None:
    """Checks that each ReduceLROnPlateau waits for the monitored metric to become better.

    Raises:
        UserError: if it waits for the opposite.
    """
    mode = "max" if higher_is_better else "min"
    for scheduler in schedulers:
        if isinstance(scheduler, ReduceLROnPlateau) and scheduler.mode != mode:
            raise UserError(
                f"scheduler.mode = {scheduler.mode!r} does not fit checkpoint.monitor = "
                f"{monitor!r}; set scheduler.mode={mode}"
            )


def check_total_steps(
    schedulers: Iterable[LRScheduler],
    options: SchedulerSettings,
    total_steps: int,
    steps_per_epoch: int,
) -> None:
    """Checks that a restored OneCycleLR, which keeps its `total_steps`, reaches the end of the run.

    Raises:
        UserError: if it would fail before.
    """
    calls = total_steps
    if options.interval == "epoch":
        calls = math.ceil(total_steps / steps_per_epoch)
    for scheduler in schedulers:
        if isinstance(scheduler, OneCycleLR) and calls > scheduler.total_steps:
            raise UserError(
                f"scheduler.name = {options.name!r}: it was built for {scheduler.total_steps} "
                f"steps and cannot make {calls}; leave trainer.epochs and trainer.max_steps as "
                "they were, or start a new run with model.init_from"
            )


def scale_learning_rates(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Sets the learning rate of each parameter group to `factor` times its highest rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            highest_rate = group.setdefault("initial_lr", group["lr"])
            group["lr"] = factor * highest_rate


def _accepted(component: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the given arguments that a function or class has as parameters."""
    parameters = _parameters(component)
    return {name: value for name, value in given.items() if name in parameters}


@cache
def _parameters(component: Any) -> Mapping[str, Any]:
    return constructor_parameters(component)
