"""Images: whole batches of them, each with a random draw of its own, and files."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Generator, Tensor
from torch.nn import functional

from utils.errors import UserError
from utils.seed import generator


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
    order = torch.randperm(len(targets), generator=generator(seed, 0))
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
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, places, places, H, W)
        places = torch.randint(2 * shift + 1, (2, n), generator=generator)
        chosen = torch.rand(n, generator=generator) < shifted
        top, left = torch.where(chosen, places, shift)  # `shift` from the edges is the middle
        images = windows[torch.arange(n), :, top, left]
    if flip:
        mirrored = torch.rand(n, 1, 1, 1, generator=generator) < 0.5
        images = torch.where(mirrored, images.flip(3), images)
    return images


def read_grey_image(file: Path, height: int, width: int) -> Tensor:
    """Any image that Pillow reads, in grey, fitted on black without changing its proportions.

    Transparent parts become black; values of more than 8 bits are scaled to 8.

    Returns:
        uint8, shape (1, H, W).

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
            grey = ImageOps.pad(image.convert("L"), (width, height))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        reason = (
            isinstance(error, OSError) and error.strerror
        ) or "it is no image, or a broken one"
        raise UserError(f"{file}: cannot be read; {reason}") from error
    return torch.from_numpy(np.array(grey)).unsqueeze(0)
