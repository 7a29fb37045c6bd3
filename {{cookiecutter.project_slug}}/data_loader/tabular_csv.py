"""A data set of the rows of a table."""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from base.base_dataset import Batch, Sample
from data_loader.columns import (
    advice_on_number,
    check_distinct,
    check_varies,
    comparable_text,
    find_invalid_number,
    has_numbers,
    mean_and_std,
    read_numbers,
    text_positions,
    warn_of_similar_texts,
)
from data_loader.dates import date_notation, date_parts, read_dates
from data_loader.example_apartments import EXAMPLES
from data_loader.standardization import describe_target, restore, standardize
from data_loader.table_dataset import TableDataset
from data_loader.tables import TABLE_SUFFIXES, Table, read_table
from data_loader.unicode_forms import list_visibly, normalize_name
from logger.console import format_number, log
from utils.errors import UserError

MAX_CATEGORIES = 100  # per column; a column with more of them contains names or numbers
MIN_VALUES_OF_NUMBERS = 4  # different texts in a column that can be mistyped numbers
NUMBER_LIKE = re.compile(r"\W*\d[\d.,'\u2019\s]*\W*")  # such as 1,5 or 12 % or $3

Kind = Literal["number", "date", "category"]


class TabularCSV(TableDataset):
    """Rows of a table with numbers, dates, categories and missing values.

    A sample's input is float32, shape (F,). Its target is a class (int64) or a number (float32,
    shape (1,)).

    A column is numeric if all its cells in the training rows are numbers or have no value. It is
    standardized, and a cell without a value becomes 0. If training rows have such cells, a second
    feature is 1 for these and 0 for others. A column of dates becomes several numbers: the parts
    of the date, and the seconds since the first training date. Any other column is one-hot encoded.
    A cell without a value is a category of its own; a category that is not in the training
    rows is encoded as zeros. A column without a name is ignored.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no rows.
        seed: random seed that selects the validation rows.
        file: Table in that folder: CSV, Excel, Parquet or Feather. The example's file is created if
            it does not exist.
        target: Column to predict.
        predict: Kind of the target: a class, or a number (with trainer.name=regressor.Regressor).
        ignore: Columns that are not used.
        kinds: Kinds of columns that are not to be detected: number, date or category.
        day_first: Whether dates have the day before the month, as in 31/12/2020; by default, this
            is detected.
        stratify: Whether all splits have the same distribution of targets.

    Raises:
        UserError: if the file, one of its columns or a cell cannot be used.
    """

    fitted = ("numbers", "dates", "categories", "target_standardization")
    numbers: dict[str, tuple[float, float, bool]]  # mean, standard deviation, any cell missing
    dates: dict[str, dict[str, Any]]  # notation, first date, any cell missing, statistics by part
    categories: dict[str, list[str]]
    target_standardization: list[tuple[float, float]]  # mean and std; empty for classes
    input_suffixes = TABLE_SUFFIXES
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
        kinds: dict[str, Kind] | None = None,
        day_first: bool | None = None,
        stratify: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.title = Path(file).stem
        self.split = split
        self.target = normalize_name(target)
        self.kinds = {normalize_name(column): kind for column, kind in (kinds or {}).items()}
        self.day_first = day_first
        self.indices = torch.empty(0, dtype=torch.int64)
        self.features = torch.empty(0)
        self.targets = torch.empty(0)
        if split is None:
            return
        target = self.target
        ignored = [normalize_name(column) for column in ignore]
        rows = self.read_rows(root, file, [target], EXAMPLES)
        _check_columns_exist("ignore", ignored, rows)
        _check_columns_exist("kinds", self.kinds, rows)
        if target in self.kinds:
            raise UserError(
                f"data.kinds: {target!r} is the target, which has no kind; set data.predict=class "
                "or data.predict=number"
            )
        self.columns = [name for name in rows.columns if name not in (target, *ignored)]

        if predict == "class":
            targets = self.read_classes(split)
        else:
            targets = read_numbers(rows, target)
        self.indices = self.select_rows(targets, split, seed, stratify)
        self.unscaled_targets = self.targets  # as in the file; numbers are float64

    def fit(self) -> None:
        """Finds out which columns are numbers or dates, their statistics, and the categories."""
        self.numbers = {}
        self.dates = {}
        self.categories = {}
        self.target_standardization = []
        if not self.classes:
            check_varies(self.unscaled_targets, self.target)
            self.target_standardization = [mean_and_std(self.unscaled_targets, self.target)]
        for column in self.columns:
            kind = self.kinds.get(column) or self._detect_kind(self.rows, column)
            if kind == "number":
                self.numbers[column] = _fit_numbers(self.rows, column)
            elif kind == "date":
                self.dates[column] = _fit_dates(self.rows, column, self.day_first)
            else:
                self.categories[column] = _fit_categories(self.rows, column)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.features[index], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.features[indices], "target": self.targets[indices]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if len(self) > 0:
            self._check_columns()
            if self.split == "test":
                self._warn_of_unknown_categories(self.rows)
            if self.target_standardization:
                (statistics,) = self.target_standardization
                self.targets = standardize(self.unscaled_targets, statistics, self.target)
            if self.split == "train":  # which is built first: report invalid cells of any split
                self.features = self._encode(self.all_rows, self.indices)
            else:
                self.features = self._encode(self.rows, torch.arange(len(self)))

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads the rows of a table; see the base class."""
        columns = [*self.numbers, *self.dates, *self.categories]
        rows = read_table(Path(source), columns, self.table_format)
        self._warn_of_unknown_categories(rows)
        features = self._encode(rows, torch.arange(len(rows)))
        samples: list[tuple[str, Sample]] = []
        for place, row in zip(rows.places(), features, strict=True):
            samples.append((f"{source} {place}", {"input": row}))
        return samples

    def describe_input(self) -> dict[str, Any]:
        columns: list[dict[str, Any]] = []
        for column, (mean, std, has_missing) in self.numbers.items():
            number = {"name": column, "kind": "number", "mean": mean, "std": std}
            columns.append({**number, "missing_feature": has_missing})
        for column, date in self.dates.items():
            columns.append({"name": column, "kind": "date", **date})
        for column, categories in self.categories.items():
            columns.append({"name": column, "kind": "category", "categories": categories})
        steps = [
            "remove spaces around cells; cells with a text in `missing` are empty",
            "number: (value - mean) / std, or 0 for an empty cell; if `missing_feature`, append 1 "
            "for an empty cell, otherwise 0; `thousands` and `decimal` are the separators",
        ]
        if self.dates:
            steps.append(
                "date: convert it to UTC; for each of the parts (year, month, day, day_of_week "
                "with Monday = 0, hour, elapsed = seconds since `first`): (value - mean) / std, or "
                "0 for an empty cell; if `missing_feature`, append 1 for an empty cell, else 0"
            )
        steps += [
            "category: one feature for each of the categories, which is 1 for the cell's text and "
            "otherwise 0; an unknown text gives zeros; true and false are written in lower case, "
            "1.0 as 1, all spaces as ordinary ones, and characters without a width are removed",
            "concatenate the features of the columns in their order here",
        ]
        description: dict[str, Any] = {
            "kind": "row of a table",
            "steps": steps,
            "missing": [*self.table_format.missing],
            "decimal": self.table_format.decimal,
            "thousands": self.table_format.thousands,
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

    def _detect_kind(self, rows: Table, column: str) -> Kind:
        """The kind of a column.

        Raises:
            UserError: if most of its cells, but not all, look like numbers.
        """
        if has_numbers(rows, column):
            return "number"
        if date_notation(rows, column, self.day_first):
            return "date"
        _check_not_mistyped(rows, column)
        return "category"

    def _check_columns(self) -> None:
        """Raises a UserError if the rows lack a column that the model was trained with."""
        for column in (*self.numbers, *self.dates, *self.categories):
            if column not in self.columns:
                raise UserError(
                    f"{self.title}: no column {column!r}, which the model was trained with; the "
                    f"columns are {list_visibly(self.columns)}; add it, or remove it from "
                    "data.ignore"
                )

    def _encode(self, rows: Table, indices: Tensor) -> Tensor:
        """Converts rows to the model's inputs.

        All rows are read, so that an invalid cell is found in those that are not encoded, too.

        Args:
            rows: rows of the table.
            indices: those that are encoded, int64, shape (N,).

        Returns:
            float32, shape (N, F).
        """
        width = len(self._feature_names())
        if width == 0:
            raise UserError("no columns are left to predict from; name fewer in data.ignore")
        features = torch.empty(len(indices), width)
        for position, values in enumerate(self._features(rows)):
            features[:, position] = values[indices]
        return features

    def _features(self, rows: Table) -> Iterator[Tensor]:
        """Yields each feature of all rows: shape (N,), one at a time, because they may be many."""
        for column, (mean, std, has_missing) in self.numbers.items():
            values = read_numbers(rows, column, allow_missing=True)[:, 0]
            yield standardize(values, (mean, std), column).nan_to_num()
            if has_missing:
                yield values.isnan()
        for column, date in self.dates.items():
            dates = read_dates(rows, column, date["notation"])
            parts = date_parts(dates, date["first"])
            for part, (mean, std) in date["parts"].items():
                values = torch.from_numpy(parts[part])
                yield standardize(values, (mean, std), f"{column} {part}").nan_to_num()
            if date["missing_feature"]:
                yield torch.from_numpy(parts["elapsed"]).isnan()
        for column, categories in self.categories.items():
            codes = text_positions(rows, column, categories)
            for code in range(len(categories)):
                yield codes == code

    def _warn_of_unknown_categories(self, rows: Table) -> None:
        for column, categories in self.categories.items():
            is_unknown = text_positions(rows, column, categories) < 0
            if is_unknown.any():
                position = int(is_unknown.int().argmax())
                log.warning(
                    "%s: no training row has %r, so its features are 0",
                    rows.locate(position, column),
                    rows.cells(column).iloc[position],
                )

    def _feature_names(self) -> list[str]:
        """Returns the name of each feature."""
        names: list[str] = []
        for column, (_, _, has_missing) in self.numbers.items():
            names.append(column)
            if has_missing:
                names.append(f"{column} missing")
        for column, date in self.dates.items():
            names += [f"{column} {part}" for part in date["parts"]]
            if date["missing_feature"]:
                names.append(f"{column} missing")
        for column, categories in self.categories.items():
            names += [f"{column}={category}" for category in categories]
        return names


def _fit_numbers(rows: Table, column: str) -> tuple[float, float, bool]:
    """Returns mean, standard deviation, and whether values are missing.

    Raises:
        UserError: if float64 cannot distinguish the values.
    """
    values = read_numbers(rows, column, allow_missing=True)
    known = values[~values.isnan()]
    if len(known) == 0:
        return 0.0, 1.0, True
    check_distinct(rows, column, known)
    mean, std = mean_and_std(known, column)
    return mean, std, len(known) < len(values)


def _fit_dates(rows: Table, column: str, day_first: bool | None) -> dict[str, Any]:
    """Returns the notation of a column of dates, the first date, and the statistics of its parts.

    Raises:
        UserError: if most of the cells are not dates, or a date has another notation.
    """
    is_missing = rows.is_missing(column)
    notation = date_notation(rows, column, day_first)
    if not notation:
        raise UserError(
            f"{rows.file}: column {column!r} is of kind date (data.kinds), but most of its cells "
            "are not dates that are written alike; correct them, or set another kind"
        )
    dates = read_dates(rows, column, notation)
    first = dates.min().isoformat()
    statistics = {}
    for part, values in date_parts(dates, first).items():
        known = torch.from_numpy(values[~is_missing])
        statistics[part] = mean_and_std(known, f"{column} {part}")
    return {
        "notation": notation,
        "first": first,
        "missing_feature": bool(is_missing.any()),
        "parts": statistics,
    }


def _fit_categories(rows: Table, column: str) -> list[str]:
    """Returns the categories in a column, sorted.

    Raises:
        UserError: if there are too many.
    """
    texts = rows.known_cells(column).unique()
    categories = {comparable_text(text, rows.table_format) for text in texts}
    if rows.is_missing(column).any():
        categories.add("")
    if len(categories) > MAX_CATEGORIES:
        raise UserError(
            f"{rows.file}: column {column!r} has {len(categories)} different texts, such as "
            f"{texts[0]!r}; at most {MAX_CATEGORIES} categories are allowed, so add the "
            "column to data.ignore, or set its kind (data.kinds)"
        )
    names = sorted(categories)
    warn_of_similar_texts(names, rows, column)
    return names


def _check_not_mistyped(rows: Table, column: str) -> None:
    """Raises a UserError if most of the different texts in a column look like numbers."""
    position = find_invalid_number(rows, column)
    if position is None:  # identifiers
        return
    texts = rows.known_cells(column).unique().tolist()
    number_like = [text for text in texts if NUMBER_LIKE.fullmatch(text)]
    if len(number_like) <= len(texts) / 2 or len(texts) < MIN_VALUES_OF_NUMBERS:
        return
    cell = rows.cells(column).iloc[position]
    raise UserError(
        f"{rows.locate(position, column)}: {cell!r} is not a number, but most cells look like "
        f"numbers{advice_on_number(cell, rows.table_format)}, or add it to data.missing, or the "
        f"column to data.ignore, or set 'data.kinds={{{column}: category}}'"
    )


def _check_columns_exist(setting: str, names: Iterable[str], rows: Table) -> None:
    """Raises a UserError if a setting names a column that the file does not have."""
    for column in names:
        if column not in rows.columns:
            raise UserError(
                f"data.{setting}: {rows.file.name} has no column {column!r}; the columns are "
                f"{list_visibly(rows.columns)}; data.ignore=[] ignores none"
            )
