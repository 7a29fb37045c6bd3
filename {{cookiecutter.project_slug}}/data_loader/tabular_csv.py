"""A data set of the rows of a CSV file."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from base.base_dataset import BaseDataset, Batch, Sample
from data_loader.columns import (
    check_varies,
    class_indices,
    map_classes,
    mean_and_std,
    parse_number,
    read_numbers,
)
from data_loader.example_apartments import EXAMPLES
from data_loader.splits import split_rows
from data_loader.standardization import describe_target, restore, standardize
from data_loader.tables import Row, example_maker, file_hash, read_data, read_rows
from data_loader.unicode_forms import normalize_name
from logger.console import format_number
from utils.errors import UserError

MAX_CATEGORIES = 100  # per column; a column with more of them contains names or numbers
MIN_VALUES_OF_NUMBERS = 4  # different texts in a column that can be mistyped numbers
NUMBER_LIKE = re.compile(r"\W*\d[\d.,' ]*\W*")  # such as 1,5 or 12 % or $3


class TabularCSV(BaseDataset):
    """Rows of a table with numbers, categories and missing values.

    A sample's input is float32, shape (F,). Its target is a class (int64) or a number (float32,
    shape (1,)), which is standardized to mean 0 and standard deviation 1 of the training rows.

    A column is numeric if all its cells in the training rows are numbers or empty. It is
    standardized, and an empty cell becomes 0. If training rows have empty cells, a second feature
    is 1 for these and 0 for others. Any other column is one-hot encoded. An empty cell is a
    category of its own; a category that is not in the training rows is encoded as zeros. A column
    without a name is ignored.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no rows.
        seed: random seed that selects the validation rows.
        file: CSV file in that folder. The example's file is created if it does not exist.
        target: Column to predict.
        predict: Kind of the target: a class, or a number (with trainer.name=regressor.Regressor).
        ignore: Columns that are not used.
        stratify: Whether all splits have the same distribution of targets.
        missing: Texts of cells that count as empty.
        create_example: whether the file of the example may be created; only a new run does it.

    Raises:
        UserError: if the file, one of its columns or a cell cannot be used.
    """

    fitted = ("numbers", "categories", "target_standardization")
    numbers: dict[str, tuple[float, float, bool]]  # mean, standard deviation, any cell missing
    categories: dict[str, list[str]]
    target_standardization: list[tuple[float, float]]  # mean and std; empty for classes
    input_suffixes = (".csv", ".tsv", ".txt")
    in_memory = True
    uses_global_rng = False
    device_tensors = ("features", "targets")

    def __init__(
        self,
        root: Path,
        split: str | None,
        seed: int,
        file: str = "tabular/apartments.csv",
        target: str = "level",
        predict: Literal["class", "number"] = "class",
        ignore: tuple[str, ...] = (),
        stratify: bool = True,
        missing: tuple[str, ...] = ("NA", "N/A", "n/a", "NaN", "nan", "NULL", "null", "-", "?"),
        create_example: bool = True,
    ) -> None:
        self.title = Path(file).stem
        self.missing = [normalize_name(text) for text in missing]
        self.rows: list[Row] = []
        self.features = torch.empty(0)
        self.targets = torch.empty(0)
        self.target = target
        if split is None:
            return
        is_training = split == "train"
        target = normalize_name(target)
        ignore = tuple(normalize_name(column) for column in ignore)
        path = root / file
        make = example_maker(root, file, EXAMPLES, create_example)
        rows = self._with_empty_cells(read_data(path, [target], make))
        self.source = file_hash(path)
        _check_ignored(file, ignore, list(rows[0]))

        if predict == "class":
            self.classes, targets = class_indices(rows, target, training=is_training)
        else:
            targets = read_numbers(rows, target)
        # A file to evaluate may lack a class.
        checked_classes = self.classes if is_training else ()
        indices = split_rows(targets.reshape(-1), split, seed, checked_classes, stratify)
        self.targets = targets[indices]
        self.unscaled_targets = self.targets  # as in the file; numbers are float64
        unused = {target, "", *ignore}
        used = [column for column in rows[0] if column not in unused]
        self.row_numbers = (indices + 1).tolist()
        for index in indices.tolist():
            self.rows.append({column: rows[index][column] for column in used})

    def fit(self) -> None:
        """Finds out which columns are numeric, their statistics, and the categories of others."""
        self.numbers = {}
        self.categories = {}
        self.target_standardization = []
        if not self.classes:
            check_varies(self.unscaled_targets, self.target)
            self.target_standardization = [mean_and_std(self.unscaled_targets, self.target)]
        for column in self.rows[0]:
            cells = [row[column] for row in self.rows]
            statistics = _fit_numbers(cells, column)
            if statistics is not None:
                self.numbers[column] = statistics
            else:
                self.categories[column] = _fit_categories(cells, column)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.features[index], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.features[indices], "target": self.targets[indices]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.rows:
            self._check_columns()
            for statistics in self.target_standardization:
                self.targets = standardize(self.unscaled_targets, statistics, self.target)
        self.features = self._encode(self.rows)

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads the rows of a CSV file; see the base class."""
        rows = read_rows(Path(source), [*self.numbers, *self.categories])
        features = self._encode(self._with_empty_cells(rows))
        samples: list[tuple[str, Sample]] = []
        for number, row in enumerate(features, 1):
            samples.append((f"{source} row {number}", {"input": row}))
        return samples

    def use_classes(self, classes: Sequence[str]) -> None:
        """Accepts a file that lacks some of the classes of the training data."""
        if not self.classes or not classes:  # one of them has numbers to predict
            super().use_classes(classes)
        try:
            self.targets = map_classes(self.targets, self.classes, classes, self.row_numbers)
        except UserError as error:
            raise UserError(f"{self.title}: {error}") from error

    def sample_name(self, index: int) -> str:
        """The number of the row below the header."""
        return f"row {self.row_numbers[index]}"

    def describe_input(self) -> dict[str, Any]:
        columns: list[dict[str, Any]] = []
        for column, (mean, std, has_missing) in self.numbers.items():
            number = {"name": column, "kind": "number", "mean": mean, "std": std}
            columns.append({**number, "missing_feature": has_missing})
        for column, categories in self.categories.items():
            columns.append({"name": column, "kind": "category", "categories": categories})
        description: dict[str, Any] = {
            "kind": "row of a table",
            "steps": [
                "remove spaces around cells; cells with a text in `missing` are empty",
                "number: (value - mean) / std, or 0 for an empty cell; if `missing_feature`, "
                "append 1 for an empty cell, otherwise 0",
                "category: one feature for each of the categories, which is 1 for the cell's text "
                "and otherwise 0; an unknown text gives zeros",
                "concatenate the features of the columns in their order here",
            ],
            "missing": [*self.missing],
            "columns": columns,
            "dtype": "float32",
        }
        if self.target_standardization:
            description["target"] = describe_target(self.target, self.target_standardization)
        return description

    def table(self, batch: Batch) -> list[list[str]]:
        lines = [[*self._feature_names(), "target"]]
        targets = batch["target"].reshape(-1).tolist()
        if self.target_standardization:
            targets = restore(batch["target"], self.target_standardization)[:, 0].tolist()
        for features, target in zip(batch["input"].tolist(), targets, strict=True):
            cells = [f"{value:.3g}" for value in features]
            if self.classes:
                cells.append(self.classes[target])
            else:
                cells.append(format_number(target))
            lines.append(cells)
        return lines

    def _with_empty_cells(self, rows: Sequence[Row]) -> list[Row]:
        """Empties the cells whose text means that the value is missing."""
        missing = set(self.missing)
        filled: list[Row] = []
        for row in rows:
            filled.append({k: "" if cell in missing else cell for k, cell in row.items()})
        return filled

    def _check_columns(self) -> None:
        """Raises a UserError if the rows lack a column that the model was trained with."""
        columns = list(self.rows[0])
        for column in (*self.numbers, *self.categories):
            if column not in columns:
                raise UserError(
                    f"{self.title}: no column {column!r}, which the model was trained with; the "
                    f"columns are {', '.join(columns)}; add it, or remove it from data.ignore"
                )

    def _encode(self, rows: Sequence[Row]) -> Tensor:
        """Converts rows to the model's inputs, float32, shape (N, F)."""
        features: list[Tensor] = []
        for column, (mean, std, has_missing) in self.numbers.items():
            values = read_numbers(rows, column, allow_missing=True)
            features.append(standardize(values, (mean, std), column).nan_to_num())
            if has_missing:
                features.append(values.isnan().float())
        for column, categories in self.categories.items():
            features.append(_one_hot(rows, column, categories))
        if not features:
            raise UserError("no columns are left to predict from; name fewer in data.ignore")
        return torch.cat(features, dim=1)

    def _feature_names(self) -> list[str]:
        """Returns the name of each feature."""
        names: list[str] = []
        for column, (_, _, has_missing) in self.numbers.items():
            names.append(column)
            if has_missing:
                names.append(f"{column} missing")
        for column, categories in self.categories.items():
            names += [f"{column}={category}" for category in categories]
        return names


