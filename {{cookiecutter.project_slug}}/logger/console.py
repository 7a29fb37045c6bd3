"""Log lines and progress bars on the console, and tables and values as text."""

import importlib.util
import logging
import math
import re
import shutil
import sys
import unicodedata
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

from utils.colours import YELLOW, coloured
from utils.files import discard_output
from utils.ranks import is_main_process, rank

# Control characters, spaces without a width, marks of the writing direction, undecodable bytes.
INVISIBLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
MAX_EARLY_RECORDS = 1000  # log lines that are kept before the file of the log is known
MAX_NAME_COLUMNS = 24  # of a name in a figure, see `display_width`
TITLE_PART = 3  # the title of a progress bar has at most a third of the terminal's width
UNLIMITED_WIDTH = 100_000  # of an output that is no terminal
LARGE_NUMBER = 1e6  # six digits would hide its fraction

log = logging.getLogger("run")


class QuietHandler(logging.Handler):
    """Prints no traceback for an OSError: the trainer reports a full disk once."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Reports errors other than an OSError as logging does."""
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)


class ConsoleHandler(QuietHandler, logging.StreamHandler[Any]):
    """Writes log lines to the console.

    If the reader of the output has exited, as in `| head`, training continues without a console:
    train.log contains all lines. Warnings are yellow on a terminal.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Formats a line."""
        text = super().format(record)
        if record.levelno == logging.WARNING:
            return coloured(text, YELLOW, self.stream)
        return text

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Discards further output after the pipe was closed."""
        if isinstance(sys.exc_info()[1], BrokenPipeError):
            discard_output(sys.stdout)
            log.warning("the reader of the output has exited; training continues without it")
        super().handleError(record)


class EarlyRecords(logging.Handler):
    """Keeps the last log lines until the file of the log is known."""

    def __init__(self) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque(maxlen=MAX_EARLY_RECORDS)

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps a line."""
        self.records.append(record)


class FileHandler(QuietHandler, logging.FileHandler):
    """Writes log lines to a file."""


def configure_logging(file: Path | None = None) -> None:
    """Sends log lines to the console and, from debug level on, to `file`.

    What has been logged before the file was known is written to it, too. Of several processes, all
    but the first one log only warnings, and none to the file.
    """
    log.setLevel(logging.DEBUG)
    earlier_records: list[logging.LogRecord] = []
    for handler in log.handlers:
        if isinstance(handler, EarlyRecords):
            earlier_records += handler.records
        handler.close()
    console = ConsoleHandler(DummyTqdmFile(sys.stdout))  # which writes above progress bars
    console.setLevel(logging.INFO)
    if rank() > 0:
        console.setLevel(logging.WARNING)
        console.setFormatter(logging.Formatter(f"[rank {rank()}] %(message)s"))
    log.handlers = [console]
    if file is None:
        log.addHandler(EarlyRecords())
    elif is_main_process():
        file_handler = FileHandler(file, encoding="utf-8", errors="backslashreplace")
        file_handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        log.addHandler(file_handler)
        for record in earlier_records:
            file_handler.handle(record)


def progress_bar(total: int, text: str, initial: int = 0) -> "tqdm[Any]":
    """Creates a progress bar, which disappears when it is done.

    The first process shows it, on a terminal or in a notebook; elsewhere, as in the log of a
    cluster, there is none.
    """
    bar_class: type[tqdm[Any]] = tqdm
    disable = None  # tqdm shows no bar without a terminal
    if in_notebook():
        bar_class = _notebook_bar()
        disable = False
    if rank() > 0:
        disable = True
    return bar_class(
        total=total,
        desc=shorten(text, shutil.get_terminal_size().columns // TITLE_PART),
        initial=initial,
        leave=False,
        disable=disable,
        unit="step",
        dynamic_ncols=True,
    )


def in_notebook() -> bool:
    """Whether the code runs in a cell of a Jupyter notebook."""
    ipython = sys.modules.get("IPython")
    if ipython is None:
        return False
    return hasattr(ipython.get_ipython(), "kernel")


def _notebook_bar() -> "type[tqdm[Any]]":
    """The class of a bar that is drawn by the notebook, or of text if it lacks ipywidgets."""
    if importlib.util.find_spec("ipywidgets") is None:
        return tqdm
    from tqdm.notebook import tqdm_notebook

    return tqdm_notebook


def output_width() -> int:
    """The width of the terminal in characters; unlimited for a file or a pipe."""
    if sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return UNLIMITED_WIDTH


def format_values(values: Mapping[str, float]) -> str:
    """Formats values in one line with four digits: ``loss 0.3712  accuracy 0.8600``."""
    parts = []
    for name, value in values.items():
        number = f"{value:#.4g}".rstrip(".")
        parts.append(f"{name} {number}")
    return "  ".join(parts)


def format_number(value: float) -> str:
    """Formats a number with six digits, but a large one, such as a timestamp, with fifteen."""
    if abs(value) < LARGE_NUMBER:
        return f"{value:.6g}"
    return f"{value:.15g}"


def format_interval(low: float, high: float) -> str:
    """An interval with as many decimals as two digits of its width: ``0.927 to 0.937``."""
    width = high - low
    if width == 0:
        return f"{low:.6g} to {high:.6g}"
    decimals = max(1 - math.floor(math.log10(width)), 0)
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


def escape_invisible(text: str) -> str:
    """Escapes characters that a terminal does not show, or that it takes for commands."""
    return INVISIBLE.sub(lambda match: repr(match[0])[1:-1], text)


def display_width(text: str) -> int:
    """The number of columns of a terminal: two for a Chinese, Japanese or Korean character."""
    width = 0
    for character in text:
        if unicodedata.combining(character):
            continue
        width += 1
        if unicodedata.east_asian_width(character) in "WF":
            width += 1
    return width


def shorten(name: str, columns: int = MAX_NAME_COLUMNS) -> str:
    """A name with an ellipsis in its middle, unless it is short: names may differ at their end."""
    if display_width(name) <= columns:
        return name
    columns = max(columns, 1)  # that of the ellipsis
    start = name[:columns]
    while display_width(start) > columns // 2:
        start = start[:-1]
    end = name[-columns:]
    while display_width(end) > columns - columns // 2 - 1:
        end = end[1:]
    return f"{start}…{end}"


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Formats rows of text, the header first; all columns but the first are right-aligned."""
    rows = [[escape_invisible(cell) for cell in row] for row in rows]
    columns = zip(*rows, strict=True)
    widths = [max(display_width(cell) for cell in column) for column in columns]
    lines = []
    for row in rows:
        cells = [row[0].ljust(_length_for(row[0], widths[0]))]
        for cell, width in zip(row[1:], widths[1:], strict=True):
            cells.append(cell.rjust(_length_for(cell, width)))
        lines.append("  ".join(cells))
    width = sum(widths) + 2 * (len(widths) - 1)
    rule = "-" * width
    return "\n".join([lines[0], rule, *lines[1:]])


def _length_for(cell: str, width: int) -> int:
    """The length to which spaces must extend a cell, so that it has a width on the terminal."""
    return len(cell) + width - display_width(cell)
