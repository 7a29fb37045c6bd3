"""A circle and a square on noise, with the class of each pixel, made in code."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from logger.figures import Figure, image_grid
from utils.randomness import make_generator

COUNTS = {"train": 2000, "validation": 300, "test": 500}


class Scenes(BaseDataset):
    """Grey images, float32, shape (1, 32, 32), and masks, int64, shape (32, 32).

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no images.
        seed: what the images are drawn from.
    """

    title = "scenes"
    classes = ("background", "circle", "square")
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        rng = make_generator(seed, *str(split).encode())  # another one for each split
        self.images, self.masks = make_scenes(COUNTS.get(split or "", 0), rng)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.images[indices], "target": self.masks[indices]}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        if generator is None:
            return batch
        mirrored = torch.rand(len(batch["input"]), 1, 1, generator=generator) < 0.5
        images = batch["input"]
        masks = batch["target"]
        return {
            "input": torch.where(mirrored[:, None], images.flip(3), images),
            "target": torch.where(mirrored, masks.flip(2), masks),
        }

    def draw(self, batch: Batch, heading: str, titles: Sequence[str] = ()) -> Figure:
        """Images, each with its mask beside it."""
        images = (batch["input"][:25].float() + 2) / 4
        pairs = torch.cat([images.clamp(0, 1), batch["target"][:25, None] / 2], dim=3)
        return image_grid(pairs, titles[:25] or [""] * len(pairs), heading)


def make_scenes(count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Images, float32, shape (N, 1, 32, 32), and masks, int64, shape (N, 32, 32)."""
    places = 6 + 20 * torch.rand(4, count, 1, 1, generator=rng)
    sizes = 3 + 4 * torch.rand(2, count, 1, 1, generator=rng)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    circle = (x - places[0]) ** 2 + (y - places[1]) ** 2 <= sizes[0] ** 2
    square = torch.maximum((x - places[2]).abs(), (y - places[3]).abs()) <= sizes[1]
    masks = torch.where(square, 2, torch.where(circle, 1, 0))
    noise = 0.4 * torch.randn(masks.shape, generator=rng)
    images = (masks > 0) + noise  # circles and squares are equally bright
    return images.unsqueeze(1), masks
