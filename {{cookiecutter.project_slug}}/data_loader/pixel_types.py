"""The pixels of images with 8 bits, scaled by the value of white that their type defines."""

import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import PHOTOMETRIC_INTERPRETATION, SAMPLEFORMAT, TiffImageFile

from utils.errors import UserError

WHITE_12_BITS = 4095
WHITE_16_BITS = 65535
WHITE_FLOAT = 1.0
FLOAT_TOLERANCE = 1e-5  # of white; resampling in float32 gives pixels such as 1.0000001
COLOUR_OF_16_BITS = re.compile(".+;16[BLN]")  # Pillow's name of this layout, such as RGB;16B
GREY_STEPS = {"L;2": 85, "L;4": 17}  # by layout: 255 divided by the highest level in the file
WHITE_IS_ZERO = 0  # a photometric interpretation of TIFF
SIGNED = (2,)  # a sample format of TIFF


def has_8_bits(image: Image.Image) -> bool:
    """Whether Pillow gives the pixels of an image with 8 bits per channel, or fewer."""
    return not image.mode.startswith(("I", "F"))


def white_value(file: Path, image: ImageFile.ImageFile, white: float | None) -> float:
    """Returns the value of white in the pixels that Pillow reads.

    Args:
        file: the image file, for error messages.
        image: the opened image, whose pixels have not been read.
        white: the value that replaces the one of a type with more than 8 bits, if given.

    Raises:
        UserError: if the type does not define the value, or `white` cannot be applied.
    """
    maximum = _netpbm_maximum(image)
    if has_8_bits(image):
        has_16_bits = COLOUR_OF_16_BITS.fullmatch(_layout(image)) or maximum == WHITE_16_BITS
        if white not in (None, WHITE_16_BITS) and has_16_bits:
            raise UserError(
                f"{file}: data.white={white:g} cannot be applied, because Pillow reads the upper 8 "
                "of the 16 bits per channel; save the image with 8 bits per channel"
            )
        if _tiff_tag(image, SAMPLEFORMAT) == SIGNED:
            raise UserError(f"{file}: its pixels are signed 8-bit integers; save it as unsigned")
        return 255
    if maximum not in (None, WHITE_16_BITS):  # Pillow has scaled the pixels by it
        return WHITE_16_BITS
    if white is not None:
        return white
    if image.mode == "F":
        return WHITE_FLOAT
    if _layout(image) == "I;12":
        return WHITE_12_BITS
    if image.mode.startswith("I;16") or image.format == "PPM":
        return WHITE_16_BITS
    raise UserError(
        f"{file}: the value of white is unknown, because the pixels are 32-bit or signed integers; "
        "set data.white to it, if the data set has it, or save the image with 8 or 16 bits"
    )


def white_is_zero(image: ImageFile.ImageFile) -> bool:
    """Whether an image is a TIFF with more than 8 bits whose value 0 means white.

    Pillow inverts such images only if they have 8 bits.
    """
    return not has_8_bits(image) and _tiff_tag(image, PHOTOMETRIC_INTERPRETATION) == WHITE_IS_ZERO


def scale_transparent_colour(file: Path, image: ImageFile.ImageFile) -> None:
    """Scales the transparent colour of a PNG like the pixels; Pillow scales the pixels only.

    Args:
        file: the image file, for error messages.
        image: the opened image, whose pixels have not been read.

    Raises:
        UserError: if the pixels lack the bits that tell which of them have this colour.
    """
    colour = image.info.get("transparency")
    if colour is None:
        return
    layout = _layout(image)
    if layout in GREY_STEPS:
        image.info["transparency"] = colour * GREY_STEPS[layout]
    if has_8_bits(image) and COLOUR_OF_16_BITS.fullmatch(layout):
        raise UserError(
            f"{file}: its transparent colour {colour} cannot be applied, because Pillow reads the "
            "upper 8 of the 16 bits per channel; save the image with 8 bits per channel"
        )


def scale_to_8_bits(file: Path, image: Image.Image, white: float, inverted: bool) -> Image.Image:
    """Scales a grey image with more than 8 bits.

    Args:
        file: the image file, for error messages.
        image: its pixels, in mode I, F or I;16.
        white: value that becomes 255.
        inverted: whether this value means black, and 0 means white.

    Raises:
        UserError: if a pixel is not finite, or not between 0 and `white`.
    """
    pixels = np.asarray(image)
    values = pixels.astype(np.float64)
    tolerance = 0.0
    if image.mode == "F":
        tolerance = FLOAT_TOLERANCE * white
    is_valid = (values >= -tolerance) & (values <= white + tolerance)  # false for NaN
    if not is_valid.all():
        value = pixels[~is_valid][0]
        advice = "correct the file"
        if np.isfinite(value) and value > 0:
            advice = "set data.white to the value of white, if the data set has it, or scale them"
        raise UserError(
            f"{file}: a pixel has the value {value!s}; allowed are 0 to {white:.9g} (white); "
            f"{advice}"
        )
    levels = np.rint(values * (255 / white)).clip(0, 255).astype(np.uint8)
    if inverted:
        levels = 255 - levels
    if "transparency" in image.info:  # the value of transparent pixels in a 16-bit PNG
        levels[values == image.info["transparency"]] = 0
    return Image.fromarray(levels)


def _layout(image: ImageFile.ImageFile) -> str:
    """Returns Pillow's name for the layout of the pixels in the file, such as RGB;16B."""
    if not image.tile:
        return ""
    arguments = image.tile[0].args
    if isinstance(arguments, tuple):
        return str(arguments[0])
    return str(arguments)


def _netpbm_maximum(image: ImageFile.ImageFile) -> int | None:
    """Returns the value of white in the header of a PPM or PGM file, if Pillow scales by it."""
    if not image.tile or image.tile[0].codec_name not in ("ppm", "ppm_plain"):
        return None
    arguments = image.tile[0].args
    if isinstance(arguments, tuple):
        return int(arguments[-1])
    return None


def _tiff_tag(image: ImageFile.ImageFile, tag: int) -> Any:
    """Returns the value of a tag of a TIFF file; None for other files."""
    if isinstance(image, TiffImageFile):
        return image.tag_v2.get(tag)
    return None
