"""CSV files as lists of rows."""

import csv
import hashlib
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from data_loader.unicode_forms import normalize_name
from logger.console import log
from utils.errors import DATA_UNAVAILABLE, UserError
from utils.files import replace_file

MIN_ROWS = 20  # fewer cannot be divided into splits
MAX_CELL_CHARACTERS = 2**30  # a cell may be a document; the default of `csv` is 2**17
DELIMITERS = ",;\t|"

Row = dict[str, str]


def read_rows(file: Path, columns: Iterable[str] = ()) -> list[Row]:
    """Reads a CSV file as one dict per row, from the name of a column to the text of its cell.

    The delimiter is the most frequent one in the header: a comma, semicolon, tab or vertical bar.
    Spaces around cells are removed. Empty lines are skipped. Names of columns and cells are in the
    Unicode form NFC; `columns` must be, too.

    Args:
        file: CSV file in UTF-8.
        columns: names of columns that the file must have.

    Raises:
        UserError: if the file cannot be read, or is not such a table.
    """
    lines = _read_cells(file)
    if not lines:
        raise UserError(f"{file} is empty; it must have a header and rows")
    header = lines[0]
    rows = lines[1:]
    _check_header(file, header, columns)
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise UserError(
                f"{file}: row {number} below the header has {len(row)} cells, but the header has "
                f"{len(header)}; put cells that contain the delimiter in quotes"
            )
    return [dict(zip(header, row, strict=True)) for row in rows]


def read_data(file: Path, columns: Iterable[str], make: Callable[[Path], None] | None) -> list[Row]:
    """Reads the rows of a data set's file.

    Args:
        file: CSV file.
        columns: names of columns that the file must have.
        make: function that writes the file if it does not exist; None for a file of the user.

    Raises:
        UserError: if the file does not exist, is not such a table, or has too few rows.
    """
    if make is not None and not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        make(file)
        log.info("created the data of this example, a template for your own: %s", file)
    if not file.exists():
        place = ""
        if not file.is_absolute():
            place = f" in {Path.cwd()}"
        raise UserError(
            f"{file} does not exist{place}; set data.file to your own file, and data.root to its "
            "folder",
            DATA_UNAVAILABLE,
        )
    rows = read_rows(file, columns)
    if len(rows) < MIN_ROWS:
        raise UserError(
            f"{file} has {len(rows)} rows; splits need at least {MIN_ROWS}, so add some"
        )
    return rows


def example_maker(
    root: Path, file: str, examples: Mapping[str, Callable[[Path], None]], create: bool
) -> Callable[[Path], None] | None:
    """The function that makes a file of example data; None if the file is not to be made.

    Args:
        root: folder of the data.
        file: the setting `data.file`.
        examples: the functions by file.
        create: whether example data may be made.

    Raises:
        UserError: if the file does not exist, but the user has tables next to it: training on the
            example would not be what they want.
    """
    make = examples.get(file)
    path = root / file
    if make is None or not create or path.exists():
        return None
    example_names = [Path(name).name for name in examples]
    others = []
    for folder in dict.fromkeys((root, path.parent)):
        for table in sorted(folder.glob("*.csv")):
            if table.name not in example_names:
                others.append(str(table.relative_to(root)))
    if others:
        raise UserError(
            f"{path}, the data of this example, does not exist, but {root} contains {others[0]}; "
            f"use data.file={others[0]}, or another data.root for the example",
            DATA_UNAVAILABLE,
        )
    return make


def write_rows(file: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file; the first row is the header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(rows)
    replace_file(file, text.getvalue().encode())


def file_hash(file: Path) -> str:
    """Hashes the content of a file. If it changes, so does the assignment of rows to splits."""
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _read_cells(file: Path) -> list[list[str]]:
    """Reads the cells of all lines that are not empty, including the header."""
    lines = []
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream, _large_cells():
            header = stream.readline()
            stream.seek(0)
            delimiter = max(DELIMITERS, key=header.count)
            reader = csv.reader(stream, delimiter=delimiter, strict=True, skipinitialspace=True)
            for line in reader:
                if line:
                    lines.append([normalize_name(cell.strip()) for cell in line])
    except OSError as error:
        raise UserError(f"{file}: cannot be read; {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: cannot be read; save it as CSV in UTF-8 ({error})") from error
    return lines


@contextmanager
def _large_cells() -> Iterator[None]:
    """Raises the limit for the size of a cell, which applies to the whole process, for a while."""
    previous = csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(previous)


def _check_header(file: Path, header: Sequence[str], columns: Iterable[str]) -> None:
    """Raises a UserError if a column is missing, or two columns have the same name."""
    for column in columns:
        if column not in header:
            raise UserError(f"{file}: no column {column!r}; the columns are {', '.join(header)}")
    for name in header:
        count = header.count(name)
        if name and count > 1:
            raise UserError(f"{file}: {count} columns are named {name!r}; rename all but one")
