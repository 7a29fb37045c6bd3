"""Points around eight places on a circle."""

import math
from pathlib import Path

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from utils.randomness import make_generator

COUNTS = {"train": 50_000, "validation": 1000, "test": 1000}
ANGLES = torch.arange(8) * math.tau / 8
PLACES = 2 * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
SPREAD = 0.1


class Ring(BaseDataset):
    """Points, float32, shape (2,), without targets.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no points.
        seed: what the points are drawn from.
    """

    title = "ring of points"
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        draws, count = make_generator(seed, *map(ord, split or "")), COUNTS.get(split or "", 0)
        centres = PLACES[torch.randint(8, (count,), generator=draws)]
        self.points = centres + SPREAD * torch.randn(count, 2, generator=draws)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.points[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.points[indices]}
