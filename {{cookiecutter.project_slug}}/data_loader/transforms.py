"""Transforms of whole batches of images."""

import torch
from torch import Generator, Tensor
from torch.nn import functional

from utils.randomness import uniform


def pixel_statistics(images: Tensor) -> tuple[float, float]:
    """Computes mean and standard deviation of uint8 images scaled to [0, 1], in float64.

    The standard deviation of images of a single value is given as 1, so that they can be
    standardised.
    """
    histogram = torch.bincount(images.flatten(), minlength=256)
    frequencies = histogram.double() / images.numel()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (frequencies * values).sum()
    variance = (frequencies * (values - mean) ** 2).sum()
    return mean.item(), variance.sqrt().item() or 1.0


def normalize(images: Tensor, mean: float, std: float) -> Tensor:
    """Standardizes uint8 images, shape (N, C, H, W), to float32.

    Args:
        images: pixels from 0 to 255.
        mean: mean of the pixels scaled to [0, 1].
        std: standard deviation of the pixels scaled to [0, 1].
    """
    return (images.float() - 255 * mean) / (255 * std)


def random_crop(images: Tensor, padding: int, rng: Generator, probability: float = 1.0) -> Tensor:
    """Pads images with zeros and crops each at a random position to its original size.

    Args:
        images: shape (N, C, H, W).
        padding: pixels on each side.
        rng: random generator.
        probability: that an image is cropped at random. Other images stay as they are.
    """
    count, _, height, width = images.shape
    padded = functional.pad(images, (padding, padding, padding, padding))
    offsets = (uniform(rng, count, 2) * (2 * padding + 1)).long()
    is_cropped = uniform(rng, count, 1) < probability
    # An offset equal to the padding leaves the image as it is.
    offsets = torch.where(is_cropped, offsets, padding)
    top, left = offsets.unbind(1)
    return crop(padded, top, left, height, width)


def random_horizontal_flip(images: Tensor, rng: Generator) -> Tensor:
    """Mirrors each image, shape (N, C, H, W), with a probability of one half."""
    is_flipped = uniform(rng, len(images), 1, 1, 1) < 0.5
    return torch.where(is_flipped, images.flip(3), images)


def crop(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> Tensor:
    """Crops each image at its own position.

    Args:
        images: shape (N, C, H, W).
        top: first row of each crop, int64, shape (N,).
        left: first column of each crop, int64, shape (N,).
        height: rows of a crop.
        width: columns of a crop.
    """
    # Views of all possible crops: (N, C, rows, columns, height, width)
    windows = images.unfold(2, height, 1).unfold(3, width, 1)
    samples = torch.arange(len(images), device=images.device)
    return windows[samples, :, top, left]
