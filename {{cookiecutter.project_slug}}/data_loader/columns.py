"""Columns of a table as tensors."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from data_loader.tables import Row
from utils.errors import UserError

MAX_NUMBER = 1e38  # float32 ends at 3.4e38
MAX_LISTED_CHARACTERS = 200  # of the names of classes in an error message
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


def mean_and_std(values: Tensor) -> tuple[float, float]:
    """Computes mean and standard deviation, which is 1 if all values are equal."""
    exact = values.double()
    std = exact.std(correction=0).item()
    if std == 0:  # values are divided by it
        std = 1.0
    return exact.mean().item(), std


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
