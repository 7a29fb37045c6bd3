"""Images: whole batches of them, each with a random draw of its own, and files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Generator, Tensor
from torch.nn import functional

from utils.errors import UserError
from utils.randomness import make_generator, uniform


def split_indices(targets: Tensor, split: str, validation: int, seed: int) -> Tensor:
    """Which samples a split has: all for ``test``; the others share the training samples.

    Args:
        targets: classes, int64, shape (N,).
        split: train, validation or test.
        validation: samples that are kept back for validation, with the classes' shares of all.
        seed: what the choice of those is drawn from.

    Returns:
        Sorted indices, int64.
    """
    if split == "test":
        return torch.arange(len(targets))
    order = torch.randperm(len(targets), generator=make_generator(seed, 0))
    order = order[targets[order].argsort(stable=True)]  # by class, at random within a class
    kept_back = torch.zeros(len(targets), dtype=torch.bool)
    # Evenly spaced places in an order by class give each class its share.
    kept_back[order[torch.arange(validation) * len(targets) // validation]] = True
    return (kept_back == (split == "validation")).nonzero().squeeze(1)


def pixel_statistics(images: Tensor) -> tuple[float, float]:
    """Mean and standard deviation of uint8 images, as shares of 255, exact to float64."""
    shares = torch.bincount(images.flatten(), minlength=256).double() / images.numel()
    values = torch.arange(256, dtype=torch.float64) / 255
    mean = (shares * values).sum()
    return mean.item(), (shares * (values - mean) ** 2).sum().sqrt().item()


def normalize(images: Tensor, mean: float, std: float) -> Tensor:
    """uint8 images, shape (N, C, H, W), as floats of mean 0 and standard deviation 1."""
    return (images.float() - 255 * mean) / (255 * std)


def augment(
    images: Tensor, shift: int, flip: bool, generator: Generator, shifted: float = 1.0
) -> Tensor:
    """Crops each image at random and mirrors each second one.

    Args:
        images: shape (N, C, H, W).
        shift: pixels of zeros around an image before it is cropped to its size again.
        flip: whether images are mirrored.
        generator: what places and mirrorings are drawn from.
        shifted: share of the images that are cropped; the others stay in their place.
    """
    n, _, height, width = images.shape
    if shift:
        padded = functional.pad(images, (shift,) * 4)
        places = (uniform(generator, n, 2) * (2 * shift + 1)).long()
        chosen = uniform(generator, n, 1) < shifted
        top, left = torch.where(chosen, places, shift).T  # `shift` from the edges is the middle
        images = cropped(padded, height, width, top, left)
    if flip:
        mirrored = uniform(generator, n, 1, 1, 1) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    return images


def cropped(images: Tensor, height: int, width: int, top: Tensor, left: Tensor) -> Tensor:
    """The part of each image, shape (N, C, H, W), at its own place: `top`, `left`, shape (N,)."""
    windows = images.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, places, places, H, W)
    return windows[torch.arange(len(images), device=images.device), :, top, left]


def read_image(file: Path, size: int, colour: bool = False, crop: bool = False) -> Tensor:
    """Any image that Pillow reads, in grey or colour, in a square.

    Its proportions stay: it is fitted on black or, with `crop`, fills the square, and what is
    beyond it is left out. Transparent parts become black; more than 8 bits are scaled to 8.

    Returns:
        uint8, shape (1, size, size), or in colour (3, size, size).

    Raises:
        UserError: naming the file, if it is no image.
    """
    if not file.is_file() and file.exists():
        raise UserError(f"{file}: cannot be read; it is no file")
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode.startswith(("I", "F")):
                values = np.asarray(image, dtype=np.float64)
                bounds = (65535,) if image.mode.startswith("I;16") else (1, 255, 65535)
                top = next((b for b in bounds if values.max(initial=0) <= b), np.inf)
                image = Image.fromarray((values / top * 255).clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "black"), image)
            fit = ImageOps.fit if crop else ImageOps.pad
            square = np.array(fit(image.convert("RGB" if colour else "L"), (size, size)))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = (
            isinstance(error, OSError) and error.strerror
        ) or "it is no image, or a broken one"
        raise UserError(f"{file}: cannot be read; {reason}") from error
    return torch.from_numpy(square).reshape(size, size, -1).permute(2, 0, 1).contiguous()
