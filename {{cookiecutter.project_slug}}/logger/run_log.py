"""The record of a run: metrics.csv for programs, TensorBoard and a tracker for people."""

import csv
import io
import os
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from config.loading import flatten
from config.schema import Settings
from logger.console import log
from logger.figures import Figure, drawing_style
from utils.errors import RANK, UserError, explain
from utils.files import replace_file

PAUSE = 10.0  # seconds between two visits to the files
HEADER = ("data", "split", "epoch", "step", "metric", "value")


class RunLog:
    """Appends to the files of one run folder; of several processes, the first one does.

    Args:
        folder: the run folder.
        data: the data's name, which stands in every row.
        step: the step that the run is at; what was logged of later ones is dropped, as they will
            be done again.
        settings: all settings of the run; `logger` says what is written besides metrics.csv.

    Raises:
        OSError: if the folder cannot be written.
        UserError: if a run begins, and its tracker cannot be reached.
    """

    def __init__(self, folder: Path, data: str, step: int, settings: Settings) -> None:
        self.data, self.settings, options = data, settings, settings.logger
        self.illustrated = options.tensorboard or options.tracker != "none"
        file = Path(os.devnull) if RANK else folder / "metrics.csv"
        if not RANK:
            rows = list(csv.reader(file.read_text("utf-8").splitlines())) if file.exists() else []
            whole = [row for row in rows[1:] if len(row) == len(HEADER)]  # a kill may leave half
            kept = [row for row in whole if int(row[3]) <= step]
            replace_file(file, _as_csv([HEADER, *kept]))
        tracker = find_tracker(options.tracker)
        self.failures = (OSError, *tracker.failures) if tracker else (OSError,)
        try:
            self.tracker = tracker and tracker(folder, settings)
        except self.failures as error:
            if not step:
                text = f"logger.tracker = {options.tracker!r}: {explain(error)}"
                raise UserError(text) from error
            self._end("tracker", error)
        self.file = file.open("ab", buffering=2**20)  # rows wait there while a disk is full
        self.unwritten, self.written = list[Any](), time.monotonic()
        self.ended, self.board = "stopped", None
        if options.tensorboard and not RANK:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(folder / "tensorboard", purge_step=step + 1)
            self.board.add_text("data", data, step)

    def __enter__(self) -> "RunLog":
        self._usual, threading.excepthook = threading.excepthook, _told_by_next_call
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._write()
        self._show("board", "close")
        self._show("tracker", "close", "failed" if kind else self.ended)
        with suppress(OSError):  # which `sync` has told of
            self.file.close()
        threading.excepthook = self._usual

    def scalars(self, split: str, epoch: int, step: int, values: Mapping[str, float]) -> None:
        """Notes values; they are written after a while, as every visit to the files takes time."""
        self.unwritten.append((time.time(), split, epoch, step, values))
        if time.monotonic() > self.written + PAUSE:
            self._write()

    def figures(self, pictures: Mapping[str, Figure], step: int) -> None:
        """Shows figures, by their names."""
        for name, figure in pictures.items():
            self._show("tracker", "picture", name, figure, step)
            with drawing_style():  # no warnings about missing glyphs
                self._show("board", "add_figure", name, figure, step)

    def conclude(self, results: Mapping[str, float]) -> None:
        """Notes that training is done, and enters settings and results into TensorBoard's table."""
        self.ended = "finished"
        flat = flatten(self.settings.model_dump(mode="json")).items()
        plain = {k: v if isinstance(v, bool | int | float) else str(v) for k, v in flat}
        finals = {f"final/{name}": value for name, value in results.items()}
        self._show("board", "add_hparams", plain, finals, None, ".")

    def sync(self) -> None:
        """Makes durable what was logged so far.

        Raises:
            OSError: if that is impossible.
        """
        self._write()
        self.file.flush()
        os.fsync(self.file.fileno())
        self._show("board", "flush")

    def _write(self) -> None:
        """One row of metrics.csv for each value, and one event of TensorBoard for all of a step.

        The tracker gets all at once.
        """
        for when, split, epoch, step, values in self.unwritten:
            start = (self.data, split, epoch, step)
            with suppress(OSError):  # the next row or `sync` tries again
                self.file.write(_as_csv([(*start, k, f"{v:.9g}") for k, v in values.items()]))
            if self.board:
                tagged = {f"{split}/{name}": value for name, value in values.items()}
                self._show("board", "file_writer.add_summary", _as_summary(tagged), step, when)
        with suppress(OSError):
            self.file.flush()
        if self.unwritten:
            self._show("tracker", "scalars", self.unwritten)
        self.unwritten, self.written = [], time.monotonic()

    def _show(self, writer: str, method: str, *arguments: Any) -> None:
        """Calls a method of `board` or `tracker`, which cannot go on after an error."""
        try:
            if target := getattr(self, writer):
                attrgetter(method)(target)(*arguments)
        except self.failures as error:
            self._end(writer, error)

    def _end(self, writer: str, error: Exception) -> None:
        setattr(self, writer, None)
        what = "TensorBoard's files end" if writer == "board" else "what the tracker is sent ends"
        log.warning("%s here, metrics.csv goes on: %s", what, explain(error))


def find_tracker(name: str) -> Any:
    """The class ``Tracker`` of ``logger/<name>_tracker.py``; None for ``none``.

    Only the first of several processes has it.

    Raises:
        UserError: if there is no such file, or its package is missing.
    """
    files = Path(__file__).parent.glob("*_tracker.py")
    there = ["none", *sorted(file.stem.removesuffix("_tracker") for file in files)]
    if name not in there:
        raise UserError(f"logger.tracker = {name[:60]!r}: here it is one of {', '.join(there)}")
    if RANK or name == "none":
        return None
    try:
        return import_module(f"logger.{name}_tracker").Tracker
    except ModuleNotFoundError as error:
        raise UserError(f"{error.name} is missing; pip install -e '.[{name}]' brings it") from error


def _told_by_next_call(problem: threading.ExceptHookArgs) -> None:
    """Says nothing of a disk that fails TensorBoard's thread: the next call is told it."""
    if not isinstance(problem.exc_value, OSError):
        threading.__excepthook__(problem)


def _as_summary(values: Mapping[str, float]) -> Any:
    """TensorBoard's form of scalars by tag."""
    from tensorboard.compat.proto.summary_pb2 import Summary

    return Summary(value=[Summary.Value(tag=k, simple_value=v) for k, v in values.items()])


def _as_csv(rows: Iterable[Sequence[object]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()
