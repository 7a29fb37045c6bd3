"""Images of a blob, without labels, made in code."""

from pathlib import Path

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from utils.randomness import make_generator

COUNTS = {"train": 4000, "validation": 500, "test": 1000}


class Blobs(BaseDataset):
    """Images, float32, shape (1, 16, 16): a blob of random place and size. No targets.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no images.
        seed: what the images are drawn from.
    """

    title = "blobs"
    fitted = ("mean", "std")  # of the training images
    mean: float
    std: float
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        rng = make_generator(seed, *str(split).encode())  # another one for each split
        count = COUNTS.get(split or "", 0)
        left, top, size = torch.rand(3, count, 1, 1, generator=rng)
        y, x = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
        distance = (x - 3 - 9 * left) ** 2 + (y - 3 - 9 * top) ** 2
        self.images = torch.exp(-distance / (2 + 3 * size) ** 2).unsqueeze(1)
        if split == "train":
            self.mean = self.images.mean().item()
            self.std = self.images.std().item()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.images[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.images[indices]}

    def transform(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        return {"input": (batch["input"] - self.mean) / self.std}
