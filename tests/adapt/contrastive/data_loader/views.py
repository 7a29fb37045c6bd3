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
        draws, count = make_generator(seed, *map(ord, split or "")), COUNTS.get(split or "", 0)
        self.targets = torch.randint(4, (count,), generator=draws)
        left, top, size = torch.rand(3, count, 1, 1, generator=draws)
        y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
        x, y, size = (x - 9 - 14 * left).abs(), (y - 9 - 14 * top).abs(), 6 + 2 * size
        low, high = torch.minimum(x, y), torch.maximum(x, y)
        round_and_straight = [x**2 + y**2 <= size**2, high <= 0.85 * size]
        others = [(low <= size / 4) & (high <= size), x + y <= 1.2 * size]
        shape = torch.stack(round_and_straight + others, 1)[torch.arange(count), self.targets]
        images = 80 + 90 * shape + 30 * torch.randn(shape.shape, generator=draws)
        self.images = images.clamp(0, 255).byte().unsqueeze(1)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.images[indices], "target": self.targets[indices]}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        names = ("input",) if generator is None else ("input", "other")
        return {**batch, **{name: self._look(batch["input"], generator) for name in names}}

    def _look(self, images: Tensor, generator: Generator | None) -> Tensor:
        """Elsewhere, in other contrast and with other noise, if there is a generator."""
        if generator is None:
            return transforms.normalize(images, 0.4, 0.2)
        moved = transforms.random_crop(images, 7, generator)
        moved = transforms.random_horizontal_flip(moved, generator)
        contrast = 0.7 + 0.6 * torch.rand(len(images), 1, 1, 1, generator=generator)
        noise = 0.5 * torch.randn(images.shape, generator=generator)
        return contrast * transforms.normalize(moved, 0.4, 0.2) + noise
