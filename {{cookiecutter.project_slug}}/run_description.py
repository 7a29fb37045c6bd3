"""What train.py logs about a run before and after its training."""

from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from base.base_trainer import BaseTrainer
from config.differences import describe_settings
from config.reading import DEFAULT, read_file
from config.schema import Settings
from logger.console import format_table, log
from optim.moving_average import describe_short_average
from storage.run_result import read_result
from utils.command import next_command
from utils.errors import UserError
from utils.ranks import is_main_process, world_size


def describe_origin(
    settings: Settings, arguments: Namespace, saved: Mapping[str, Any] | None
) -> str:
    """Where the settings of a run come from, and which of them were changed.

    Args:
        settings: those of the run.
        arguments: those of the command line, with `config` and `settings`.
        saved: the settings in the checkpoint of a resumed run; None for a new run.
    """
    if saved is not None:
        return describe_settings(settings, saved, "those of the run", arguments.settings)
    file = arguments.config or DEFAULT
    try:
        values = read_file(file)
    except UserError:  # a pipe can be read once; a file may have been deleted since
        values = {}
    return describe_settings(settings, values, str(file), arguments.settings)


def log_start(trainer: BaseTrainer, changes: Sequence[str]) -> None:
    """Logs the model, the data, the device, the run folder, and how far the run has come.

    Args:
        trainer: the trainer of the run.
        changes: what ``--force`` has changed of a resumed run.
    """
    settings = trainer.settings
    if is_main_process():
        for change in changes:
            log.warning("--force: resuming with %s", change)
    if settings.trainer.strategy == "fsdp" and world_size() == 1:
        log.warning("trainer.strategy=fsdp has no effect: there is a single process")
    log.info("%s\n", format_table(trainer.model.summary()))
    log.info("%s on %s", trainer.dataset.title, describe_device(trainer))
    if settings.trainer.compile:
        log.info("trainer.compile: the first steps wait until the model is compiled")
    if settings.trainer.ema is not None:
        description = describe_short_average(settings.trainer.ema, trainer.total_steps)
        if description:
            log.info("%s", description)
    if settings.subset and is_main_process():
        log.warning("%s: the results are not those of all samples", settings.subset)
    log.info("run folder: %s", trainer.run)
    _log_progress(trainer)


def _log_progress(trainer: BaseTrainer) -> None:
    """Logs how far a resumed run has come, and how a finished one continues."""
    progress = trainer.progress
    if progress.step > 0:
        log.info("resuming from step %d", progress.step)
    if progress.stop_reason:
        log.info("the trainer ended the run at step %d: %s", progress.step, progress.stop_reason)
    elif trainer.stops_early and progress.step < trainer.total_steps:
        log.info("%s; trainer.early_stop=N continues it", trainer.describe_early_stop())
    elif trainer.training_time.is_up and progress.step < trainer.total_steps:
        end = trainer.training_time.describe_end(progress.step)
        log.info("%s; trainer.max_minutes=N continues it", end)
    elif trainer.is_finished():
        log.info(
            "all %d steps are done; %s=N extends the run", progress.step, _length_setting(trainer)
        )


def _length_setting(trainer: BaseTrainer) -> str:
    """The setting that limits the number of steps."""
    max_steps = trainer.options.max_steps
    if max_steps is not None and max_steps < trainer.options.epochs * trainer.steps_per_epoch:
        return "trainer.max_steps"
    return "trainer.epochs"


def log_end(trainer: BaseTrainer) -> None:
    """Logs the result of a run, and the commands that may follow."""
    run = trainer.run
    if is_main_process():
        for line in summarize_result(read_result(run), trainer.dataset.title):
            log.info("%s", line)
    if trainer.was_stopped():
        log.info("stopped; resume: %s", next_command("train.py", "--resume", run))
    else:
        if trainer.settings.logger.tensorboard:
            log.info("curves: %s", next_command("tensorboard", "--logdir", run))
        elif trainer.settings.logger.curves:
            log.info("curves: %s", run / "curves.png")
        log.info("evaluate: %s", next_command("evaluate.py", run))


def summarize_result(result: Mapping[str, Any], title: str) -> list[str]:
    """The best value of a run, and how long it took, a line for each.

    Args:
        result: the content of result.json; empty if it could not be written.
        title: the name of the data.
    """
    lines = []
    best = result.get("best")
    if best is not None:
        value = f"{best['value']:.6g} at step {best['step']:,}"
        lines.append(f"{title}: best {best['metric']} {value}")
    if result:
        line = f"{result['step']:,} of {result['total_steps']:,} steps in "
        line += f"{_short_number(result['minutes'])} minutes"
        if result["samples_per_second"] is not None:
            line += f", {result['samples_per_second']:,.0f} samples per second"
        lines.append(line)
    return lines


def _short_number(value: float) -> str:
    """Three digits, or all digits before the decimal point: ``0.123``, ``12.3``, ``1,440``."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def describe_device(trainer: BaseTrainer) -> str:
    """The device, the autocast dtype, and the number of processes."""
    dtype = str(trainer.autocast_dtype).removeprefix("torch.")
    description = f"{trainer.device} ({dtype})"
    if world_size() > 1:
        description += f", {world_size()} processes"
    if trainer.sharded:
        description += ", sharded"
    return description
