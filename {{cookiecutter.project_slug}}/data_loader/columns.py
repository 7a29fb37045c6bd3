"""Columns of a table as tensors."""

import math
import re
import unicodedata
from collections.abc import Sequence
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data_loader.table_format import TableFormat
from data_loader.tables import Numbers, Table
from data_loader.unicode_forms import JOINERS, SPACES, normalize_name
from logger.console import log
from utils.errors import UserError

if TYPE_CHECKING:
    from pandas import Series

MAX_NUMBER = 1e38  # float32 ends at 3.4e38
MIN_STD = 1e-38  # of a column; float64 contains its square
MIN_STEPS_PER_STD = 32  # rounding then changes a variance by less than 0.01 %
MAX_EXACT_INTEGER = 2**53
# Characters that programs write as a separator; a space is one without a line break.
SEPARATOR_PATTERNS = {" ": f"[ {SPACES}]", "'": "['\u2019]"}
BOOLEANS = {"TRUE": "true", "True": "true", "FALSE": "false", "False": "false"}
MIN_ROWS_PER_CLASS = 4  # on average; in columns of numbers or names, most values occur once


def thousands_pattern(table_format: TableFormat) -> str:
    """The regular expression of a thousands separator."""
    separator = table_format.thousands
    return SEPARATOR_PATTERNS.get(separator, re.escape(separator))


def number_pattern(table_format: TableFormat) -> str:
    """The regular expression of a number: ASCII digits, with the separators of a format."""
    decimal = re.escape(table_format.decimal)
    whole = "[0-9]+"
    if table_format.thousands:
        whole = rf"(?:[0-9]{{1,3}}(?:{thousands_pattern(table_format)}[0-9]{{3}})+|[0-9]+)"
    return rf"[+-]?(?:{whole}(?:{decimal}[0-9]*)?|{decimal}[0-9]+)(?:[eE][+-]?[0-9]+)?"


def parse_number(text: str, table_format: TableFormat) -> float | None:
    """Converts a text such as -1.5 or 2e-3 to a number; None if it is not one in float32."""
    import pandas

    cells = pandas.Series([text.strip()], dtype="str")
    number: float = parse_numbers(cells, table_format).item()
    if math.isnan(number):
        return None
    return number


def parse_numbers(cells: "Series", table_format: TableFormat) -> Numbers:
    """Converts texts to numbers: float64, shape (N,), NaN for what is not a number in float32."""
    texts = cells.where(cells.str.fullmatch(number_pattern(table_format)))
    if table_format.thousands:
        texts = texts.str.replace(thousands_pattern(table_format), "", regex=True)
    if table_format.decimal != ".":
        texts = texts.str.replace(table_format.decimal, ".", regex=False)
    if texts.str.startswith("+").any():  # Arrow reads no plus sign
        texts = texts.str.removeprefix("+")
    # Arrow converts a million texts in 0.02 s, NumPy in 0.14 s.
    arrow_numbers = texts.astype("double[pyarrow]")
    numbers: Numbers = arrow_numbers.to_numpy(np.float64, na_value=np.nan, copy=True)
    numbers[np.abs(numbers) >= MAX_NUMBER] = np.nan
    return numbers


def numbers_of(rows: Table, column: str) -> Numbers:
    """The numbers in a column: float64, shape (N,), NaN for other texts.

    All rows of the file are read at once, and only once for all splits.
    """
    if column not in rows.parsed_numbers:
        rows.parsed_numbers[column] = parse_numbers(rows.frame[column], rows.table_format)
    return rows.select(rows.parsed_numbers[column])


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
    numbers = numbers_of(rows, column)
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
    known = np.where(is_missing, np.nan, numbers)
    return torch.from_numpy(known).reshape(-1, 1)


def find_invalid_number(rows: Table, column: str) -> int | None:
    """The position of the first cell of a column that has a value, but not a number."""
    is_invalid = np.isnan(numbers_of(rows, column)) & ~rows.is_missing(column)
    if not is_invalid.any():
        return None
    return int(is_invalid.argmax())


def advice_on_number(cell: str, table_format: TableFormat) -> str:
    """What to do about a cell that is not a number, to be appended to the message."""
    if re.fullmatch(r"[+-]?[0-9]*,[0-9]+", cell) and table_format.decimal == ".":
        return "; write it as in 1.5, or set data.decimal=comma or data.thousands=comma"
    if "\u2212" in cell:
        return "; write its minus sign as -"
    if re.fullmatch(rf"[+-]?[0-9]{{1,3}}([,.'\u2019 {SPACES}][0-9]{{3}})+([.,][0-9]+)?", cell):
        return "; set data.thousands and data.decimal to the separators of the file"
    if re.fullmatch(number_pattern(table_format), cell):
        return f" below {MAX_NUMBER:.0e}"
    return f"; write it as in 1{table_format.decimal}5 or 2e-3"


