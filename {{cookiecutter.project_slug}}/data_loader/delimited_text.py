"""Delimited text (CSV, TSV) as cells: encoding, delimiter, quotation marks and line numbers."""

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from data_loader.table_format import TableFormat
from utils.errors import UserError

if TYPE_CHECKING:
    from pandas import DataFrame

MAX_CELL_CHARACTERS = 2**30  # a cell may be a document; the default of `csv` is 2**17
DELIMITERS = "\t;|,"  # in case of doubt, the first one: commas occur in texts and numbers, too
NO_DELIMITER = "\x1f"  # for a single column: a character that texts do not contain
CHUNK_ROWS = 10_000  # that are Python objects at a time
GZIP = b"\x1f\x8b"
BYTE_ORDER_MARKS = {  # UTF-32 is first, because its mark starts with that of UTF-16
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SEPARATOR_LINE = re.compile(rb"\s*sep=([!-~\t ])(?=\r?\n)", re.IGNORECASE)  # as Excel writes it
QUOTE = ord('"')
CHUNK_BYTES = 2**22  # whose quotation marks are checked at a time
MIN_SWALLOWED_ROWS = 3  # line breaks in a cell that can hardly be there by chance


class Record(NamedTuple):
    """A row of cells.

    Attributes:
        cells: texts of the cells, without spaces after a delimiter.
        first_line: line in which it begins, as an editor counts.
        last_line: line in which it ends; a quoted cell may contain line breaks.
    """

    cells: list[str]
    first_line: int
    last_line: int


def read_delimited(file: Path, table_format: TableFormat) -> tuple[list[str], "DataFrame"]:
    """Reads a text file, which may be compressed by gzip.

    Returns:
        The cells of the header, and those of all rows below it that are not empty lines, as text.
        The columns of the frame are numbered, and its index counts the rows from 0.

    Raises:
        UserError: if the file cannot be read, or a row does not have the cells of the header.
    """
    with _large_cells():
        data, delimiter = _read_text(file, table_format)
        records = _records(file, data, delimiter, table_format.quotes)
        header = next(records, None)
        if header is None:
            raise UserError(f"{file} is empty; it must have a header and rows")
        first_row = next(records, None)
        if first_row is None:
            return header.cells, _frame_of([], len(header.cells))
        width = len(header.cells)
        if _ends_with_delimiter(first_row.cells, width):
            width += 1
        has_quotes = table_format.quotes and b'"' in data
        try:
            frame = _read_quickly(data, header, width, delimiter, has_quotes)
        except ValueError:  # `_read_records` says why, or reads a table with unusual lines
            frame = _read_records(file, header, first_row, records)
        if has_quotes:
            _check_no_swallowed_rows(file, table_format, frame, delimiter)
        return header.cells, frame


def row_lines(file: Path, table_format: TableFormat) -> list[int]:
    """The lines, as an editor counts them, in which the rows of `read_delimited` begin."""
    with _large_cells():
        return [record.first_line for record in _rows(file, table_format)]


def _rows(file: Path, table_format: TableFormat) -> Iterator[Record]:
    """Returns the records below the header."""
    data, delimiter = _read_text(file, table_format)
    return islice(_records(file, data, delimiter, table_format.quotes), 1, None)


# Bytes


def _read_text(file: Path, table_format: TableFormat) -> tuple[bytes, str]:
    """Reads a text file.

    Returns:
        Its text in UTF-8, and the delimiter. If the first line is one such as "sep=;", it contains
        the delimiter, and is empty in this text.
    """
    data = _read_utf8(file, table_format.encoding)
    delimiter = table_format.delimiter
    separator_line = SEPARATOR_LINE.match(data)
    if separator_line is not None:
        data = data[separator_line.end() :]
        delimiter = delimiter or separator_line[1].decode()
    return data, delimiter or _detect_delimiter(data)


def _read_utf8(file: Path, encoding: str) -> bytes:
    """Reads a text file as UTF-8 without a byte order mark.

    Args:
        file: text file; it may be compressed by gzip.
        encoding: name of its encoding. If empty, the byte order mark decides; without one, it must
            be UTF-8.
    """
    data = _read_bytes(file)
    if not encoding:
        encoding = _marked_encoding(data)
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].decode(encoding, "ignore").count("\n") + 1
        raise UserError(
            f"{file}, line {line}: byte 0x{data[error.start]:02x} is not valid in {encoding}; set "
            "data.encoding to the encoding of the file, such as cp1252, or save it in UTF-8; if it "
            "is compressed by anything but gzip, unpack it"
        ) from error
    except (LookupError, UnicodeError) as error:
        raise UserError(
            f"data.encoding={encoding}: no such text encoding; use one such as utf-8, cp1252 or "
            "utf-16"
        ) from error
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise UserError(
            f"{file}, line {line}: it contains the NUL character \\x00, so it is damaged or not "
            f"text in {encoding}; remove the character, or set data.encoding, as to utf-16-le"
        )
    return text.lstrip("\ufeff").encode()


