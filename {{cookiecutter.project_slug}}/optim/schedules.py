"""Learning rate schedules: functions of the step alone, so that there is no state to save."""

import math
from collections.abc import Iterable

from torch.optim import Optimizer

from config.schema import Constant, Cosine, Exponential, OneCycle, Scheduler, StepDecay


def scale_learning_rates(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Sets the learning rate of each parameter group to `factor` times its initial rate."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            initial_rate = group.setdefault("initial_lr", group["lr"])
            group["lr"] = factor * initial_rate


def learning_rate_factor(
    schedule: Scheduler, step: int, total_steps: int, steps_per_epoch: int
) -> float:
    """The learning rate of a step, divided by the initial rate of its parameter group.

    Args:
        schedule: the settings of the schedule.
        step: optimizer steps that have been made before this one.
        total_steps: optimizer steps of the whole run.
        steps_per_epoch: optimizer steps of an epoch.
    """
    epoch = step // steps_per_epoch
    if isinstance(schedule, StepDecay):
        reductions = epoch // schedule.epochs
        return schedule.factor**reductions
    if isinstance(schedule, Exponential):
        return schedule.factor**epoch
    if isinstance(schedule, Constant):
        return 1.0
    return _warm_up_then_decay(schedule, step, total_steps)


def _warm_up_then_decay(schedule: Cosine | OneCycle, step: int, total_steps: int) -> float:
    warmup_steps = round(total_steps * schedule.warmup)
    if step < warmup_steps:
        progress = (step + 1) / (warmup_steps + 1)
        return schedule.start + (1 - schedule.start) * progress
    progress = (step - warmup_steps) / (total_steps - warmup_steps)
    if isinstance(schedule, Cosine):
        decay = (1 - math.cos(math.pi * progress)) / 2
    else:
        decay = progress
    return 1 - (1 - schedule.final) * decay
