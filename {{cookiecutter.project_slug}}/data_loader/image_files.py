"""Image files as tensors of a given size."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from utils.errors import UserError

# Of the files in a folder; a file that is named can have any ending.
IMAGE_SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)


def read_image(file: Path, size: int, colour: bool = False, crop: bool = False) -> Tensor:
    """Reads an image in any format that Pillow supports, and resizes it to a square.

    The aspect ratio is kept. Transparent parts become black. More than 8 bits are scaled to 8.

    Args:
        file: image file.
        size: pixels on each side.
        colour: whether the result is RGB, not grey.
        crop: whether the image fills the square and is cropped at its centre. Otherwise it is
            padded with black.

    Returns:
        uint8, shape (1, size, size), or (3, size, size) in colour.

    Raises:
        UserError: if the file cannot be read, or is not an image.
    """
    if file.exists() and not file.is_file():
        raise UserError(f"{file}: cannot be read; it is not a regular file")
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            image = _with_8_bits(image)
            image = _on_black(image)
            image = image.convert("RGB" if colour else "L")
            if crop:
                square = ImageOps.fit(image, (size, size))
            else:
                square = ImageOps.pad(image, (size, size))
            pixels = np.array(square)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        # Errors of the operating system have a `strerror`; Pillow's own errors have none.
        reason = getattr(error, "strerror", None) or "it is not an image, or it is damaged"
        raise UserError(f"{file}: cannot be read; {reason}") from error
    pixels = pixels.reshape(size, size, -1)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def describe_image(size: int, colour: bool = False, crop: bool = False) -> dict[str, Any]:
    """What `read_image` does with these arguments, in steps, as plain data.

    Other programs follow it, so it names the functions of Pillow only as examples.
    """
    resize: dict[str, Any] = {"height": size, "width": size, "filter": "bicubic"}
    if crop:
        resize["rule"] = "crop"
        resize["meaning"] = "scale it to cover the square, and crop it centrally (ImageOps.fit)"
    else:
        resize["rule"] = "pad"
        resize["meaning"] = "scale it to fit the square, and pad it evenly with 0 (ImageOps.pad)"
    colour_mode = "L"
    if colour:
        colour_mode = "RGB"
    return {
        "kind": "image",
        "steps": [
            "rotate it as its EXIF orientation says (ImageOps.exif_transpose)",
            "if it has more than 8 bits: multiply by 255 / 65535 for 16 bits; otherwise by "
            "255 / W, where W is the smallest of 1, 255, 65535 that no pixel exceeds",
            "if it has transparency: composite it onto black",
            "convert it to the colour mode",
            "resize it to a square without a change of the aspect ratio",
            "crop it at the centre, if `crop` is given",
            "multiply the pixels by `scale`, subtract `mean`, divide by `std`",
            "arrange the pixels by channel, row and column",
        ],
        "colour_mode": colour_mode,
        "resize": resize,
        "scale": 1 / 255,
    }


def _with_8_bits(image: Image.Image) -> Image.Image:
    """Scales the pixels of integer (I) and floating-point (F) images to 0 to 255."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    white = _white_value(image.mode, values.max(initial=0))
    scaled = values / white * 255
    return Image.fromarray(scaled.clip(0, 255).astype(np.uint8))


def _white_value(mode: str, largest: float) -> float:
    """Returns the value of a white pixel, given an image's mode and largest value."""
    if mode.startswith("I;16"):
        return 65535
    for white in (1, 255, 65535):
        if largest <= white:
            return white
    return math.inf


def _on_black(image: Image.Image) -> Image.Image:
    """Composites an image that has transparency onto black."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    background = Image.new("RGBA", image.size, "black")
    return Image.alpha_composite(background, image)
