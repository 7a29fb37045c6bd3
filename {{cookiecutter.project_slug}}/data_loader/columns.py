"""Columns of a table as tensors."""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from data_loader.table_format import TableFormat
from data_loader.tables import Table
from data_loader.unicode_forms import check_look_different
from utils.errors import UserError

if TYPE_CHECKING:
    from pandas import Series

MAX_NUMBER = 1e38  # float32 ends at 3.4e38
MIN_STD = 1e-38  # of a column; float64 contains its square
MIN_STEPS_PER_STD = 32  # rounding then changes a variance by less than 0.01 %
MAX_EXACT_INTEGER = 2**53
MIN_ROWS_PER_CLASS = 4  # on average; in columns of numbers or names, most values occur once
# What typesetters and spreadsheets write for a separator: spaces without a line break, for example.
THOUSANDS_PATTERNS = {" ": "[ \u00a0\u2009\u202f]", "'": "['\u2019]"}
ANY_THOUSANDS = "[,.' \u00a0\u2009\u202f\u2019]"
Numbers = np.ndarray[Any, np.dtype[np.float64]]


def thousands_pattern(table_format: TableFormat) -> str:
    """The regular expression of the thousands separator; empty if there is none."""
    separator = table_format.thousands
    return THOUSANDS_PATTERNS.get(separator, re.escape(separator))


def number_pattern(table_format: TableFormat) -> str:
    """The regular expression of a number: ASCII digits, with the separators of a format."""
    decimal = re.escape(table_format.decimal)
    whole = "[0-9]+"
    if table_format.thousands:
        separator = thousands_pattern(table_format)
        whole = rf"(?:[0-9]{{1,3}}(?:{separator}[0-9]{{3}})+|[0-9]+)"
    return rf"[+-]?(?:{whole}(?:{decimal}[0-9]*)?|{decimal}[0-9]+)(?:[eE][+-]?[0-9]+)?"


def parse_number(text: str, table_format: TableFormat) -> float | None:
    """Converts a text such as -1.5 or 2e-3 to a number.

    Returns:
        NaN if the text is blank; None if it is not a number, or too large for float32.
    """
    text = text.strip()
    if not text:
        return math.nan
    if not re.fullmatch(number_pattern(table_format), text):
        return None
    text = re.sub(thousands_pattern(table_format), "", text)
    number = float(text.replace(table_format.decimal, "."))
    if abs(number) < MAX_NUMBER:
        return number
    return None


def parse_numbers(cells: "Series", table_format: TableFormat) -> Numbers:
    """Converts texts to numbers: float64, shape (N,), NaN for what is not a number in float32."""
    texts = cells.where(cells.str.fullmatch(number_pattern(table_format)))
    if table_format.thousands:
        texts = texts.str.replace(thousands_pattern(table_format), "", regex=True)
    if table_format.decimal != ".":
        texts = texts.str.replace(table_format.decimal, ".", regex=False)
    if texts.str.startswith("+").any():  # Arrow reads no plus sign
        texts = texts.str.removeprefix("+")
    # Arrow converts texts five times as fast as NumPy.
    arrow_numbers = texts.astype("double[pyarrow]")
    numbers: Numbers = arrow_numbers.to_numpy(np.float64, na_value=np.nan, copy=True)
    numbers[np.abs(numbers) >= MAX_NUMBER] = np.nan
    return numbers


def read_numbers(rows: Table, column: str, allow_missing: bool = False) -> Tensor:
    """Converts a column of numbers to a tensor.

    Args:
        rows: rows of the table.
        column: name of the column.
        allow_missing: whether cells may have no value. They become NaN.

    Returns:
        float64, shape (N, 1).

    Raises:
        UserError: if a cell is not a number.
    """
    numbers = parse_numbers(rows.cells(column), rows.table_format)
    is_missing = rows.is_missing(column)
    is_invalid = np.isnan(numbers) & ~is_missing
    if is_invalid.any():
        position = int(is_invalid.argmax())
        cell = rows.cells(column).iloc[position]
        advice = advice_on_number(cell, rows.table_format)
        if allow_missing:
            advice += ", or add it to data.missing"
        raise UserError(f"{rows.locate(position, column)}: {cell!r} is not a number{advice}")
    if not allow_missing:
        check_present(rows, column, "a number")
    numbers[is_missing] = np.nan
    return torch.from_numpy(numbers).reshape(-1, 1)


def find_invalid_number(rows: Table, column: str) -> int | None:
    """The position of the first cell of a column that has a value, but not a number."""
    numbers = parse_numbers(rows.cells(column), rows.table_format)
    is_invalid = np.isnan(numbers) & ~rows.is_missing(column)
    if not is_invalid.any():
        return None
    return int(is_invalid.argmax())


def advice_on_number(cell: str, table_format: TableFormat) -> str:
    """What to do about a cell that is not a number, to be appended to the message."""
    if re.fullmatch(r"[+-]?[0-9]*,[0-9]+", cell) and table_format.decimal == ".":
        return "; write it as in 1.5, or set data.decimal=comma or data.thousands=comma"
    if re.fullmatch(rf"[+-]?[0-9]{{1,3}}({ANY_THOUSANDS}[0-9]{{3}})+([.,][0-9]+)?", cell):
        return "; set data.thousands and data.decimal to the separators of the file"
    if re.fullmatch(number_pattern(table_format), cell):
        return f" below {MAX_NUMBER:.0e}"
    return f"; write it as in 1{table_format.decimal}5 or 2e-3"


