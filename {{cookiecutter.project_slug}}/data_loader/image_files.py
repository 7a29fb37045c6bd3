"""Image files as tensors of a given size."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFile, ImageOps
from torch import Tensor

from data_loader.pixel_types import (
    WHITE_12_BITS,
    WHITE_16_BITS,
    WHITE_FLOAT,
    has_8_bits,
    scale_to_8_bits,
    scale_transparent_colour,
    white_is_zero,
    white_value,
)
from data_loader.unicode_forms import find_file
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

# Pillow converts these modes to RGB and grey in two steps only.
INTERMEDIATE_MODES = {"La": "LA", "LAB": "RGB"}

# Pillow only warns of an image above its limit, and raises an error above twice the limit.
warnings.simplefilter("error", Image.DecompressionBombWarning)


def read_image(
    file: Path, size: int, colour: bool = False, crop: bool = False, white: float | None = None
) -> Tensor:
    """Reads an image in any format that Pillow supports, and resizes it to a square.

    The aspect ratio is kept. Transparent parts become black. Of several images in a file, such as
    the frames of an animation, the first one is read.

    The type of the pixels defines the value of white, never the image itself: 255 for 8 bits,
    4095 for 12, 65535 for 16, and 1 for floating-point numbers. For 32-bit or signed integers,
    `white` must be given.

    Args:
        file: image file.
        size: pixels on each side.
        colour: whether the result is RGB, not grey.
        crop: whether the image fills the square and is cropped at its centre. Otherwise it is
            padded with black.
        white: value of a white pixel in images of more than 8 bits, such as 4095 for 12 bits that
            are stored as 16; None for the value that the type defines.

    Returns:
        uint8, shape (1, size, size), or (3, size, size) in colour.

    Raises:
        UserError: if the file cannot be read, is not an image, or is too large; if the value of
            white is unknown, or a pixel is not between 0 and white; if a transparent colour has 16
            bits per channel.
    """
    file = find_file(file)
    if file.exists() and not file.is_file():
        raise UserError(f"{file}: cannot be read; it is not a regular file")
    try:
        with Image.open(file) as opened:
            image = _read_8_bits(file, opened, white)
            image = _on_black(image)
            image = image.convert("RGB" if colour else "L")
            if crop:
                square = ImageOps.fit(image, (size, size))
            else:
                square = ImageOps.pad(image, (size, size))
            pixels = np.array(square)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        excess = str(error).partition(",")[0]
        raise UserError(
            f"{file}: the image is too large: {excess}; scale it down, or raise the limit, "
            "PIL.Image.MAX_IMAGE_PIXELS, in data_loader/image_files.py"
        ) from error
    except (OSError, ValueError, SyntaxError) as error:
        # Errors of the operating system have a `strerror`; Pillow's own errors have none.
        reason = (
            getattr(error, "strerror", None) or "it is damaged, or not an image that Pillow reads"
        )
        raise UserError(f"{file}: cannot be read; {reason}") from error
    pixels = pixels.reshape(size, size, -1)
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous()


def describe_image(
    size: int, colour: bool = False, crop: bool = False, white: float | None = None
) -> dict[str, Any]:
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
            "of several images in a file, take the first one",
            "rotate it as its EXIF orientation says (ImageOps.exif_transpose)",
            "if a pixel has more than 8 bits: multiply by 255 / W and round, where W is the entry "
            "of its type in `white`; null, a pixel below 0 or above W, and NaN are errors",
            "if it has transparency: composite it onto black",
            "convert it to the colour mode",
            "resize it to a square without a change of the aspect ratio",
            "crop it at the centre, if `crop` is given",
            "multiply the pixels by `scale`, subtract `mean`, divide by `std`",
            "arrange the pixels by channel, row and column",
        ],
        "white": {
            "12-bit integer": white or WHITE_12_BITS,
            "16-bit integer": white or WHITE_16_BITS,
            "32-bit or signed integer": white,
            "floating-point number": white or WHITE_FLOAT,
        },
        "colour_mode": colour_mode,
        "resize": resize,
        "scale": 1 / 255,
    }


def _read_8_bits(file: Path, opened: ImageFile.ImageFile, white: float | None) -> Image.Image:
    """Reads the pixels of an image, in its upright orientation, with 8 bits per channel."""
    # Pillow forgets how the pixels are stored when it reads them.
    white = white_value(file, opened, white)
    inverted = white_is_zero(opened)
    scale_transparent_colour(file, opened)
    image = ImageOps.exif_transpose(opened)
    if not has_8_bits(image):
        return scale_to_8_bits(file, image, white, inverted)
    if image.mode in INTERMEDIATE_MODES:
        return image.convert(INTERMEDIATE_MODES[image.mode])
    return image


def _on_black(image: Image.Image) -> Image.Image:
    """Composites an image that has transparency onto black."""
    if not image.has_transparency_data:
        return image
    image = image.convert("RGBA")
    background = Image.new("RGBA", image.size, "black")
    return Image.alpha_composite(background, image)