def _read_bytes(file: Path) -> bytes:
    try:
        data = file.read_bytes()
        if data.startswith(GZIP):
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read; {error}") from error
    return data


def _marked_encoding(data: bytes) -> str:
    for mark, encoding in BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            return encoding
    return "utf-8"


# Records


def _records(file: Path, data: bytes, delimiter: str, quotes: bool) -> Iterator[Record]:
    """Yields the header and the rows of a table, without empty lines.

    Raises:
        UserError: if a quotation mark is misplaced.
    """
    reader = csv.reader(
        io.TextIOWrapper(io.BytesIO(data), "utf-8", newline=""),
        delimiter=delimiter,
        quoting=csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE,
        skipinitialspace=True,
        strict=True,
    )
    first_line = 1
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise UserError(
                f"{file}, line {first_line}: a cell starts with a quotation mark, but none ends it "
                f"before a delimiter ({error}); correct it, or set data.quotes=false if quotation "
                "marks are part of the text"
            ) from error
        if cells is None:
            return
        if cells:
            yield Record(cells, first_line, reader.line_num)
        first_line = reader.line_num + 1


def _detect_delimiter(data: bytes) -> str:
    """Finds the delimiter that divides header and first row alike, into the most cells."""
    found = NO_DELIMITER
    best = (False, 1)
    for delimiter in DELIMITERS:
        stream = io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="")
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
        first_two = list(islice(filter(None, reader), 2))
        if not first_two or len(first_two[0]) == 1:
            continue
        width = len(first_two[0])
        is_same_width = len(first_two[-1]) == width or _ends_with_delimiter(first_two[-1], width)
        quality = (is_same_width, width)
        if quality > best:
            best = quality
            found = delimiter
    return found


@contextmanager
def _large_cells() -> Iterator[None]:
    """Raises the limit for the size of a cell, which applies to the whole process, for a while."""
    previous = csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        yield
    finally:
        csv.field_size_limit(previous)


# Frames


def _read_quickly(
    data: bytes, header: Record, width: int, delimiter: str, has_quotes: bool
) -> "DataFrame":
    """Reads the rows with Arrow, which takes a fifth of the time of `csv`.

    Args:
        data: text of the file in UTF-8.
        header: the record before the rows.
        width: number of cells of each row. If it is one more than that of the header, the last cell
            of each row must be blank, and is left out.
        delimiter: the character between cells.
        has_quotes: whether cells are in quotation marks.

    Raises:
        ValueError: if Arrow cannot read the rows, or would divide them into other cells than
            `csv`.
    """
    from pyarrow import compute, csv, string

    if data.count(b"\r") != data.count(b"\r\n"):
        raise ValueError("a carriage return ends a line")
    if delimiter == " ":
        raise ValueError("several spaces can be one delimiter")
    body = io.BytesIO(data)
    for _ in range(header.last_line):
        body.readline()
    if has_quotes and not _are_quotes_well_formed(data, body.tell(), delimiter):
        raise ValueError("quotation marks are misplaced")
    names = [str(column) for column in range(width)]
    table = csv.read_csv(
        body,
        csv.ReadOptions(column_names=names),
        csv.ParseOptions(
            delimiter=delimiter,
            quote_char='"' if has_quotes else False,
            newlines_in_values=has_quotes,
        ),
        csv.ConvertOptions(column_types=dict.fromkeys(names, string()), check_utf8=False),
    )
    if width > len(header.cells):
        if not compute.all(compute.equal(table.column(width - 1), "")).as_py():
            raise ValueError("a row has more cells than the header")
        table = table.drop_columns(names[-1])
    return table.to_pandas().set_axis(range(len(header.cells)), axis=1)


def _are_quotes_well_formed(data: bytes, start: int, delimiter: str) -> bool:
    """Whether quotation marks are only around cells or, inside these, written twice.

    Then every second quotation mark ends a cell, or is the first one of two.

    Args:
        data: text of the file.
        start: offset of the first row; the header is before it.
        delimiter: the character between cells.
    """
    text = np.frombuffer(data, np.uint8)
    is_boundary = np.zeros(256, dtype=np.bool_)
    is_boundary[[QUOTE, ord("\n"), ord("\r"), *delimiter.encode()]] = True
    is_inside = False
    for offset in range(start, len(text), CHUNK_BYTES):
        marks = offset + np.flatnonzero(text[offset : offset + CHUNK_BYTES] == QUOTE)
        opening = marks[int(is_inside) :: 2]
        closing = marks[int(not is_inside) :: 2]
        after = np.minimum(closing + 1, len(text) - 1)  # the last mark may end the file
        if not (is_boundary[text[opening - 1]].all() and is_boundary[text[after]].all()):
            return False
        if len(marks) % 2 == 1:
            is_inside = not is_inside
    return not is_inside


