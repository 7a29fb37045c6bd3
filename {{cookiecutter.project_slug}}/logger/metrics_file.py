"""The rows of metrics.csv, which may be damaged or incomplete."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

CSV_HEADER = ("data", "split", "epoch", "step", "metric", "value")


class MetricsRow(NamedTuple):
    """A row of metrics.csv; the value is the text in the file, which is a number."""

    data: str
    split: str
    epoch: int
    step: int
    metric: str
    value: str


def read_rows(file: Path) -> list[MetricsRow]:
    """The rows below the header, without those that are damaged.

    Raises:
        OSError: if the file cannot be read.
    """
    # A process that was killed may leave half a row.
    complete, _, _ = file.read_bytes().rpartition(b"\n")
    # A machine that lost its power may leave zeros in the place of the last rows.
    text = complete.decode(errors="replace").replace("\0", "")
    # Not `splitlines`, which also splits at U+2028 and form feeds, as a title may contain them.
    _header, *lines = text.split("\n")
    rows = []
    for line in lines:
        row = _read_row(line)
        if row is not None:
            rows.append(row)
    return rows


def _read_row(line: str) -> MetricsRow | None:
    """A row; None if it is damaged."""
    try:
        # Each line by itself: a stray quotation mark would hide all lines after it.
        (cells,) = csv.reader([line])
        data, split, epoch, step, metric, value = cells
        float(value)
        return MetricsRow(data, split, int(epoch), int(step), metric, value)
    except (ValueError, csv.Error):
        return None


def as_csv(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as the content of a CSV file."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")