def has_numbers(rows: Table, column: str) -> bool:
    """Whether all values of a column are numbers.

    Identifiers are not: digits after a leading zero, as in 007, and codes such as 12e5 in a column
    that otherwise contains only digits.
    """
    if find_invalid_number(rows, column) is not None:
        return False
    cells = rows.known_cells(column)
    if len(cells) == 0:
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
        reason = f"{cell!r} counts as missing (remove it from data.missing if it is {what})"
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


def check_distinct(rows: Table, column: str, numbers: Tensor) -> None:
    """Raises a UserError if different cells, such as long identifiers, are the same in float64.

    Args:
        rows: rows of the table.
        column: name of the column.
        numbers: its numbers, float64; a column with several of them passes.
    """
    if (numbers != numbers.flatten()[0]).any():
        return
    exact = {}
    for text in rows.known_cells(column).unique():
        digits = re.sub(thousands_pattern(rows.table_format), "", text)
        exact[Decimal(digits.replace(rows.table_format.decimal, "."))] = text
    if len(exact) > 1:
        first, second = [*exact.values()][:2]
        raise UserError(
            f"{rows.file}: column {column!r}: {first!r} and {second!r} are the same number in "
            f"float64; set 'data.kinds={{{column}: category}}', add the column to data.ignore, or "
            "subtract an offset"
        )


def class_indices(rows: Table, column: str, training: bool = True) -> tuple[list[str], Tensor]:
    """Converts a column of classes to indices.

    Spellings of the same value (see `comparable_text`) are one class. It has the name of the most
    frequent one.

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
    counts = rows.cells(column).value_counts().to_dict()
    by_frequency = sorted(counts, key=lambda text: (-counts[text], text))
    by_form: dict[str, str] = {}
    for text in by_frequency:
        by_form.setdefault(comparable_text(text, rows.table_format), text)
    names = sorted(by_form.values())
    if training:
        _check_class_names(names, rows, column)
        warn_of_similar_texts(names, rows, column)
    return names, text_positions(rows, column, names)


def text_positions(rows: Table, column: str, names: Sequence[str]) -> Tensor:
    """The position of each cell among some names, int64, shape (N,); -1 if it is none of them.

    Spellings of the same value are equal (see `comparable_text`). A missing value is an empty text.
    """
    table_format = rows.table_format
    positions = {comparable_text(name, table_format): k for k, name in enumerate(names)}
    texts, codes = rows.factorize(column)
    found = []
    for text in texts:
        if text in table_format.missing:
            text = ""
        found.append(positions.get(comparable_text(text, table_format), -1))
    return torch.tensor(found, dtype=torch.int64)[torch.from_numpy(codes)]


def comparable_text(text: str, table_format: TableFormat) -> str:
    """The form of a category or class in which the spellings of different programs are equal.

    True and TRUE become true, and 1.0 becomes 1: with a missing value in the column, pandas writes
    integers so. Invisible characters are removed, and all spaces are ordinary ones.
    """
    text = normalize_name(text)
    text = BOOLEANS.get(text, text)
    fraction = f"{table_format.decimal}0"
    if re.fullmatch(rf"-?(?:0|[1-9][0-9]*){re.escape(fraction)}", text):
        text = text.removesuffix(fraction)
    return text


def warn_of_similar_texts(texts: Sequence[str], rows: Table, column: str) -> None:
    """Logs a warning if some of the categories or classes in a column can mean the same."""
    seen: dict[str, str] = {}
    for text in texts:
        folded = unicodedata.normalize("NFKC", text).casefold()
        folded = " ".join(re.sub(f"[{JOINERS}]", "", folded).split())
        other = seen.setdefault(folded, text)
        if other != text:
            log.warning(
                "%s: column %r contains %r and %r, which only differ in case, in spaces or in the "
                "form of their characters; if they mean the same, write them alike",
                rows.file,
                column,
                other,
                text,
            )
            return


def _check_class_names(names: Sequence[str], rows: Table, column: str) -> None:
    """Raises a UserError if there is only one class, or too many of them."""
    if len(names) < 2:
        raise UserError(
            f"{rows.file}: column {column!r} has only one class, {names[0]!r}; provide at least two"
        )
    if len(names) > len(rows) / MIN_ROWS_PER_CLASS:
        raise UserError(
            f"{rows.file}: column {column!r} has {len(names)} classes in {len(rows)} rows, such as "
            f"{names[0]!r}; classes need {MIN_ROWS_PER_CLASS} rows each on average, so set "
            "data.target to a column of classes, not of numbers or texts"
        )
