"""Lines and progress bars for people; lines alone where nobody looks at a terminal."""

import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.contrib import DummyTqdmFile

from utils.ranks import rank

log = logging.getLogger("run")


def configure_logging(file: Path | None = None) -> None:
    """Sends log lines to the console and, from the debug level on, to `file`.

    Of several processes, only the first one says more than warnings.
    """
    logging.raiseExceptions = False  # a full disk is told of once, by the trainer
    log.setLevel(logging.DEBUG)
    for handler in log.handlers:
        handler.close()
    log.handlers = [logging.StreamHandler(DummyTqdmFile(sys.stdout))]  # above progress bars
    log.handlers[0].setLevel(logging.WARNING if rank() else logging.INFO)
    if rank():
        log.handlers[0].setFormatter(logging.Formatter(f"[rank {rank()}] %(message)s"))
    if file is not None and rank() == 0:
        log.addHandler(logging.FileHandler(file, encoding="utf-8"))
        log.handlers[1].setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))


def progress_bar(total: int, text: str, initial: int = 0) -> "tqdm[Any]":
    """A progress bar that goes away when done, and is not there without a terminal."""
    off = True if rank() else None
    return tqdm(total=total, desc=text, initial=initial, leave=False, disable=off, unit="step")


def format_values(values: Mapping[str, float]) -> str:
    """Values in one line, of four digits: ``loss 0.3712  accuracy 0.8600``."""
    return "  ".join(f"{name} {value:#.4g}".rstrip(".") for name, value in values.items())


def format_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of text, the header first, in columns; numbers to the right."""
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths, strict=True)]
        lines.append("  ".join([name.ljust(first), *padded]))
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
