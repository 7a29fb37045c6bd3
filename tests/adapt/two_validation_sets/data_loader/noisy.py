"""The synthetic images with more noise."""

from pathlib import Path

import torch

from config.schema import NonNegative
from data_loader.synthetic import Synthetic
from utils.randomness import make_generator


class Noisy(Synthetic):
    """Striped images as those of `Synthetic`, with noise.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no images.
        seed: random seed that selects the validation images.
        noise: Standard deviation of the noise, where pixels range from 0 to 255.
    """

    def __init__(self, root: Path, split: str | None, seed: int, noise: NonNegative = 0.0) -> None:
        super().__init__(root, split, seed)
        rng = make_generator(seed)
        noisy_images = self.images + noise * torch.randn(self.images.shape, generator=rng)
        self.images = noisy_images.clamp(0, 255).byte()
