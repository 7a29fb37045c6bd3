"""Reports what another length of a resumed run changes."""

from collections.abc import Mapping
from typing import Any

from base.base_trainer import BaseTrainer
from logger.console import log
from optim.schedulers import build_schedule


def log_new_length(trainer: BaseTrainer, saved: Mapping[str, Any]) -> None:
    """Logs what other values of `trainer.epochs` and `trainer.max_steps` than before change.

    Args:
        trainer: the trainer of the resumed run.
        saved: the settings of the trainer in the checkpoint.
    """
    changes = []
    for name in ("epochs", "max_steps"):
        value = getattr(trainer.options, name)
        if value != saved[name]:
            changes.append(f"trainer.{name} {saved[name]} -> {value}")
    describe_new_time(trainer, saved.get("max_minutes"))
    steps_before = saved["epochs"] * trainer.steps_per_epoch
    if saved["max_steps"] is not None:
        steps_before = min(steps_before, saved["max_steps"])
    total_steps = trainer.total_steps
    if total_steps == steps_before:
        return
    change = ", ".join(changes)
    effect = describe_new_rate(trainer, steps_before)
    if effect:
        log.warning("%s: %s", change, effect)
    elif total_steps < steps_before:
        log.warning("%s: the run ends at step %d instead of %d", change, total_steps, steps_before)


def describe_new_time(trainer: BaseTrainer, minutes_before: float | None) -> None:
    """Logs that a schedule over the training time spans another time."""
    minutes = trainer.options.max_minutes
    if trainer.settings.scheduler.span == "minutes" and minutes != minutes_before:
        log.warning(
            "trainer.max_minutes %s -> %s: the learning rate follows the new time",
            minutes_before,
            minutes,
        )


def describe_new_rate(trainer: BaseTrainer, steps_before: int) -> str:
    """What another number of steps changes in the learning rate; empty if it changes nothing.

    Args:
        trainer: the trainer of the resumed run.
        steps_before: the number of steps of the whole run, according to the checkpoint.
    """
    name = trainer.settings.scheduler.name
    for scheduler in trainer.schedulers:
        if getattr(scheduler, "total_steps", None) == steps_before:
            return (
                f"the run ends at step {trainer.total_steps} instead of {steps_before}, but the "
                f"resumed schedule {name} remains one of {steps_before} steps"
            )
    step = trainer.progress.step
    if step >= trainer.total_steps or trainer.is_finished():
        return ""
    sets_rates_itself = type(trainer).set_learning_rates is not BaseTrainer.set_learning_rates
    spans_minutes = trainer.settings.scheduler.span == "minutes"
    if trainer.schedule is None or sets_rates_itself or spans_minutes:
        return ""
    schedule_before = build_schedule(
        trainer.settings.scheduler, steps_before, trainer.steps_per_epoch
    )
    assert schedule_before is not None
    compared_step = min(step, steps_before - 1)  # the last step of a run that was complete
    group = trainer.optimizers[0].param_groups[0]
    highest_rate = float(group.get("initial_lr", group["lr"]))
    rate = f"{highest_rate * trainer.schedule(step):.3g}"
    rate_before = f"{highest_rate * schedule_before(compared_step):.3g}"
    if rate == rate_before:
        return ""
    if compared_step < step:
        rate_before += f" as in step {step}"
    return (
        f"the learning rate of step {step + 1} becomes {rate} instead of {rate_before}, because "
        f"the schedule {name} covers {trainer.total_steps} steps instead of {steps_before}"
    )
