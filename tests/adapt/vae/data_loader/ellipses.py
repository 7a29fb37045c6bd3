"""Images of an ellipse, without labels, made in code."""

from pathlib import Path

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from utils.randomness import make_generator

COUNTS = {"train": 4000, "validation": 500, "test": 1000}
SIDE = 16


class Ellipses(BaseDataset):
    """Images, float32, shape (1, 16, 16): 1 inside an ellipse at random, 0 outside. No targets.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no images.
        seed: random seed of the images.
    """

    title = "ellipses"
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        name = split or ""
        rng = make_generator(seed, *name.encode())
        numbers = torch.rand(4, COUNTS.get(name, 0), 1, 1, generator=rng)
        left, top = 5 + 5 * numbers[:2]
        width, height = 2 + 3 * numbers[2:]
        y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
        distance = ((x - left) / width) ** 2 + ((y - top) / height) ** 2
        self.images = (distance <= 1).float().unsqueeze(1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.images[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.images[indices]}
