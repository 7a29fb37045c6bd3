"""Delimited text (CSV, TSV) as cells: encoding, delimiter, quotation marks and line numbers."""

import codecs
import csv
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

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
    data = _read_utf8(file, table_format.encoding)
    with _large_cells():
        delimiter = table_format.delimiter or _detect_delimiter(data)
        records = _records(file, data, delimiter, table_format.quotes)
        header = next(records, None)
        if header is None:
            raise UserError(f"{file} is empty; it must have a header and rows")
        plain = data.replace(b"\r\n", b"\n")
        if b'"' not in plain and b"\r" not in plain:
            # Three times as fast, but it accepts misplaced quotation marks.
            try:
                return header.cells, _read_plain(plain, header, delimiter)
            except ValueError:
                pass  # `_read_records` says why, or reads a table that only has unusual lines
        return header.cells, _read_records(file, records, header, delimiter)


def row_lines(file: Path, table_format: TableFormat) -> list[int]:
    """The lines, as an editor counts them, in which the rows of `read_delimited` begin."""
    data = _read_utf8(file, table_format.encoding)
    with _large_cells():
        delimiter = table_format.delimiter or _detect_delimiter(data)
        records = _records(file, data, delimiter, table_format.quotes)
        return [record.first_line for record in islice(records, 1, None)]


# Bytes


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
    """Finds the delimiter with which the header, and as well the first row, has most cells."""
    found = NO_DELIMITER
    best = (False, 1)
    for delimiter in DELIMITERS:
        stream = io.TextIOWrapper(io.BytesIO(data), "utf-8", newline="")
        reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
        first_two = list(islice(filter(None, reader), 2))
        counts = [len(cells) for cells in first_two]
        if not counts or counts[0] == 1:
            continue
        quality = (counts[0] == counts[-1], counts[0])
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


def _read_plain(data: bytes, header: Record, delimiter: str) -> "DataFrame":
    """Reads a table without quotation marks, whose lines end with a line feed.

    Raises:
        ValueError: if a row has another number of cells, or pandas cannot read the table.
    """
    import pandas

    body = io.BytesIO(data)
    for _ in range(header.last_line):
        body.readline()
    frame = pandas.read_csv(
        body, header=None, sep=delimiter, dtype="str", keep_default_na=False, engine="pyarrow"
    )
    if frame.shape[1] != len(header.cells):
        raise ValueError("the rows and the header have different numbers of cells")
    return frame


def _read_records(
    file: Path, records: Iterator[Record], header: Record, delimiter: str
) -> "DataFrame":
    """Reads the remaining records; a line of spaces becomes a row of empty cells."""
    import pandas

    columns = range(len(header.cells))
    frames = []
    rows: list[list[str]] = []
    multiline: list[Record] = []
    for record in records:
        if len(record.cells) == len(columns):
            rows.append(record.cells)
        else:
            rows.append(_unusual_row(file, record, header))
        if record.last_line > record.first_line:
            multiline.append(record)
        if len(rows) == CHUNK_ROWS:
            frames.append(pandas.DataFrame(rows, columns=columns, dtype="str"))
            rows = []
    frames.append(pandas.DataFrame(rows, columns=columns, dtype="str"))
    frame = pandas.concat(frames, ignore_index=True)
    texts_of = cache(lambda column: set(frame[column]))
    for record in multiline:
        for column, cell in enumerate(record.cells):
            lines = [line.split(delimiter) for line in cell.split("\n")]
            if _are_rows(lines, column, len(columns), texts_of):
                raise UserError(
                    f"{file}, line {record.first_line}: a cell starts with a quotation mark that "
                    f"ends in line {record.last_line}, so {len(lines) - 1} rows are part of the "
                    "cell; write quotation marks in quoted cells twice, or set data.quotes=false "
                    "if they are part of the text"
                )
    return frame


def _unusual_row(file: Path, record: Record, header: Record) -> list[str]:
    """Empty cells for a line of spaces.

    Raises:
        UserError: for any other record, because it has not as many cells as the header.
    """
    width = len(header.cells)
    if len(record.cells) == 1 and not record.cells[0].strip():
        return [""] * width
    lines = f"line {record.first_line}"
    if record.last_line > record.first_line:
        lines = f"lines {record.first_line} to {record.last_line}"
    raise UserError(
        f"{file}, {lines}: the row has {len(record.cells)} cells, but the header has {width}; put "
        "cells that contain the delimiter in quotation marks, or set data.delimiter, or set "
        "data.quotes=false if quotation marks are part of the text"
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
        cells = [line[other] for line in lines[1:-1]]
        if other > column:
            cells.append(lines[0][other - column])
        elif other < column:
            cells.append(lines[-1][other])
        if other != column and texts_of(other).issuperset(cells):
            return True
    return False