def has_numbers(rows: Table, column: str) -> bool:
    """Whether all values of a column are numbers.

    Identifiers are not: digits after a leading zero, as in 007, and codes such as 12e5 in a column
    that otherwise contains only digits.
    """
    cells = rows.cells(column)[~rows.is_missing(column)]
    if len(cells) == 0 or find_invalid_number(rows, column) is not None:
        return False
    if cells.str.fullmatch("0[0-9]+").any():
        return False
    has_codes = cells.str.fullmatch("[0-9]+[eE][0-9]+").any()
    return not (has_codes and cells.str.fullmatch("[0-9]+(?:[eE][0-9]+)?").all())


def check_present(rows: Table, column: str, what: str) -> None:
    """Raises a UserError if a cell of a column has no value.

    Args:
        rows: rows of the table.
        column: name of the column.
        what: what the cell should contain, such as "a number".
    """
    is_missing = rows.is_missing(column)
    if not is_missing.any():
        return
    position = int(is_missing.argmax())
    cell = rows.cells(column).iloc[position]
    reason = "the cell is empty"
    if cell:
        reason = f"{cell!r} counts as missing (data.missing)"
    raise UserError(
        f"{rows.locate(position, column)}: no {what.split()[-1]} is given, because {reason}; fill "
        f"in {what}, remove the row, or leave out such rows with data.drop_missing_target=true"
    )


def mean_and_std(values: Tensor, column: str = "") -> tuple[float, float]:
    """Computes mean and standard deviation, which is 1 if all values are equal.

    Args:
        values: float64, any shape, without NaN.
        column: name of the column, for messages.

    Raises:
        UserError: if the values differ so little that their differences are rounding errors of
            float64, or cannot be squared.
    """
    exact = values.double()
    lowest = exact.min().item()
    highest = exact.max().item()
    if lowest == highest:
        return lowest, 1.0  # values are divided by it
    # Neither depends on an offset or a unit: sums are of differences, squares of ratios.
    mean = lowest + (exact - lowest).mean().item()
    deviations = exact - mean
    largest = deviations.abs().max()
    std = (largest * (deviations / largest).square().mean().sqrt()).item()
    rounding_step = math.ulp(max(abs(lowest), abs(highest)))
    is_rounded = std < MIN_STEPS_PER_STD * rounding_step and not _are_exact_integers(exact)
    if is_rounded or std < MIN_STD:
        raise UserError(
            f"column {column!r}: the values between {lowest!r} and {highest!r} differ too little "
            "for float64; subtract an offset from them, or use a smaller unit"
        )
    return mean, std


def _are_exact_integers(values: Tensor) -> bool:
    """Returns whether all values are integers, and small enough for float64 to be exact."""
    are_integers = (values == values.round()).all()
    return bool(are_integers and values.abs().max() < MAX_EXACT_INTEGER)


def check_varies(values: Tensor, column: str) -> None:
    """Raises a UserError if all training rows have the same value, so there is nothing to fit."""
    first = values.flatten()[0].item()
    if (values == first).all():
        raise UserError(
            f"column {column!r}: all training rows have the value {first!r}; choose a column that "
            "varies. If its cells differ, float64 cannot distinguish them: subtract an offset"
        )


def class_indices(rows: Table, column: str, training: bool = True) -> tuple[list[str], Tensor]:
    """Converts a column of classes to indices.

    Args:
        rows: rows of the table.
        column: name of the column.
        training: whether a model is trained with these classes; a test set may have only one.

    Returns:
        The names of the classes in alphabetical order, and the index of each row's class, int64,
        shape (N,).

    Raises:
        UserError: if a cell is empty, or if the column has one class only or too many.
    """
    check_present(rows, column, "a class")
    cells = rows.cells(column)
    names = sorted(cells.unique().tolist())
    if training:
        _check_class_names(names, rows, column)
    return names, text_positions(cells, names)


def text_positions(cells: "Series", texts: Sequence[str]) -> Tensor:
    """The position of each cell among some texts, int64, shape (N,); -1 if it is none of them."""
    import pandas

    positions = pandas.Index(texts, dtype="str").get_indexer(cells)
    return torch.from_numpy(positions.astype(np.int64))


def _check_class_names(names: Sequence[str], rows: Table, column: str) -> None:
    """Raises a UserError if there is one class, there are too many, or two look the same."""
    if len(names) < 2:
        raise UserError(
            f"{rows.file}: column {column!r} has only one class, {names[0]!r}; provide at least two"
        )
    check_look_different(names, f"{rows.file}, column {column!r}")
    if len(names) > len(rows) / MIN_ROWS_PER_CLASS:
        raise UserError(
            f"{rows.file}: column {column!r} has {len(names)} classes in {len(rows)} rows, such as "
            f"{names[0]!r}; classes need {MIN_ROWS_PER_CLASS} rows each on average, so set "
            "data.target to a column of classes, not of numbers or texts"
        )
