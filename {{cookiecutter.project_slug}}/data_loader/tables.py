"""CSV files: read, checked, made where an example has none yet, and divided into splits."""

import csv
import hashlib
import io
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from data_loader.transforms import split_indices
from logger.console import log
from utils.errors import DATA_UNAVAILABLE, UserError
from utils.files import replace_file

PARTS = 6  # of which one is for the test; of the rest, one such part is for validation
LEAST = 20  # rows that can be divided
LARGEST = 1e38  # number that float32 holds, about
SEPARATORS = ",;\t|"

Row = dict[str, str]


def read_rows(file: Path, columns: Iterable[str] = ()) -> list[Row]:
    """The rows of a CSV file below its header, as texts by column, without spaces around them.

    What separates the cells is what the header has most of: comma, semicolon, tab or bar. Empty
    lines do not count.

    Args:
        file: in UTF-8.
        columns: those that must be there.

    Raises:
        UserError: naming the file, and row or column, if it is not such a table.
    """
    csv.field_size_limit(2**30)  # characters of a cell, which may be a document
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            header = stream.readline()
            stream.seek(0)
            separator = max(SEPARATORS, key=header.count)
            reader = csv.reader(stream, delimiter=separator, strict=True, skipinitialspace=True)
            names, *rows = [[cell.strip() for cell in row] for row in reader if row] or [[]]
            if not names:
                raise UserError(f"{file} is empty")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", f"save it as CSV in UTF-8 ({error})")
        raise UserError(f"{file}: cannot be read; {reason}") from error
    for column in columns:
        if column not in names:
            raise UserError(f"{file}: no column {column!r}; it has {', '.join(names)}")
    for name in filter(None, names):
        if names.count(name) > 1:
            raise UserError(f"{file}: there are {names.count(name)} columns {name!r}")
    for number, row in enumerate(rows, 1):
        if len(row) != len(names):
            text = f"row {number} below the header has {len(row)} cells, the header {len(names)}"
            raise UserError(f"{file}: {text}")
    return [dict(zip(names, row, strict=True)) for row in rows]


def read_data(file: Path, columns: Iterable[str], make: Callable[[Path], None] | None) -> list[Row]:
    """The rows of a data set's file; where there is none, `make` (if given) makes it.

    Raises:
        UserError: if the file is not there, is no such table, or has too few rows.
    """
    if make and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        make(file)
        log.info("made for this example, as a pattern for your own: %s", file)
    if not file.exists():
        text = f"{file} is not there; name your own by data.file, its folder by data.root"
        raise UserError(text, DATA_UNAVAILABLE)
    rows = read_rows(file, columns)
    if len(rows) < LEAST:
        raise UserError(f"{file}: {len(rows)} rows are too few; at least {LEAST} can be divided")
    return rows


def hash_of(file: Path) -> str:
    """A hash of what is in a file; where it changes, its rows come into other splits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def write_rows(file: Path, rows: Iterable[Sequence[object]]) -> None:
    """Makes a CSV file of rows, the header first."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    replace_file(file, text.getvalue().encode())


def parse_number(text: str) -> float | None:
    """The number that a cell means, NaN where it is empty; None if it is none, or too large."""
    if not text.strip():
        return math.nan
    try:
        return value if abs(value := float(text)) < LARGEST else None
    except ValueError:
        return None


def read_numbers(rows: Sequence[Row], column: str, gaps: bool = False) -> Tensor:
    """A column of numbers, float64, shape (N, 1); if it may have gaps, they are NaN.

    Raises:
        UserError: naming column, row and value, if one is no number.
    """
    values = []
    for number, row in enumerate(rows, 1):
        value = parse_number(row[column])
        if value is None or (math.isnan(value) and not gaps):
            place = f"column {column!r}, row {number} below the header"
            raise UserError(f"{place}: {row[column]!r} is no number")
        values.append(value)
    return torch.tensor(values, dtype=torch.float64).reshape(-1, 1)


def mean_and_std(values: Tensor) -> tuple[float, float]:
    """Mean and standard deviation; the latter 1 where there is none, as it is divided by."""
    exact = values.double()
    return exact.mean().item(), exact.std(correction=0).item() or 1.0


def class_indices(rows: Sequence[Row], column: str) -> tuple[list[str], Tensor]:
    """The classes in a column, in alphabetical order, and each row's, int64, shape (N,).

    Raises:
        UserError: naming the row, if a cell is empty, or if there is only one class.
    """
    names = sorted({row[column] for row in rows})
    if "" in names:
        number = next(k for k, row in enumerate(rows, 1) if not row[column])
        raise UserError(f"column {column!r}, row {number} below the header: no class is given")
    if len(names) < 2:
        raise UserError(f"column {column!r} has one class only: {names[0]!r}")
    if len(names) > len(rows) / 4:
        text = f"column {column!r} has {len(names)} classes in {len(rows)} rows, such as "
        raise UserError(f"{text}{names[0]!r}; are they numbers or texts, not classes?")
    place = {name: k for k, name in enumerate(names)}
    return names, torch.tensor([place[row[column]] for row in rows])


def divide(
    targets: Tensor, split: str, seed: int, classes: Sequence[str] = (), stratify: bool = True
) -> Tensor:
    """Which rows a split has, sorted, int64; each has the classes' (or values') shares of all.

    A sixth is for the test, always the same rows; a sixth of the others is for validation, as the
    seed says.

    Args:
        targets: classes or numbers of all rows, shape (N,).
        split: train, validation or test.
        seed: what the choice of the validation rows is drawn from.
        classes: their names.
        stratify: whether each split has their shares, or what chance gives it.

    Raises:
        UserError: if a split would have no row of a class.
    """
    given = targets
    if targets.is_floating_point():  # neighbours in size are as one class
        targets = targets.argsort(stable=True).argsort() // (5 * PARTS)
    if not stratify:
        targets = torch.zeros_like(targets)
    rest = split_indices(targets, "train", len(targets) // PARTS, seed=0)
    rows = {"test": split_indices(targets, "validation", len(targets) // PARTS, seed=0)}
    for part in ("train", "validation"):
        rows[part] = rest[split_indices(targets[rest], part, len(rest) // PARTS, seed)]
    for chosen in rows.values():
        for k in {*range(len(classes))} - {*given[chosen].tolist()}:
            count = int((given == k).sum())
            text = f"class {classes[k]!r} has {count} of {len(targets)} rows, too few for some in "
            raise UserError(f"{text}each split; leave it out, or bring {2 * PARTS} or more")
    return rows[split]
