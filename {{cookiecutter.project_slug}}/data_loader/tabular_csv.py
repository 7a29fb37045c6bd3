"""Tables of numbers and categories with gaps, from a CSV file."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from data_loader.tables import (
    Row,
    class_indices,
    divide,
    hash_of,
    mean_and_std,
    parse_number,
    read_data,
    read_numbers,
    read_rows,
    write_rows,
)
from utils.errors import UserError
from utils.randomness import make_generator

ROWS = 3000  # in the example
CATEGORIES = 100  # that a column may have; more of them are names or numbers
LIKE_A_NUMBER = re.compile(r"\W*\d[\d.,' ]*\W*")  # 1,5 or 12 % or $3


class TabularCSV(BaseDataset):
    """Rows as float32, shape (F,), and a class (int64) or a number (float32, shape (1,)).

    A column whose cells are numbers or empty in all training rows gives one value, of mean 0 and
    standard deviation 1 (an empty cell 0), and if there are gaps another one that marks them. Any
    other column gives one value for each category, 1 or 0; empty is a category of its own, and
    one that the training rows do not have gives zeros. A column without a name is left out.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no rows.
        seed: what the choice of the validation rows is drawn from.
        file: CSV file in that folder; the example's is made if it is not there.
        target: Column to predict.
        predict: What that holds, classes or numbers (for trainer.name=regressor.Regressor).
        ignore: Columns that are left out.
        stratify: Whether each split has the shares of classes or values, or what chance gives it.
        missing: Cells that count as empty.

    Raises:
        UserError: naming file, column and row, if a cell does not fit.
    """

    fitted = ("numbers", "categories", "target_mean_and_std")
    numbers: dict[str, tuple[float, float, bool]]  # mean, standard deviation, whether with gaps
    categories: dict[str, list[str]]
    target_mean_and_std: tuple[float, float]
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
    ) -> None:
        self.title, self.rows, self.missing = Path(file).stem, list[Row](), missing
        self.features = self.targets = torch.empty(0)
        if split is None:
            return
        rows = self._fill(read_data(root / file, [target], EXAMPLES.get(file)))
        self.source = hash_of(root / file)
        for column in ignore:
            if column not in rows[0]:
                text = f"data.ignore: {file} has no column {column!r}, but {', '.join(rows[0])}; "
                raise UserError(f"{text}data.ignore=[] leaves none out")
        if predict == "class":
            self.classes, targets = class_indices(rows, target)
        else:
            targets = read_numbers(rows, target).float()
        chosen = divide(targets.reshape(-1), split, seed, self.classes, stratify)
        unused = {target, *ignore, ""}
        self.rows = [{k: v for k, v in rows[i].items() if k not in unused} for i in chosen.tolist()]
        self.targets = targets[chosen]
        if split == "train":  # other splits are given what is learned here
            self._learn()
            self.features = self._encode(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.features[index], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.features[indices], "target": self.targets[indices]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        for column in (*self.numbers, *self.categories):
            if self.rows and column not in self.rows[0]:
                text = f"{self.title}: the model was trained with a column {column!r}, which is "
                raise UserError(f"{text}missing or left out here; there are {[*self.rows[0]]}")
        self.features = self._encode(self.rows)

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Of the rows of a CSV file."""
        rows = self._fill(read_rows(Path(source), [*self.numbers, *self.categories]))
        features = self._encode(rows)
        return [(f"{source} row {k}", {"input": row}) for k, row in enumerate(features, 1)]

    def table(self, batch: Batch) -> list[list[str]]:
        names = [
            name
            for column, (_, _, gaps) in self.numbers.items()
            for name in [column, f"{column} missing"][: 1 + gaps]
        ]
        names += [f"{column}={name}" for column, found in self.categories.items() for name in found]
        cells = [[f"{value:.3g}" for value in row] for row in batch["input"].tolist()]
        targets = batch["target"].reshape(-1).tolist()
        texts = [self.classes[value] if self.classes else f"{value:.6g}" for value in targets]
        return [[*names, "target"], *([*row, text] for row, text in zip(cells, texts, strict=True))]

    def _learn(self) -> None:
        """Tells numbers from categories; notes means and spreads, and the categories' names."""
        self.numbers, self.categories, self.target_mean_and_std = {}, {}, (0.0, 1.0)
        if not self.classes:
            self.target_mean_and_std = mean_and_std(self.targets)
        for column in self.rows[0]:
            cells = [row[column] for row in self.rows]
            values = [parse_number(cell) for cell in cells]
            filled = [value for value in values if value is not None and not math.isnan(value)]
            if filled and None not in values:
                known = mean_and_std(torch.tensor(filled, dtype=torch.float64))
                self.numbers[column] = *known, len(filled) < len(cells)
                continue
            likely = [cell for cell in cells if LIKE_A_NUMBER.fullmatch(cell)]
            if len({*likely}) > len({*cells}) / 2 and len({*cells}) > 3:
                odd = cells[values.index(None)]
                text = f"column {column!r}: {odd!r} is no number, but most of it looks so; "
                raise UserError(f"{text}mend it, or use data.missing or data.ignore")
            self.categories[column] = sorted(set(cells))
            if (count := len(self.categories[column])) > CATEGORIES:
                text = f"has {count} different texts, such as {cells[0]!r}; if it says nothing, "
                raise UserError(f"column {column!r} {text}name it in data.ignore")

    def _fill(self, rows: Sequence[Row]) -> list[Row]:
        """The rows, where cells that count as empty are so."""
        empty = {*self.missing}
        return [{k: "" if v in empty else v for k, v in row.items()} for row in rows]

    def _encode(self, rows: Sequence[Row]) -> Tensor:
        """What the model gets for rows: float32, shape (N, F)."""
        features = []
        for column, (mean, spread, gaps) in self.numbers.items():
            values = read_numbers(rows, column, gaps=True)[:, 0]
            features.append(((values - mean) / spread).nan_to_num().float())
            features += [values.isnan().float()] * gaps
        for column, names in self.categories.items():
            cells = [row[column] for row in rows]
            features += [torch.tensor([float(cell == name) for cell in cells]) for name in names]
        if not features:
            raise UserError("there are no columns left to predict from")
        return torch.stack(features, dim=1)


def make_apartments(file: Path) -> None:
    """Flats for rent, of which year and heating are not always known."""
    draws = make_generator(3)
    uniform = torch.rand(ROWS, 8, generator=draws).tolist()
    noise = (60 * torch.randn(ROWS, generator=draws)).tolist()
    districts = ["Centre", "Harbour", "Hill", "North", "Park"]
    heatings = ["gas", "heat pump", "oil"]
    header = "area_m2 rooms floor year district heating rent level"
    rows: list[Sequence[object]] = [header.split()]
    for (a, b, c, d, e, f, g, h), error in zip(uniform, noise, strict=True):
        area, floor, year = 20 + 110 * a * (0.5 + b / 2), int(9 * c), int(1900 + 121 * d)
        district, heating = int(5 * e), int(3 * f)
        rent = 150 + area * (11 - 1.2 * district) + 8 * floor + (year - 1950) + 40 * (heating == 1)
        rent = max(round(rent + error), 100)
        level = "low" if rent < 550 else "middle" if rent < 850 else "high"
        known = "" if g < 0.08 else year, districts[district], "" if h < 0.05 else heatings[heating]
        rows.append((f"{area:.1f}", 1 + int(area / 28 + b / 2), floor, *known, rent, level))
    write_rows(file, rows)


EXAMPLES = {"tabular/apartments.csv": make_apartments}
