"""Circles, squares and crosses in colour, made in code."""

from pathlib import Path

import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from data_loader import transforms
from utils.randomness import make_generator

COUNTS = {"train": 3000, "validation": 500, "test": 1000}


class Shapes(BaseDataset):
    """Images, uint8, shape (3, 32, 32), of one shape each; colours, size and place are random.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no images.
        seed: what the images are drawn from.
    """

    title = "shapes"
    classes = ("circle", "square", "cross")
    fitted = ("mean_and_std",)
    mean_and_std: tuple[float, float]
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        rng = make_generator(seed, *str(split).encode())  # another one for each split
        self.images, self.targets = make_shapes(COUNTS.get(split or "", 0), rng)
        if split == "train":
            self.mean_and_std = transforms.pixel_statistics(self.images)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.images[indices], "target": self.targets[indices]}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        images = batch["input"]
        if generator is not None:
            images = transforms.random_crop(images, 2, generator)
            images = transforms.random_horizontal_flip(images, generator)
        return {**batch, "input": transforms.normalize(images, *self.mean_and_std)}


def make_shapes(count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Images, uint8, shape (N, 3, 32, 32), and classes, int64, shape (N,)."""
    targets = torch.randint(3, (count,), generator=rng)
    left, top, relative_size = torch.rand(3, count, 1, 1, generator=rng)
    size = 5 + 4 * relative_size
    row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    x = (column - 10 - 12 * left).abs()
    y = (row - 10 - 12 * top).abs()
    low = torch.minimum(x, y)
    high = torch.maximum(x, y)
    circle = x**2 + y**2 <= size**2
    square = high <= 0.85 * size
    cross = (low <= size / 4) & (high <= size)
    shapes = torch.stack([circle, square, cross], dim=1)
    shape = shapes[torch.arange(count), targets].unsqueeze(1)
    light, dark = torch.rand(2, count, 3, 1, 1, generator=rng)
    noise = 25 * torch.randn(count, 3, 32, 32, generator=rng)
    images = torch.where(shape, 130 + 125 * light, 120 * dark) + noise
    return images.clamp(0, 255).byte(), targets