def _fit_numbers(cells: Sequence[str], column: str) -> tuple[float, float, bool] | None:
    """Returns mean, standard deviation and whether cells are empty; None if not numeric."""
    numbers = []
    for cell in cells:
        number = parse_number(cell)
        if number is None:
            return None
        if not math.isnan(number):
            numbers.append(number)
    if not numbers:
        return None
    mean, std = mean_and_std(torch.tensor(numbers, dtype=torch.float64), column)
    has_missing = len(numbers) < len(cells)
    return mean, std, has_missing


def _fit_categories(cells: Sequence[str], column: str) -> list[str]:
    """Returns the categories in a column, sorted.

    Raises:
        UserError: if most of them look like numbers, or if there are too many.
    """
    categories = sorted(set(cells))
    number_like = [text for text in categories if NUMBER_LIKE.fullmatch(text)]
    if len(number_like) > len(categories) / 2 and len(categories) >= MIN_VALUES_OF_NUMBERS:
        invalid = [cell for cell in cells if parse_number(cell) is None]
        raise UserError(
            f"column {column!r}: {invalid[0]!r} is not a number, but most cells look like numbers; "
            "correct it, or add it to data.missing, or the column to data.ignore"
        )
    if len(categories) > MAX_CATEGORIES:
        raise UserError(
            f"column {column!r} has {len(categories)} different texts, such as {cells[0]!r}; at "
            f"most {MAX_CATEGORIES} categories are allowed, so add the column to data.ignore"
        )
    return categories


def _one_hot(rows: Sequence[Row], column: str, categories: Sequence[str]) -> Tensor:
    """Encodes a column as float32, shape (N, categories); zeros for an unknown category."""
    codes = {category: code for code, category in enumerate(categories)}
    unknown = len(categories)
    column_codes = [codes.get(row[column], unknown) for row in rows]
    indices = torch.tensor(column_codes, dtype=torch.int64)
    encoded = functional.one_hot(indices, len(categories) + 1)
    return encoded[:, :unknown].float()


def _check_ignored(file: str, ignored: Sequence[str], columns: Sequence[str]) -> None:
    """Raises a UserError if data.ignore names a column that the file does not have."""
    for column in ignored:
        if column not in columns:
            raise UserError(
                f"data.ignore: {file} has no column {column!r}; the columns are "
                f"{', '.join(columns)}; data.ignore=[] ignores none"
            )
