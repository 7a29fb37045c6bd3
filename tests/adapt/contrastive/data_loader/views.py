"""Two views of each image, for learning without labels."""

from pathlib import Path

import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from data_loader import transforms
from utils.randomness import make_generator

COUNTS = {"train": 6000, "validation": 500, "test": 1000}


class Views(BaseDataset):
    """Grey images, uint8, shape (1, 32, 32), of a circle, square, cross or diamond on noise.

    To train with, each image is there twice, as ``input`` and as ``other``.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no images.
        seed: what the images are drawn from.
    """

    title = "views of shapes"
    classes = ("circle", "square", "cross", "diamond")
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        rng = make_generator(seed, *str(split).encode())  # another one for each split
        count = COUNTS.get(split or "", 0)
        self.targets = torch.randint(4, (count,), generator=rng)
        left, top, relative_size = torch.rand(3, count, 1, 1, generator=rng)
        size = 6 + 2 * relative_size
        row, column = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
        x = (column - 9 - 14 * left).abs()
        y = (row - 9 - 14 * top).abs()
        low = torch.minimum(x, y)
        high = torch.maximum(x, y)
        circle = x**2 + y**2 <= size**2
        square = high <= 0.85 * size
        cross = (low <= size / 4) & (high <= size)
        diamond = x + y <= 1.2 * size
        shapes = torch.stack([circle, square, cross, diamond], dim=1)
        shape = shapes[torch.arange(count), self.targets]
        images = 80 + 90 * shape + 30 * torch.randn(shape.shape, generator=rng)
        self.images = images.clamp(0, 255).byte().unsqueeze(1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.images[indices], "target": self.targets[indices]}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        views = {"input": self._view(batch["input"], generator)}
        if generator is not None:
            views["other"] = self._view(batch["input"], generator)
        return {**batch, **views}

    def _view(self, images: Tensor, generator: Generator | None) -> Tensor:
        """The images; with a generator, moved, with another contrast and with noise."""
        if generator is None:
            return transforms.normalize(images, 0.4, 0.2)
        moved = transforms.random_crop(images, 7, generator)
        moved = transforms.random_horizontal_flip(moved, generator)
        contrast = 0.7 + 0.6 * torch.rand(len(images), 1, 1, 1, generator=generator)
        noise = 0.5 * torch.randn(images.shape, generator=generator)
        return contrast * transforms.normalize(moved, 0.4, 0.2) + noise
