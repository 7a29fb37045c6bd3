"""Your data set: replace the points that it makes by samples that you read from `root`."""

from pathlib import Path
from typing import Any

import torch

from base.base_dataset import BaseDataset, Sample
from utils.errors import UserError
from utils.randomness import make_generator

SAMPLES = {"train": 2000, "validation": 500, "test": 500}
RADIUS = 0.8


class MyDataset(BaseDataset):
    """Points, float32, shape (2,), and whether they are inside a circle (1) or not (0), int64.

    Args:
        root: folder of the data, the setting `data.root`; not used yet.
        split: train, validation, test, or None for no samples.
        seed: random seed of the points.
    """

    title = "my data"
    classes = ("outside", "inside")
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        name = split or ""
        count = SAMPLES.get(name, 0)
        rng = make_generator(seed, *name.encode())  # different points in each split
        self.points = 2 * torch.rand(count, 2, generator=rng) - 1
        self.targets = (self.points.norm(dim=1) < RADIUS).long()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.points[index], "target": self.targets[index]}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads an argument of `predict.py`: two numbers with a comma between them."""
        try:
            x, y = map(float, source.split(","))
        except ValueError:
            raise UserError(f"{source}: not two numbers; write them as in 0.5,1") from None
        return [(source, {"input": torch.tensor([x, y])})]

    def describe_input(self) -> dict[str, Any]:
        """Tells the users of an exported file how to prepare an input."""
        return {"kind": "numbers", "columns": ["x", "y"], "dtype": "float32"}
