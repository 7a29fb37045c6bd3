"""The log of a run: metrics.csv for programs, TensorBoard and a tracker for people."""

import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from config.schema import Settings
from logger.console import log
from logger.figures import Figure
from logger.log_writer import LogEntry, LogWriter
from logger.metrics_file import CSV_HEADER, MetricsRow, as_csv, read_rows
from utils.errors import UserError, describe_error
from utils.files import replace_file
from utils.ranks import is_main_process

WRITE_INTERVAL_SECONDS = 10.0
CSV_BUFFER_BYTES = 2**20
EXTRAS = ("mlflow", "wandb")  # trackers whose packages are extras in pyproject.toml
FINISHED_FILE = ".finished"  # the step whose results and figures are the final ones


class RunLog:
    """Writes the log of one run folder, in the main process only.

    An error of TensorBoard or of the tracker does not end training: the log continues without it.

    Args:
        folder: the run folder.
        title: the name of the data, which is in every row.
        settings: all settings of the run; `logger` says what is written besides metrics.csv.
    """

    def __init__(self, folder: Path, title: str, settings: Settings) -> None:
        self.folder = folder
        self.title = title
        self.settings = settings
        self.takes_figures = settings.logger.tensorboard or settings.logger.tracker != "none"
        self._writers: list[LogWriter] = []
        self._entries: list[LogEntry] = []
        self._end_state = "stopped"

    @contextmanager
    def open(self, step: int) -> Iterator[None]:
        """Opens the files at the beginning of training, and closes them at its end.

        Args:
            step: the step that the run is at; entries of later steps are deleted, because these
                steps are about to be repeated.

        Raises:
            OSError: if the folder cannot be written.
            UserError: if a new run cannot reach its tracker.
        """
        self._end_state = "stopped"
        self._last_write_time = time.monotonic()
        self._file = self._open_csv(step)
        if is_main_process() and self._finished_step() > step:
            (self.folder / FINISHED_FILE).unlink()
        try:
            with _ignoring_disk_errors_in_threads():
                self._open_writers(step)
                yield
        except BaseException:
            self._end_state = "failed"
            raise
        finally:
            self._write()
            for writer in self._writers:
                try:
                    writer.close(self._end_state)
                except Exception as error:  # whatever the library or a tracker of a project raises
                    _warn_about(writer.description, error)
            with suppress(OSError):  # `flush` has reported it
                self._file.close()

    def _open_csv(self, step: int) -> BinaryIO:
        if not is_main_process():
            return Path(os.devnull).open("ab")
        file = self.folder / "metrics.csv"
        replace_file(file, as_csv([CSV_HEADER, *_rows_up_to(file, step)]))
        # Rows stay in the buffer while a disk is full.
        return file.open("ab", buffering=CSV_BUFFER_BYTES)

    def _open_writers(self, step: int) -> None:
        self._writers = []
        tracker_class = find_tracker(self.settings.logger.tracker)
        if tracker_class is not None:
            try:
                self._writers.append(tracker_class(self.folder, self.settings))
            except (OSError, *tracker_class.failures) as error:
                if step == 0:
                    tracker = self.settings.logger.tracker
                    raise UserError(
                        f"logger.tracker = {tracker!r}: {describe_error(error)}"
                    ) from error
                _warn_about(tracker_class.description, error)
        if self.settings.logger.tensorboard and is_main_process():
            from logger.tensorboard import TensorBoard  # takes 0.3 s to import

            try:
                tensorboard = TensorBoard(self.folder, self.settings, self.title, step)
            except Exception as error:  # whatever the library may raise
                _warn_about(TensorBoard.description, error)
            else:
                self._writers.append(tensorboard)

    def scalars(self, split: str, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Adds an entry; entries are written every few seconds, as writing takes time."""
        self._entries.append(LogEntry(time.time(), split, epoch, step, values))
        if time.monotonic() > self._last_write_time + WRITE_INTERVAL_SECONDS:
            self._write()

    def figures(self, figures: Mapping[str, Figure], step: int) -> None:
        """Adds figures by name."""
        for name, figure in figures.items():
            for writer in list(self._writers):
                with self._dropping_on_failure(writer):
                    writer.figure(name, figure, step)

    def finish(self, results: Mapping[str, float], step: int, has_figures: bool) -> None:
        """Records that training is complete, with its final results.

        Args:
            results: the scalars of the last validation.
            step: the last step.
            has_figures: whether the figures of the last validation were added. If they were not, a
                resumed run tries again, see `is_complete`.
        """
        self._end_state = "finished"
        for writer in list(self._writers):
            with self._dropping_on_failure(writer):
                writer.add_results(results)
                writer.flush()
        if has_figures and is_main_process():
            with suppress(OSError):  # a resumed run adds them again
                replace_file(self.folder / FINISHED_FILE, str(step).encode())

    def is_complete(self, step: int) -> bool:
        """Whether the results and the figures of the last step were added; for the main process."""
        return self._finished_step() == step

    def _finished_step(self) -> int:
        """The step of the final results and figures; 0 if they were not added."""
        try:
            return int((self.folder / FINISHED_FILE).read_text())
        except (OSError, ValueError):  # there is none, or it is damaged
            return 0

    def flush(self) -> None:
        """Makes all entries durable.

        Raises:
            OSError: if they cannot be written.
        """
        self._write()
        self._file.flush()
        os.fsync(self._file.fileno())
        for writer in list(self._writers):
            with self._dropping_on_failure(writer):
                writer.flush()

    def _write(self) -> None:
        """Writes the waiting entries: a row of metrics.csv for each value."""
        for entry in self._entries:
            rows = []
            for name, value in entry.values.items():
                rows.append(
                    (self.title, entry.split, entry.epoch, entry.step, name, f"{value:.9g}")
                )
            with suppress(OSError):  # the next row or `flush` tries again
                self._file.write(as_csv(rows))
        with suppress(OSError):
            self._file.flush()
        if self._entries:
            for writer in list(self._writers):
                with self._dropping_on_failure(writer):
                    writer.scalars(self._entries)
        self._entries = []
        self._last_write_time = time.monotonic()

    @contextmanager
    def _dropping_on_failure(self, writer: LogWriter) -> Iterator[None]:
        """After a failure, the log continues without this writer."""
        try:
            yield
        except Exception as error:  # whatever the library or a tracker of a project may raise
            self._writers.remove(writer)
            _warn_about(writer.description, error)
            with suppress(Exception):  # such as the same one again
                writer.abandon()


@contextmanager
def _ignoring_disk_errors_in_threads() -> Iterator[None]:
    """Prints no traceback if TensorBoard's thread cannot write: the next call reports it.

    Errors of other threads, which may be those of a project, are printed.
    """
    previous_hook = threading.excepthook

    def hook(problem: threading.ExceptHookArgs) -> None:
        is_of_tensorboard = type(problem.thread).__module__.startswith("tensorboard.")
        if is_of_tensorboard and isinstance(problem.exc_value, OSError):
            return
        previous_hook(problem)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = previous_hook


def find_tracker(name: str) -> Any:
    """The class ``Tracker`` of ``logger/<name>_tracker.py``; None for ``none``.

    Only the main process of several has a tracker.

    Raises:
        UserError: if there is no such file, its package is missing, or it has no such class.
    """
    files = Path(__file__).parent.glob("*_tracker.py")
    available = ["none", *sorted(file.stem.removesuffix("_tracker") for file in files)]
    if name not in available:
        raise UserError(f"logger.tracker = {name[:60]!r}: use one of {', '.join(available)}")
    if name == "none" or not is_main_process():
        return None
    try:
        module = import_module(f"logger.{name}_tracker")
    except ModuleNotFoundError as error:
        advice = f"install {error.name} in this environment"
        if name in EXTRAS:
            advice = f"pip install -e '.[{name}]'"
        raise UserError(
            f"logger.tracker = {name!r} requires the package {error.name}; {advice}"
        ) from error
    if not hasattr(module, "Tracker"):
        raise UserError(
            f"logger.tracker = {name!r}: {module.__file__} has no class Tracker; define it, as a "
            "subclass of LogWriter in logger/log_writer.py"
        )
    return module.Tracker


def _rows_up_to(file: Path, step: int) -> list[MetricsRow]:
    """The rows of a file that are not of later steps; none if there is no file."""
    if not file.exists():
        return []
    return [row for row in read_rows(file) if row.step <= step]


def _warn_about(description: str, error: Exception) -> None:
    log.warning(
        "logging to %s has stopped, metrics.csv continues: %s", description, describe_error(error)
    )
