"""A data set of points from a CSV file, for regression."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from base.base_dataset import Batch, Sample
from data_loader.columns import check_varies, mean_and_std, parse_number, read_numbers
from data_loader.example_points import EXAMPLES
from data_loader.splits import split_rows
from data_loader.standardization import describe_target, restore, standardize
from data_loader.table_dataset import TableDataset
from data_loader.tables import TABLE_SUFFIXES, read_table
from data_loader.unicode_forms import normalize_name
from logger.figures import Figure, curve_figure
from utils.errors import UserError


class Points(TableDataset):
    """Points (x, y): x is a sample's input and y its target, both float32, shape (1,).

    Both are standardized, in float64, to mean 0 and standard deviation 1 of the training points.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no points.
        seed: random seed that selects the validation points.
        file: Table in that folder: CSV, Excel, Parquet or Feather. The examples' files are created
            if they do not exist.
        x: Column of the inputs.
        y: Column of the targets.

    Raises:
        UserError: if the file, one of its columns or a cell cannot be used.
    """

    fitted: Sequence[str] = ("x_mean_and_std", "target_standardization")
    x_mean_and_std: tuple[float, float]
    target_standardization: list[tuple[float, float]]
    input_suffixes = TABLE_SUFFIXES
    in_memory = True
    uses_global_rng = False
    device_tensors = ("x", "y")

    def __init__(
        self,
        root: Path,
        split: str | None,
        seed: int,
        file: str = "regression/line.csv",
        x: str = "x",
        y: str = "y",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.title = Path(file).stem
        x = normalize_name(x)
        y = normalize_name(y)
        self.axes = (x, y)
        self.target = y
        self.x = torch.empty(0, 1)
        self.y = torch.empty(0, 1)
        self.points = torch.empty(0, 2, dtype=torch.float64)  # x and y as in the file
        if split is None:
            return
        rows = self.read_rows(root, file, (x, y), EXAMPLES)
        points = torch.cat([read_numbers(rows, x), read_numbers(rows, y)], dim=1)
        indices = split_rows(points[:, 1], split, seed)
        self.points = points[indices]
        self.rows = rows.take(indices)

    def fit(self) -> None:
        x, y = self.axes
        for values, column in zip(self.points.T, self.axes, strict=True):
            check_varies(values, column)
        self.x_mean_and_std = mean_and_std(self.points[:, 0], x)
        self.target_standardization = [mean_and_std(self.points[:, 1], y)]

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.x[index], "target": self.y[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.x[indices], "target": self.y[indices]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        x, y = self.axes
        self.x = standardize(self.points[:, :1], self.x_mean_and_std, x)
        self.y = standardize(self.points[:, 1:], self.target_standardization[0], y)

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads a number, or the column `x` of a table; see the base class."""
        column, _ = self.axes
        number = parse_number(source, self.table_format)
        if number is not None:
            value = torch.tensor([number], dtype=torch.float64)
            return [(source, {"input": standardize(value, self.x_mean_and_std, column)})]
        if not Path(source).is_file():
            raise UserError(
                f"{source!r} is neither a number within the range of float32 nor an existing file; "
                "give one of them"
            )
        rows = read_table(Path(source), [column], self.table_format)
        numbers = read_numbers(rows, column)
        inputs = standardize(numbers, self.x_mean_and_std, column)
        samples: list[tuple[str, Sample]] = []
        for x, standardized in zip(numbers, inputs, strict=True):
            samples.append((f"{x.item():.15g}", {"input": standardized}))
        return samples

    def describe_input(self) -> dict[str, Any]:
        column, target = self.axes
        mean, std = self.x_mean_and_std
        return {
            "kind": "number",
            "steps": ["in float64: (value - mean) / std", "convert the result to float32"],
            "columns": [column],
            "mean": mean,
            "std": std,
            "dtype": "float32",
            "target": describe_target(target, self.target_standardization),
        }

    def draw(self, batch: Batch, heading: str, titles: object = ()) -> Figure:
        x = restore(batch["input"], [self.x_mean_and_std])
        y = restore(batch["target"], self.target_standardization)
        return curve_figure(x, y, heading, self.axes)
