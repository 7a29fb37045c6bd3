"""Tables from files: delimited text, Excel, Parquet and Feather."""

import csv
import hashlib
import io
import re
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, time
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from data_loader.delimited_text import read_delimited, row_lines
from data_loader.table_format import TableFormat
from data_loader.unicode_forms import BLANK, find_file, list_visibly, normalize_name
from utils.errors import UserError
from utils.files import replace_file

if TYPE_CHECKING:
    from pandas import DataFrame, Series

Numbers = np.ndarray[Any, np.dtype[np.float64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Positions = np.ndarray[Any, np.dtype[np.int64]]
Values = TypeVar("Values", bound=np.ndarray[Any, Any])

# The first bytes of files that are not text.
EXCEL = b"PK\x03\x04"  # PK alone can be the name of a column
OLD_EXCEL = b"\xd0\xcf\x11\xe0"
PARQUET = b"PAR1\x15"  # so can PAR1
FEATHER = (b"ARROW1\0\0", b"FEA1\0\0")
MAX_LISTED_CHARACTERS = 500  # of a header; a file that is not a table may have one long line
TABLE_SUFFIXES = (".csv", ".tsv", ".gz", ".xlsx", ".parquet", ".feather")


@dataclass(frozen=True, eq=False)
class Table:
    """The rows of a file; rows without any text are left out.

    Attributes:
        file: the file.
        table_format: how its cells are written.
        frame: the cells of all rows as they are written, without spaces around them. The index
            counts the rows of the file from 0.
        positions: which rows of the frame belong to this table, int64, shape (N,); None for all.
        parsed_numbers: the numbers of all rows by column, once they have been read.
        missing_masks: which cells of all rows have no value by column, once it has been found out.
        factorized: the result of `factorize` for all rows by column, once it has been called.
    """

    file: Path
    table_format: TableFormat
    frame: "DataFrame"
    positions: Positions | None = None
    parsed_numbers: dict[str, Numbers] = field(default_factory=dict)
    missing_masks: dict[str, Mask] = field(default_factory=dict)
    factorized: dict[str, tuple[list[str], Positions]] = field(default_factory=dict)

    def __len__(self) -> int:
        if self.positions is None:
            return len(self.frame)
        return len(self.positions)

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.frame.columns)

    def cells(self, column: str) -> "Series":
        """The texts of a column; those that mark a missing value are not replaced."""
        if self.positions is None:
            return self.frame[column]
        return self.frame[column].iloc[self.positions]

    def known_cells(self, column: str) -> "Series":
        """The texts of a column that are values."""
        cells = self.cells(column)
        is_missing = self.is_missing(column)
        if not is_missing.any():
            return cells
        return cells[~is_missing]

    def is_missing(self, column: str) -> Mask:
        """Which cells of a column have no value: bool, shape (N,)."""
        if column not in self.missing_masks:
            no_value = ["", *self.table_format.missing]
            self.missing_masks[column] = self.frame[column].isin(no_value).to_numpy()
        return self.select(self.missing_masks[column])

    def factorize(self, column: str) -> tuple[list[str], Positions]:
        """The different texts in a column of the file, and the code of each row's text.

        Returns:
            The texts, and positions among them: int64, shape (N,).
        """
        if column not in self.factorized:
            codes, texts = self.frame[column].factorize()
            self.factorized[column] = (texts.tolist(), codes)
        texts, codes = self.factorized[column]
        return texts, self.select(codes)

    def select(self, values: Values) -> Values:
        """The values of these rows, from those of all rows of the frame."""
        if self.positions is None:
            return values
        selected: Any = values[self.positions]
        return selected

    def take(self, positions: Tensor) -> "Table":
        """The rows at some positions (int64, shape (M,)); they share the cells of this table."""
        taken: Positions = positions.numpy()
        if self.positions is not None:
            taken = self.positions[taken]
        return replace(self, positions=taken)

    def places(self) -> list[str]:
        """Where each row is in the file, such as "line 12" or, if it is not text, "row 12"."""
        numbers = self.select(self.frame.index.to_numpy()).tolist()
        if _is_text(self.file):
            lines = row_lines(self.file, self.table_format)
            return [f"line {lines[number]}" for number in numbers]
        return [f"row {number + 1}" for number in numbers]

    def locate(self, position: int, column: str) -> str:
        """Where a cell is, for messages: file, line and column."""
        (place,) = self.take(torch.tensor([position])).places()
        return f"{self.file}, {place}, column {column!r}"


def read_table(
    file: Path, columns: Iterable[str] = (), table_format: TableFormat | None = None
) -> Table:
    """Reads a table as text.

    The content of the file decides what it is: delimited text (which may be compressed by gzip), an
    Excel workbook, of which the first sheet is read, Parquet or Feather. Columns without a name are
    left out.

    Args:
        file: file of the table.
        columns: names of columns that the file must have.
        table_format: how the cells are written.

    Raises:
        UserError: if the file cannot be read, or is not such a table.
    """
    import pandas

    table_format = table_format or TableFormat()
    file = find_file(file)
    start = _first_bytes(file)
    if start.startswith(EXCEL):
        header, frame = _read_excel(file, table_format)
    elif start.startswith((PARQUET, *FEATHER)):
        header, frame = _read_arrow(file, table_format, start)
    elif start.startswith(OLD_EXCEL):
        raise UserError(f"{file} is a workbook in Excel's old format; save it as .xlsx or CSV")
    else:
        header, frame = read_delimited(file, table_format)
    header = [normalize_name(name) for name in header]
    _check_header(file, header, columns)
    texts = {}
    for position, name in enumerate(header):
        if name:
            texts[name] = _normalize(frame[position])
    frame = pandas.DataFrame(texts, index=frame.index)
    is_blank = (frame == "").all(axis=1)
    if is_blank.any():
        frame = frame[~is_blank]
    return Table(file, table_format, frame)


def write_rows(file: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes a CSV file; the first row is the header."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(rows)
    replace_file(file, text.getvalue().encode())


def file_hash(file: Path) -> str:
    """Hashes the content of a file. If it changes, so does the assignment of rows to splits.

    Raises:
        UserError: if the file cannot be read.
    """
    _check_no_pipe(file)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read; {error.strerror}") from error
    return hashlib.sha256(content).hexdigest()[:16]


def _normalize(texts: "Series") -> "Series":
    """Texts in the Unicode form NFC, without spaces and invisible characters around them."""
    from pyarrow import array, compute

    cells = array(texts)
    if compute.all(compute.string_is_ascii(cells)).as_py():
        return texts.str.strip()
    trimmed = compute.utf8_trim(cells, characters=BLANK)
    normalized = compute.utf8_normalize(trimmed, form="NFC")
    return normalized.to_pandas().set_axis(texts.index).astype(texts.dtype)


def _check_header(file: Path, header: Sequence[str], columns: Iterable[str]) -> None:
    """Raises a UserError if a column is missing, or two columns have the same name."""
    if not any(header):
        raise UserError(f"{file}: the first row must contain the names of the columns; add them")
    for column in columns:
        if column not in header:
            names = list_visibly(header)[:MAX_LISTED_CHARACTERS]
            advice = _advice_on_header(file, header)
            raise UserError(f"{file}: no column {column!r}; the columns are {names}{advice}")
    for name in header:
        count = header.count(name)
        if name and count > 1:
            raise UserError(f"{file}: {count} columns are named {name!r}; rename all but one")


def _advice_on_header(file: Path, header: Sequence[str]) -> str:
    """Why a header may lack a column, to be appended to the message."""
    in_first_row = "; the first row of the file must contain the names of the columns"
    if any(not name or _looks_like_a_number(name) for name in header):
        return in_first_row
    if _first_bytes(file).startswith(EXCEL):
        return "; only the first sheet of a workbook is read"
    if len(header) == 1:
        return f"{in_first_row}; if a character separates them, set data.delimiter to it"
    return ""


def _looks_like_a_number(name: str) -> bool:
    return name.replace(".", "").replace(",", "").lstrip("+-").isdecimal()


def _check_no_pipe(file: Path) -> None:
    """Raises a UserError if a file has no end, or can be read only once."""
    if file.is_fifo() or file.is_char_device():
        raise UserError(
            f"{file} is not a regular file, but a pipe or a device; save its content in a file"
        )


def _first_bytes(file: Path) -> bytes:
    _check_no_pipe(file)
    try:
        with file.open("rb") as stream:
            return stream.read(8)
    except OSError as error:
        raise UserError(f"{file}: cannot be read; {error.strerror}") from error


def _is_text(file: Path) -> bool:
    return not _first_bytes(file).startswith((EXCEL, PARQUET, *FEATHER))


# Files whose cells have types


def _read_excel(file: Path, table_format: TableFormat) -> tuple[list[str], "DataFrame"]:
    """Reads the first sheet of a workbook as text; the index counts the rows of the sheet."""
    import pandas

    try:
        frame = pandas.read_excel(
            file, header=None, dtype=object, na_filter=False, engine="openpyxl"
        )
    except ImportError as error:
        raise UserError(
            f"{file}: Excel files need the package openpyxl; pip install openpyxl, or install the "
            'extra: pip install -e ".[excel]"'
        ) from error
    except Exception as error:  # whatever openpyxl raises for a damaged workbook
        raise UserError(f"{file}: cannot be read as an Excel workbook; {error}") from error
    _check_formulas(file, frame)
    texts = frame.map(lambda value: _text_of(value, table_format)).astype("str")
    is_blank = (texts == "").all(axis=1)
    rows = texts[~is_blank]
    if len(rows) == 0:
        raise UserError(f"{file} is empty; it must have a header and rows")
    return rows.iloc[0].tolist(), rows.iloc[1:]


def _check_formulas(file: Path, frame: "DataFrame") -> None:
    """Raises a UserError if the first sheet has formulas, none of which has a computed value.

    Programs other than spreadsheets write such files. A single formula may have an empty result.

    Args:
        file: the workbook.
        frame: the values of its cells, from the first row and column on.
    """
    import openpyxl

    if not (frame == "").any(axis=None) or not _has_formulas(file):
        return
    first_formula = ""
    with file.open("rb") as stream:
        sheet = openpyxl.load_workbook(stream, read_only=True).worksheets[0]
        for row in sheet.iter_rows(max_row=frame.shape[0], max_col=frame.shape[1]):
            for cell in row:
                if cell.data_type != "f":
                    continue
                if frame.iat[cell.row - 1, cell.column - 1] != "":
                    return
                first_formula = first_formula or f"{cell.column_letter}{cell.row}"
    if first_formula:
        raise UserError(
            f"{file}, sheet {sheet.title!r}, cell {first_formula}: the formula "
            "has no computed value; open the file in a spreadsheet program and save it"
        )


def _has_formulas(file: Path) -> bool:
    """Whether a workbook contains formulas; much faster than reading its cells once more."""
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name.startswith("xl/worksheets/") and re.search(b"<f[ >]", archive.read(name)):
                return True
    return False


def _text_of(value: object, table_format: TableFormat) -> str:
    """A value as it would be written in a CSV file."""
    if value is None or value != value:  # NaN, or NaT
        return ""
    if isinstance(value, float):
        return repr(value).replace(".", table_format.decimal)
    if isinstance(value, datetime) and value.time() == time():
        return value.date().isoformat()
    if isinstance(value, date):
        return value.isoformat()
    return str(value)


def _read_arrow(
    file: Path, table_format: TableFormat, start: bytes
) -> tuple[list[str], "DataFrame"]:
    """Reads a Parquet or Feather file as text."""
    import pandas

    read = pandas.read_feather
    if start.startswith(PARQUET):
        read = pandas.read_parquet
    try:
        frame = read(file, dtype_backend="pyarrow")
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: cannot be read; {error}") from error
    if any(name is not None for name in frame.index.names):
        frame = frame.reset_index()
    texts = {}
    for position, name in enumerate(frame.columns):
        texts[position] = _texts_of_column(file, str(name), frame.iloc[:, position], table_format)
    return [str(name) for name in frame.columns], pandas.DataFrame(texts)


def _texts_of_column(
    file: Path, name: str, column: "Series", table_format: TableFormat
) -> "Series":
    """The values of a typed column as they would be written in a CSV file."""
    import pyarrow
    from pyarrow import compute

    values = pyarrow.chunked_array(pyarrow.array(column))
    if pyarrow.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    kind = values.type
    if pyarrow.types.is_floating(kind):
        values = compute.if_else(compute.is_nan(values), None, values)
    message = f"{file}: column {name!r} has the type {kind}; convert it to numbers, texts or dates"
    if pyarrow.types.is_duration(kind) or pyarrow.types.is_nested(kind):
        raise UserError(message)
    try:
        texts = values.cast(pyarrow.large_string())
    except pyarrow.ArrowException as error:
        raise UserError(message) from error
    if pyarrow.types.is_boolean(kind):
        texts = compute.utf8_capitalize(texts)
    if pyarrow.types.is_floating(kind) or pyarrow.types.is_decimal(kind):
        texts = compute.replace_substring(texts, ".", table_format.decimal)
    return texts.fill_null("").to_pandas().astype("str")
