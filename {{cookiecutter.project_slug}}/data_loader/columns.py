"""Columns of a table as tensors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from data_loader.tables import Row
from utils.errors import UserError

MAX_NUMBER = 1e38  # float32 ends at 3.4e38
MAX_LISTED_CHARACTERS = 200  # of the names of classes in an error message
MIN_STD = 1e-38  # of a column; float64 contains its square
MIN_STEPS_PER_STD = 32  # rounding then changes a variance by less than 0.01 %
MAX_EXACT_INTEGER = 2**53
MIN_ROWS_PER_CLASS = 4  # on average; in columns of numbers or names, most values occur once


def parse_number(text: str) -> float | None:
    """Converts the text of a cell to a number.

    Returns:
        NaN if the cell is empty; None if it is not a number, not finite, or too large for float32.
    """
    if not text.strip():
        return math.nan
    try:
        number = float(text)
    except ValueError:
        return None
    if abs(number) < MAX_NUMBER:  # which is false for NaN, too
        return number
    return None


def read_numbers(rows: Sequence[Row], column: str, allow_missing: bool = False) -> Tensor:
    """Converts a column of numbers to a tensor.

    Args:
        rows: rows of the table.
        column: name of the column.
        allow_missing: whether cells may be empty. They become NaN.

    Returns:
        float64, shape (N, 1).

    Raises:
        UserError: if a cell is not a number.
    """
    numbers = []
    for position, row in enumerate(rows, 1):
        number = parse_number(row[column])
        if number is None or (math.isnan(number) and not allow_missing):
            raise UserError(
                f"column {column!r}, row {position} below the header: {row[column]!r} is not a "
                "number; write it as in 1.5 or 2e-3"
            )
        numbers.append(number)
    return torch.tensor(numbers, dtype=torch.float64).reshape(-1, 1)


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


def class_indices(
    rows: Sequence[Row], column: str, training: bool = True
) -> tuple[list[str], Tensor]:
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
    for position, row in enumerate(rows, 1):
        if not row[column]:
            raise UserError(
                f"column {column!r}, row {position} below the header: no class is given; fill in "
                "the cell, or remove the row"
            )
    names = sorted({row[column] for row in rows})
    if training:
        _check_class_names(names, rows, column)
    indices = {name: index for index, name in enumerate(names)}
    return names, torch.tensor([indices[row[column]] for row in rows])


def map_classes(
    targets: Tensor, classes: Sequence[str], trained: Sequence[str], rows: Sequence[int]
) -> Tensor:
    """Converts indices of the classes of a file to those of the classes of a model.

    Args:
        targets: int64, shape (N,).
        classes: names of the classes in the file.
        trained: names of the classes that the model was trained with.
        rows: numbers of the rows of the targets below the header, for the error message.

    Raises:
        UserError: if the model does not know one of the classes.
    """
    indices = {name: index for index, name in enumerate(trained)}
    mapped = []
    for target, row in zip(targets.tolist(), rows, strict=True):
        name = classes[target]
        if name not in indices:
            raise UserError(
                f"row {row} below the header has the class {name!r}; the file has the classes "
                f"{_listing(classes)}, but the model was trained with {_listing(trained)}"
            )
        mapped.append(indices[name])
    return torch.tensor(mapped, dtype=torch.int64)


def _check_class_names(names: Sequence[str], rows: Sequence[Row], column: str) -> None:
    """Raises a UserError if there is only one class, or too many of them."""
    if len(names) < 2:
        raise UserError(f"column {column!r} has only one class, {names[0]!r}; provide at least two")
    if len(names) > len(rows) / MIN_ROWS_PER_CLASS:
        raise UserError(
            f"column {column!r} has {len(names)} classes in {len(rows)} rows, such as "
            f"{names[0]!r}; classes need {MIN_ROWS_PER_CLASS} rows each on average, so set "
            "data.target to a column of classes, not of numbers or texts"
        )


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names)[:MAX_LISTED_CHARACTERS]
