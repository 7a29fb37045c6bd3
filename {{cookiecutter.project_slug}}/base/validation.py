"""The results of a validation: recorded, logged, drawn, or undone after an error."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from logger.console import format_values, log
from logger.figures import Figure
from metrics.protocol import scalar_results
from storage.progress import Progress
from storage.state import copy_to_host, preserve_state
from utils.command import next_command
from utils.device import to_cpu
from utils.errors import describe_error
from utils.process_group import all_processes_fail, broadcast_object


@contextmanager
def undoing_on_error(trainer: Any, copies_state: bool) -> Iterator[None]:
    """Restores the progress if the block fails.

    Args:
        trainer: a `BaseTrainer`.
        copies_state: whether the rest of the state is restored as well, which needs a copy of it.
    """
    progress = trainer.progress.state_dict()
    state: dict[str, Any] | None = None
    if copies_state:
        state = copy_to_host(trainer.state_dict())
    try:
        yield
    except BaseException:
        trainer.progress.load_state_dict(progress)
        if state is not None:
            trainer.load_state_dict(state)
        raise


def record_validation(trainer: Any, all_results: Mapping[str, Mapping[str, Tensor]]) -> bool:
    """Records and logs the results of a validation; whether the model is the best so far.

    Logged last, because an error before it repeats the validation, which would be logged twice.
    """
    scalars: dict[str, dict[str, float]] = {}
    monitorable: dict[str, float] = {}
    for split, results in all_results.items():
        values = scalar_results(results)
        scalars[split] = values
        prefix = ""
        if split != "validation":
            prefix = f"{split}/"
        for name, value in values.items():
            monitorable[f"{prefix}{name}"] = value
    monitored_value = monitorable[trainer.settings.checkpoint.monitor]
    is_best = trainer.progress.record_validation(
        monitored_value,
        trainer.higher_is_better(trainer.monitored_metric),
        trainer.settings.checkpoint.keep_best,
    )
    trainer.step_schedulers(monitored_value)
    for split, values in scalars.items():
        trainer.run_log.scalars(split, trainer.epoch, trainer.progress.step, values)
    message = f"{trainer.dataset.title}: epoch {trainer.epoch}/{trainer.options.epochs}, "
    message += f"validation {format_values(monitorable)}"
    if is_best:
        message += "  (best so far)"
    log.info("%s", message)
    if trainer.stops_early and trainer.progress.step < trainer.total_steps:
        log.info("%s", trainer.describe_early_stop())
    return is_best


def describe_early_stop(progress: Progress, monitor: str) -> str:
    """Why `trainer.early_stop` ends the run before its last step, and the best value."""
    best = "no value was finite"
    if progress.best_step > 0:
        best = f"the best value is {progress.best:.4g}, of step {progress.best_step} (best.pt)"
    return (
        f"trainer.early_stop ends the run at step {progress.step}: {monitor} has not improved "
        f"(validations since then: {progress.validations_without_improvement}); {best}"
    )


def log_figures(trainer: Any, results: Mapping[str, Tensor], is_first: bool) -> None:
    """Draws the inputs at the first validation, and the results of the last one.

    Args:
        trainer: a `BaseTrainer`.
        results: those of the validation set.
        is_first: whether this is the first validation of the run.
    """
    if not trainer.run_log.takes_figures:
        return
    if is_first:
        _log_inputs(trainer)
    if trainer.is_finished():
        _log_results(trainer, results)


def log_missing_figures(trainer: Any) -> None:
    """Draws the results of a finished run whose last start was killed or failed before it did."""
    if not trainer.run_log.takes_figures:
        return
    is_complete = broadcast_object(trainer.run_log.is_complete(trainer.progress.step))
    if not is_complete:
        log.info("validating again: the figures of the last validation are missing")
        _log_results(trainer, trainer.evaluate("validation"))


def _log_inputs(trainer: Any) -> None:
    """Draws the first training batch; an error is a warning."""
    try:
        figures = _draw_inputs(trainer)
    except Exception as error:  # whatever the code of a data set may raise
        log.warning(
            "the training inputs were not drawn, training continues: %s", describe_error(error)
        )
        log.debug("traceback of the error", exc_info=True)
        return
    trainer.run_log.figures(figures, trainer.progress.step)


def _log_results(trainer: Any, results: Mapping[str, Tensor]) -> None:
    """Logs the final results, with their figures; an error while drawing is a warning.

    All processes draw, because `BaseTrainer.samples` exchanges values between them. The main
    process writes the figures.

    Raises:
        Exception: an error while drawing that only some of the processes have. The others may wait
            for these in an exchange, so they cannot continue together.
    """
    step = trainer.progress.step
    are_drawn = False
    try:
        figures = trainer.figures("validation", results)
        are_drawn = True
    except Exception as error:  # whatever the code of a project may raise
        if not all_processes_fail(f"drawing the results of step {step}"):
            raise
        log.warning(
            "%s.figures fails, so the figures of the last validation are missing: %s\n"
            "correct it, then draw them: %s",
            type(trainer).__name__,
            describe_error(error),
            next_command("train.py", "--resume", trainer.run),
        )
        log.debug("traceback of the error", exc_info=True)
    if are_drawn:
        trainer.run_log.figures(figures, step)
    trainer.run_log.finish(scalar_results(results), step, are_drawn)


def _draw_inputs(trainer: Any) -> dict[str, Figure]:
    """A figure of the first training batch, augmented; empty if the data set draws none."""
    with preserve_state(trainer.dataset, trainer.excluded_from_data_state):
        first_step = next(trainer.loaders["train"].steps(0, 1))
    batch = to_cpu(first_step.batches[0])
    figure = trainer.dataset.draw(batch, f"{trainer.dataset.title}: training inputs")
    if figure is None:
        return {}
    return {"inputs": figure}
