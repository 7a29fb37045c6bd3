"""A data set of points from a table, for regression."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from base.base_dataset import Batch, Sample
from data_loader.columns import mean_and_std, parse_number, read_numbers
from data_loader.example_points import EXAMPLES
from data_loader.splits import split_rows
from data_loader.table_dataset import TableDataset
from data_loader.tables import file_hash, read_table
from logger.figures import Figure, curve_figure
from utils.errors import UserError


class Points(TableDataset):
    """Points (x, y): x is a sample's input and y its target, both float32, shape (1,).

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

    fitted = ("x_mean_and_std", "target_mean_and_std")
    x_mean_and_std: tuple[float, float]
    target_mean_and_std: tuple[float, float]
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
        self.axes = (x, y)
        self.x = torch.empty(0, 1)
        self.y = torch.empty(0, 1)
        if split is None:
            return
        path = root / file
        rows = self.read_rows(path, split, (x, y), y, EXAMPLES.get(file))
        self.source = file_hash(path)
        all_x = read_numbers(rows, x).float()
        all_y = read_numbers(rows, y).float()
        indices = split_rows(all_y[:, 0], split, seed)
        self.x = all_x[indices]
        self.y = all_y[indices]

    def fit(self) -> None:
        self.x_mean_and_std = mean_and_std(self.x)
        self.target_mean_and_std = mean_and_std(self.y)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.x[index], "target": self.y[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.x[indices], "target": self.y[indices]}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads a number, or the column `x` of a table; see the base class."""
        number = parse_number(source)
        if number is not None and source.strip():
            return [(source, {"input": torch.tensor([number])})]
        if not Path(source).is_file():
            raise UserError(
                f"{source!r} is neither a number within the range of float32 nor an existing file; "
                "give one of them"
            )
        column, _ = self.axes
        rows = read_table(Path(source), [column], self.table_format)
        numbers = read_numbers(rows, column)
        samples: list[tuple[str, Sample]] = []
        for x in numbers:
            samples.append((f"{x.item():.6g}", {"input": x.float()}))
        return samples

    def describe_input(self) -> dict[str, Any]:
        column, _ = self.axes
        return {
            "kind": "number",
            "steps": ["the model takes the number as it is: it contains the standardization"],
            "columns": [column],
            "dtype": "float32",
        }

    def draw(self, batch: Batch, heading: str, titles: object = ()) -> Figure:
        return curve_figure(batch["input"], batch["target"], heading, self.axes)
