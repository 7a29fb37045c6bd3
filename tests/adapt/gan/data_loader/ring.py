"""Points around eight centres on a circle."""

import math
from pathlib import Path

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from utils.randomness import make_generator

COUNTS = {"train": 50_000, "validation": 1000, "test": 1000}
RADIUS = 2
ANGLES = torch.arange(8) * math.tau / 8
CENTRES = RADIUS * torch.stack([ANGLES.cos(), ANGLES.sin()], 1)
STD = 0.1  # of the points around a centre


class Ring(BaseDataset):
    """Points, float32, shape (2,), without targets.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no points.
        seed: random seed of the points.
    """

    title = "ring of points"
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        name = split or ""
        rng = make_generator(seed, *name.encode())
        count = COUNTS.get(name, 0)
        centres = CENTRES[torch.randint(len(CENTRES), (count,), generator=rng)]
        self.points = centres + STD * torch.randn(count, 2, generator=rng)

    def __len__(self) -> int:
        return len(self.points)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.points[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.points[indices]}
