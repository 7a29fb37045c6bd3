"""The result of a run: ``result.json`` says how it has ended, whatever has ended it."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from config.schema import Settings
from logger.console import log
from logger.meter import BYTES_PER_GIB, MEASURED_DEVICES
from logger.notification import describe_early_failure, describe_result, post
from utils.command import exit_code_of
from utils.errors import LOST_CONNECTION, UserError, describe_error, is_lost_connection
from utils.files import replace_file, sync_to_disk, to_json
from utils.ranks import is_main_process

FILE = "result.json"
RESERVED_FILE = ".result"
RESERVED_BYTES = 4096
MAX_ERROR_CHARACTERS = 300  # one may take up to twelve bytes


@contextmanager
def recording_result(trainer: Any, code: Mapping[str, Any]) -> Iterator[None]:
    """Within this context, a run trains; its end is recorded in the main process.

    The file of an earlier start is deleted. ``kill -9`` and a second signal leave no file. If an
    error occurs before the first checkpoint, the folder of a new run is deleted with the file.

    Args:
        trainer: a `BaseTrainer`.
        code: the commit, and whether files differ from it.
    """
    if not is_main_process():
        yield
        return
    folder = trainer.run
    with posting_failure(trainer.settings, folder):
        replace_file(folder / RESERVED_FILE, bytes(RESERVED_BYTES))
        (folder / FILE).unlink(missing_ok=True)
    try:
        yield
    except BaseException as error:
        _publish(trainer, build_result(trainer, code, error))
        raise
    _publish(trainer, build_result(trainer, code))


@contextmanager
def posting_failure(settings: Settings, run: Path | None) -> Iterator[None]:
    """Within this context, an error before training is posted to `logger.notify`.

    Args:
        settings: those of the run.
        run: the folder of a run that is resumed; None for a new run.
    """
    try:
        yield
    except BaseException as error:
        address = settings.logger.notify
        if address is not None and is_main_process():
            post(address, describe_early_failure(settings.run_name, run, _first_line(error)))
        raise


def _publish(trainer: Any, result: Mapping[str, Any]) -> None:
    _write(trainer.run, result)
    settings = trainer.settings
    if settings.logger.notify is not None:
        post(settings.logger.notify, describe_result(settings.run_name, trainer.run, result))


def read_result(folder: Path) -> dict[str, Any]:
    """The content of ``result.json``; empty if the run has not ended, or was killed."""
    try:
        result = json.loads((folder / FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(result, dict):
        return {}
    return result


def build_result(
    trainer: Any, code: Mapping[str, Any], error: BaseException | None = None
) -> dict[str, Any]:
    """How a run has ended, as plain data.

    Args:
        trainer: a `BaseTrainer`.
        code: the commit, and whether files differ from it.
        error: what has ended training, unless it was finished or stopped.
    """
    state = "finished"
    exit_code = 0
    message = None
    if error is not None:
        state = "failed"
        exit_code = exit_code_of(error)
        message = _first_line(error)
    elif trainer.was_stopped():
        state = "stopped"
        exit_code = 128 + trainer.stop_signal
    seconds = trainer.training_time.seconds
    return {
        "state": state,
        "exit_code": exit_code,
        "error": message,
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "step": trainer.progress.step,
        "total_steps": trainer.total_steps,
        "epoch": trainer.epoch if trainer.progress.step else 0,
        "best": _describe_best(trainer),
        "minutes": round(seconds / 60, 4),
        "samples_per_second": _samples_per_second(trainer, seconds),
        "peak_memory_gb": _peak_memory(trainer),
        "commit": code["commit"],
        "dirty": code["dirty"],
    }


def _first_line(error: BaseException) -> str:
    if isinstance(error, UserError):
        text = str(error).partition("\n")[0]
    elif is_lost_connection(error):
        text = LOST_CONNECTION
    elif isinstance(error, Exception):
        text = describe_error(error)
    else:
        text = f"{type(error).__name__}: {error}"
    return text[:MAX_ERROR_CHARACTERS]


def _describe_best(trainer: Any) -> dict[str, Any] | None:
    progress = trainer.progress
    if progress.best_step == 0:
        return None
    direction = "lowest"
    if trainer.higher_is_better(trainer.monitored_metric):
        direction = "highest"
    return {
        "metric": trainer.settings.checkpoint.monitor,
        "direction": direction,
        "value": progress.best,
        "step": progress.best_step,
    }


def _samples_per_second(trainer: Any, seconds: float) -> float | None:
    """The training samples of all steps, divided by the training time."""
    if seconds == 0:
        return None
    source = trainer.loaders["train"].source
    epochs, steps = divmod(trainer.progress.step, source.steps_per_epoch)
    samples = epochs * source.samples_per_epoch + steps * source.step_size
    return round(samples / seconds, 1)


def _peak_memory(trainer: Any) -> float | None:
    """The most memory that this start took, in GiB.

    On an accelerator, it is that of the tensors on it, otherwise that of the whole process.
    """
    device = trainer.device
    if device.type in MEASURED_DEVICES:
        # The allocator's record begins anew at each log entry.
        since_log_entry = torch.accelerator.max_memory_allocated(device) / BYTES_PER_GIB
        return round(max(since_log_entry, trainer.meter.peak_memory_gb), 3)
    if os.name != "posix":
        return None
    import resource  # Windows has no such module

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return round(peak * unit / BYTES_PER_GIB, 3)


def _write(folder: Path, result: Mapping[str, Any]) -> None:
    """Writes the result into the space that was reserved for it, because the disk may be full."""
    reserved = folder / RESERVED_FILE
    try:
        with reserved.open("r+b") as file:
            file.write(to_json(result).encode())
            file.truncate()
        sync_to_disk(reserved)
        reserved.replace(folder / FILE)
        sync_to_disk(folder)
    except OSError as error:  # must not hide what has ended training
        log.warning("%s cannot be written: %s", folder / FILE, error)
