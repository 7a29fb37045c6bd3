"""Reads predictions.csv, in which evaluate.py saves what a model has predicted for each sample."""

import csv
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.run_files import as_number, ends_with_line_break

FILE = "predictions.csv"


@dataclass(frozen=True)
class Prediction:
    """What a model has predicted for one sample.

    Attributes:
        true: the class, or one number for each target.
        predicted: likewise.
        loss: the loss of this sample; infinite if it is missing.
        is_class: whether these are classes.
    """

    true: tuple[str, ...]
    predicted: tuple[str, ...]
    loss: float
    is_class: bool

    @property
    def is_correct(self) -> bool:
        """Whether the class is correct."""
        return self.true == self.predicted


def read_predictions(file: Path) -> dict[str, Prediction]:
    """The predictions of evaluate.py by the name of the sample.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not complete, or two samples have the same name.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    if not ends_with_line_break(file):
        raise ValueError(f"{file} ends in the middle of a row")
    predictions: dict[str, Prediction] = {}
    with file.open(encoding="utf-8", errors="replace", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        true_columns = _columns_of("true", columns)
        predicted_columns = _columns_of("predicted", columns)
        missing = [name for name in ("name", "loss") if name not in columns]
        if not true_columns:
            missing.append("true")
        if not predicted_columns:
            missing.append("predicted")
        if missing:
            raise ValueError(f"{file} has no column {', '.join(missing)}")
        for row in reader:
            if None in row.values():
                raise ValueError(f"{file}, line {reader.line_num}: the row is incomplete")
            if row["name"] in predictions:
                raise ValueError(f"{file}: two samples have the name {row['name']!r}")
            predictions[row["name"]] = Prediction(
                true=tuple(row[column] for column in true_columns),
                predicted=tuple(row[column] for column in predicted_columns),
                loss=_as_loss(row["loss"]),
                is_class="probability" in columns,
            )
    return predictions


def _columns_of(name: str, columns: Sequence[str]) -> list[str]:
    """The column of a value, or those of several targets, such as true_0 and true_1."""
    return [column for column in columns if re.fullmatch(rf"{name}(_\d+)?", column)]


def _as_loss(text: str) -> float:
    value = as_number(as_float(text))
    if value is None:
        return math.inf  # worse than any other
    return value


def as_float(text: str) -> float:
    """A number of the file; NaN if it is none, which equals no other."""
    try:
        return float(text)
    except ValueError:
        return math.nan
