"""Pairs of numbers from a CSV file, between which there is a relation to be found."""

from pathlib import Path

import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from data_loader.tables import (
    divide,
    hash_of,
    mean_and_std,
    parse_number,
    read_data,
    read_numbers,
    read_rows,
    write_rows,
)
from logger.figures import Figure, curve_figure
from utils.errors import UserError
from utils.randomness import generator

POINTS, NOISE = 1200, 0.2  # how many of them the examples have, and its standard deviation


class Points(BaseDataset):
    """Points (x, y): both float32, shape (1,).

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no points.
        seed: what the choice of the validation points is drawn from.
        file: CSV file in that folder; the examples' are made if they are not there.
        x: Its column of inputs.
        y: Its column of targets.

    Raises:
        UserError: if there is no such file, or a cell is no number.
    """

    fitted = ("x_mean_and_std", "target_mean_and_std")
    x_mean_and_std: tuple[float, float]
    target_mean_and_std: tuple[float, float]
    in_memory = True
    device_tensors = ("x", "y")

    def __init__(
        self,
        root: Path,
        split: str | None,
        seed: int,
        file: str = "regression/line.csv",
        x: str = "x",
        y: str = "y",
    ) -> None:
        self.title, self.axes = Path(file).stem, (x, y)
        self.x = self.y = torch.empty(0, 1)
        if split:
            rows = read_data(root / file, (x, y), EXAMPLES.get(file))
            self.source = hash_of(root / file)
            self.x, self.y = read_numbers(rows, x).float(), read_numbers(rows, y).float()
            chosen = divide(self.y[:, 0], split, seed)
            self.x, self.y = self.x[chosen], self.y[chosen]
        if split == "train":  # other splits are given what is learned here
            self.x_mean_and_std = mean_and_std(self.x)
            self.target_mean_and_std = mean_and_std(self.y)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.x[index], "target": self.y[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.x[indices], "target": self.y[indices]}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Of a number, or of a CSV file with a column of them."""
        if (value := parse_number(source)) is not None and source.strip():
            return [(source, {"input": torch.tensor([value])})]
        if not Path(source).is_file():
            raise UserError(f"{source!r} is neither a number that float32 holds nor a file")
        numbers = read_numbers(read_rows(Path(source), self.axes[:1]), self.axes[0])
        return [(f"{value.item():.6g}", {"input": value.float()}) for value in numbers]

    def draw(self, batch: Batch, heading: str, titles: object = ()) -> Figure:
        return curve_figure(batch["input"], batch["target"], heading, self.axes)


def make_line(file: Path) -> None:
    """Points around y = 2x + 3."""
    x, noise = _draw(generator(1), 5.0)
    _write(file, x, 2 * x + 3 + noise)


def make_sine(file: Path) -> None:
    """Points around a wave of the sine, for x from -π to π."""
    x, noise = _draw(generator(2), torch.pi)
    _write(file, x, x.sin() + noise)


def _draw(draws: Generator, reach: float) -> tuple[Tensor, Tensor]:
    x = (2 * torch.rand(POINTS, generator=draws) - 1) * reach
    return x, NOISE * torch.randn(POINTS, generator=draws)


def _write(file: Path, x: Tensor, y: Tensor) -> None:
    pairs = zip(x.tolist(), y.tolist(), strict=True)
    write_rows(file, [("x", "y"), *((f"{a:.4f}", f"{b:.4f}") for a, b in pairs)])


EXAMPLES = {"regression/line.csv": make_line, "regression/sine.csv": make_sine}
