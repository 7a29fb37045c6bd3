"""Ten classes of striped images made in code, for demos and tests without a network."""

import math
from pathlib import Path

import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from data_loader import transforms
from utils.randomness import make_generator

TRAINING, VALIDATION, TEST = 10_000, 1_000, 2_000  # images; validation is a part of training
TILT = 0.25  # spread of the stripes' angle, as a share of the angle between two classes


class Synthetic(BaseDataset):
    """Noisy stripes whose class is their angle: uint8, shape (1, 28, 28), and int64.

    Phase, width and contrast of the stripes are random, so no pixel alone tells anything; the
    angles of neighbouring classes overlap, so about one image in twenty cannot be told for sure.

    Args:
        root: not used, as nothing is read.
        split: train, validation (a part of the training images), test, or None for no images.
        seed: what the choice of the validation images is drawn from; the images do not depend
            on it.
    """

    title = "synthetic data"
    classes = [f"synthetic {18 * k} degrees" for k in range(10)]  # noqa: RUF012
    fitted = ("mean_and_std",)  # of the training pixels, as shares of 255
    mean_and_std: tuple[float, float]
    in_memory = True
    uses_global_rng = False
    device_tensors = ("images", "targets")

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        count = {None: 0, "test": TEST}.get(split, TRAINING)
        self.images, self.targets = make_stripes(count, draws=make_generator(split == "test"))
        chosen = transforms.split_indices(self.targets, split or "test", VALIDATION, seed)
        self.images, self.targets = self.images[chosen], self.targets[chosen]
        if split == "train":  # other splits are given what is learned here
            self.mean_and_std = transforms.pixel_statistics(self.images)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.images[indices], "target": self.targets[indices]}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        images = batch["input"]
        if generator is not None:  # not mirrored, as that would be another class
            images = transforms.augment(images, shift=1, flip=False, generator=generator)
        return {**batch, "input": transforms.normalize(images, *self.mean_and_std)}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        return [(source, {"input": transforms.read_image(Path(source), 28)})]


def make_stripes(count: int, draws: Generator) -> tuple[Tensor, Tensor]:
    """Images, uint8, shape (N, 1, 28, 28), and classes, int64, shape (N,)."""
    targets = torch.randint(10, (count,), generator=draws)
    angle = (targets + TILT * torch.randn(count, generator=draws)) * math.pi / 10
    width, phase, contrast = torch.rand(3, count, 1, 1, generator=draws)
    y, x = torch.meshgrid(torch.arange(28), torch.arange(28), indexing="ij")
    along = x * angle.cos().reshape(-1, 1, 1) + y * angle.sin().reshape(-1, 1, 1)  # in pixels
    waves = (math.tau * ((2 + 2 * width) / 28 * along + phase)).sin()
    noise = 0.2 * torch.randn(waves.shape, generator=draws)
    images = (0.5 + (0.2 + 0.3 * contrast) * waves + noise).clamp(0, 1) * 255
    return images.byte().unsqueeze(1), targets
