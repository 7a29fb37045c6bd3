"""Windows of a series of hourly values with a daily cycle, made in code."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Sample
from config.schema import Count
from utils.errors import UserError
from utils.randomness import make_generator

HOURS = 8000
# Each split is later than the one before. No window is in two of them.
HOURS_OF_SPLIT = {"train": (0, 6000), "validation": (6000, 7000), "test": (7000, HOURS)}


class LoadSeries(BaseDataset):
    """Values of the past, float32, shape (past,), and those that follow, shape (future,).

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no values.
        seed: random seed of the series.
        past: Hours that a forecast is made from.
        future: Hours to forecast.
    """

    title = "hourly load"
    fitted = ("target_mean_and_std",)
    target_mean_and_std: tuple[float, float]
    in_memory = True
    uses_global_rng = False

    def __init__(
        self, root: Path, split: str | None, seed: int, past: Count = 48, future: Count = 6
    ) -> None:
        self.past = past
        self.future = future
        start, end = HOURS_OF_SPLIT.get(split or "", (0, 0))
        self.series = make_series(make_generator(seed))[start:end]

    def fit(self) -> None:
        self.target_mean_and_std = (self.series.mean().item(), self.series.std().item())

    def __len__(self) -> int:
        return max(len(self.series) - self.past - self.future + 1, 0)

    def __getitem__(self, index: int) -> Sample:
        now = index + self.past
        return {"input": self.series[index:now], "target": self.series[now : now + self.future]}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads a text file with a number for each hour up to now; see the base class."""
        values = np.loadtxt(source, dtype=np.float32, ndmin=1)
        if len(values) < self.past:
            raise UserError(f"{source}: {len(values)} numbers; a forecast needs {self.past}")
        return [(source, {"input": torch.from_numpy(values[-self.past :])})]


def make_series(rng: Generator) -> Tensor:
    """Values around 100, float32, shape (HOURS,), that vary more by day than by night."""
    shocks = torch.randn(HOURS, generator=rng).tolist()
    deviations = [0.0]
    for shock in shocks[1:]:
        deviations.append(0.9 * deviations[-1] + shock)
    day = (math.tau * torch.arange(HOURS) / 24).sin()
    return 100 + 30 * day + (3 + 2 * day) * torch.tensor(deviations)
