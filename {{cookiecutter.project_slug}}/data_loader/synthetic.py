"""A data set of striped images, made in code for demos and tests without a network."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from data_loader import transforms
from data_loader.image_files import IMAGE_SUFFIXES, describe_image, read_image
from data_loader.splits import split_indices
from utils.randomness import make_generator

# Numbers of images. The validation images are some of the training images.
TRAINING = 10_000
VALIDATION = 1_000
TEST = 2_000
CLASSES = 10
SIZE = 28  # pixels, height and width of an image
ANGLE_STD = 0.25  # standard deviation within a class, where neighbouring classes differ by 1


class Synthetic(BaseDataset):
    """Noisy stripes whose class is their angle: uint8, shape (1, 28, 28), and int64.

    Phase, width and contrast of the stripes are random, so no single pixel predicts the class. The
    angles of neighbouring classes overlap, so about one image in twenty is ambiguous.

    Args:
        root: not used, as nothing is read.
        split: train, validation (a part of the training images), test, or None for no images.
        seed: random seed that selects the validation images. The images do not depend on it.
    """

    title = "synthetic data"
    classes = [f"{180 * k // CLASSES} degrees" for k in range(CLASSES)]  # noqa: RUF012
    fitted: Sequence[str] = ("mean_and_std",)  # of training pixels scaled to [0, 1]
    mean_and_std: tuple[float, float]
    input_suffixes = IMAGE_SUFFIXES
    in_memory = True
    uses_global_rng = False
    device_tensors = ("images", "targets")

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        if split is None:
            count = 0
        elif split == "test":
            count = TEST
        else:
            count = TRAINING
        test_key = int(split == "test")  # other images than those of training
        images, targets = make_stripes(count, make_generator(test_key))
        # Without a split there are no images, and "test" selects all of them.
        indices = split_indices(targets, split or "test", VALIDATION, seed)
        self.images = images[indices]
        self.targets = targets[indices]

    def fit(self) -> None:
        self.mean_and_std = transforms.pixel_statistics(self.images)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.images[indices], "target": self.targets[indices]}

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        images = batch["input"]
        if rng is not None:
            # Not flipped: the mirror image belongs to another class.
            images = transforms.random_crop(images, padding=1, rng=rng)
        return {**batch, "input": transforms.normalize(images, *self.mean_and_std)}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads an image file; see the base class."""
        return [(source, {"input": read_image(Path(source), SIZE)})]

    def describe_input(self) -> dict[str, Any]:
        mean, std = self.mean_and_std
        return {**describe_image(SIZE), "mean": mean, "std": std, "dtype": "float32"}


def make_stripes(count: int, rng: Generator) -> tuple[Tensor, Tensor]:
    """Makes images, uint8, shape (N, 1, 28, 28), and their classes, int64, shape (N,)."""
    targets = torch.randint(CLASSES, (count,), generator=rng)
    positions = targets + ANGLE_STD * torch.randn(count, generator=rng)
    angle = (positions * math.pi / CLASSES).reshape(-1, 1, 1)
    width, phase, contrast = torch.rand(3, count, 1, 1, generator=rng)

    y, x = torch.meshgrid(torch.arange(SIZE), torch.arange(SIZE), indexing="ij")
    distance = x * angle.cos() + y * angle.sin()  # in pixels, across the stripes
    frequency = (2 + 2 * width) / SIZE  # stripes per pixel
    waves = (math.tau * (frequency * distance + phase)).sin()
    noise = 0.2 * torch.randn(waves.shape, generator=rng)
    brightness = 0.5 + (0.2 + 0.3 * contrast) * waves + noise
    images = (brightness.clamp(0, 1) * 255).byte()
    return images.unsqueeze(1), targets
