"""Your data: replace the points made here with what you read from `root`."""

from pathlib import Path

import torch

from base.base_dataset import BaseDataset, Sample
from utils.errors import UserError
from utils.randomness import make_generator

COUNTS = {"train": 2000, "validation": 500, "test": 500}


class MyDataset(BaseDataset):
    """Points, float32, shape (2,), and whether they lie inside a circle or outside, int64.

    Args:
        root: the folder of the data, the setting `data.root`; not used yet.
        split: train, validation, test, or None for no samples.
        seed: what the points are drawn from.
    """

    title = "my data"
    classes = ("outside", "inside")
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        draws = make_generator(seed, *map(ord, split or ""))
        self.points = 2 * torch.rand(COUNTS.get(split or "", 0), 2, generator=draws) - 1
        self.targets = (self.points.norm(dim=1) < 0.8).long()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.points[index], "target": self.targets[index]}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """An argument of `predict.py`, two numbers with a comma between them."""
        try:
            x, y = map(float, source.split(","))
        except ValueError:
            raise UserError(f"{source}: these are not two numbers, such as 0.5,1") from None
        return [(source, {"input": torch.tensor([x, y])})]