def _read_records(
    file: Path, header: Record, first_row: Record, other_rows: Iterator[Record]
) -> "DataFrame":
    """Reads records one by one; a line of spaces becomes a row of empty cells.

    Raises:
        UserError: if a record does not have the cells of the header. All records may have one more,
            which is blank: their lines end with the delimiter.
    """
    import pandas

    width = len(header.cells)
    lines_end_with_delimiter = _ends_with_delimiter(first_row.cells, width)
    frames = []
    rows: list[list[str]] = []
    for record in chain([first_row], other_rows):
        cells = record.cells
        if len(cells) == 1 and not cells[0].strip():
            cells = [""] * width
        elif lines_end_with_delimiter:
            if not _ends_with_delimiter(cells, width):
                raise _width_error(file, first_row, header)
            cells = cells[:-1]
        elif len(cells) != width:
            raise _width_error(file, record, header)
        rows.append(cells)
        if len(rows) == CHUNK_ROWS:
            frames.append(_frame_of(rows, width))
            rows = []
    frames.append(_frame_of(rows, width))
    return pandas.concat(frames, ignore_index=True)


def _frame_of(rows: list[list[str]], width: int) -> "DataFrame":
    import pandas

    return pandas.DataFrame(rows, columns=range(width), dtype="str")


def _ends_with_delimiter(cells: Sequence[str], width: int) -> bool:
    """Whether a row has one more cell than the header, which is blank."""
    return len(cells) == width + 1 and not cells[-1].strip()


def _width_error(file: Path, record: Record, header: Record) -> UserError:
    """The error of a record that has not as many cells as the header."""
    lines = f"line {record.first_line}"
    if record.last_line > record.first_line:
        lines = f"lines {record.first_line} to {record.last_line}"
    return UserError(
        f"{file}, {lines}: the row has {len(record.cells)} cells, but the header has "
        f"{len(header.cells)}; put cells that contain the delimiter in quotation marks, or set "
        "data.delimiter, or set data.quotes=false if quotation marks are part of the text"
    )


def _check_no_swallowed_rows(
    file: Path, table_format: TableFormat, frame: "DataFrame", delimiter: str
) -> None:
    """Raises a UserError if a quoted cell contains rows of the table."""
    width = len(frame.columns)
    texts_of = cache(lambda column: set(frame[column]))
    for column in frame.columns:
        has_lines = frame[column].str.contains("\n", regex=False)
        for number, cell in frame[column][has_lines].items():
            lines = [line.split(delimiter) for line in cell.split("\n")]
            if _are_rows(lines, column, width, texts_of):
                record = next(islice(_rows(file, table_format), number, None))
                raise UserError(
                    f"{file}, line {record.first_line}: a cell starts with a quotation mark that "
                    f"ends in line {record.last_line}, so {len(lines) - 1} rows are part of the "
                    "cell; write quotation marks in quoted cells twice, or set data.quotes=false "
                    "if they are part of the text"
                )


def _are_rows(
    lines: Sequence[Sequence[str]], column: int, width: int, texts_of: Callable[[int], set[str]]
) -> bool:
    """Whether the lines of a quoted cell are rows of the table.

    That is so if a cell starts with a quotation mark that is part of its text, and a later cell
    ends with one. Each line then has as many delimiters as a row, and a few lines alone are not
    taken for rows unless their cells occur in another column, too.

    Args:
        lines: lines of the cell, divided at the delimiter.
        column: column of the cell.
        width: number of columns.
        texts_of: returns the different cells of a column.
    """
    if len(lines) == 1 or width == 1:
        return False
    expected = [width] * len(lines)
    expected[0] = width - column
    expected[-1] = column + 1
    if [len(cells) for cells in lines] != expected:
        return False
    if len(lines) > MIN_SWALLOWED_ROWS:
        return True
    for other in range(width):
        if other == column:
            continue
        cells = [line[other] for line in lines[1:-1]]
        if other > column:
            cells.append(lines[0][other - column])
        else:
            cells.append(lines[-1][other])
        if texts_of(other).issuperset(cells):
            return True
    return False
