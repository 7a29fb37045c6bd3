"""Types of image files: their type defines the value of white, never the image itself."""
# ruff: noqa: D103  the names of the tests say what they test

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data_loader.image_files import read_image
from utils.errors import UserError

SIZE = 8  # pixels, height and width of the images
Pixels = Any

# Each type by the name of its file: NumPy's type, and the value of white.
TYPES: dict[str, tuple[str, float]] = {
    "8_bits.png": ("u1", 255),
    "16_bits.png": ("<u2", 65535),
    "16_bits.tif": ("<u2", 65535),
    "big_endian.tif": (">u2", 65535),
    "float.tif": ("<f4", 1),
}


def save(pixels: Pixels, file: Path) -> Path:
    """Saves a grey image, shape (8, 8), with the type of its pixels."""
    if pixels.dtype == ">u2":
        image = Image.frombytes("I;16B", (SIZE, SIZE), pixels.tobytes())
    else:
        image = Image.fromarray(pixels)
    image.save(file)
    return file


def save_png(
    file: Path, bits: int, colour_type: int, channels: list[int], transparent: bytes | None = None
) -> Path:
    """Saves a PNG whose pixels have equal channels, in a type that Pillow does not write."""
    pixel = b"".join(value.to_bytes(bits // 8) for value in channels)
    row = b"\0" + b"".join(pixel for _ in range(SIZE))
    return write_png(file, bits, colour_type, row, transparent)


def write_png(
    file: Path, bits: int, colour_type: int, row: bytes, transparent: bytes | None = None
) -> Path:
    """Writes a PNG of equal rows, with a colour that is transparent."""
    rows = b"".join(row for _ in range(SIZE))
    header = struct.pack(">IIBBBBB", SIZE, SIZE, bits, colour_type, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if transparent is not None:
        chunks.append((b"tRNS", transparent))
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        length = struct.pack(">I", len(data))
        content += length + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    file.write_bytes(content)
    return file


def save_png_with_transparent_level(file: Path, bits: int, grey: int, transparent: int) -> Path:
    """Saves a grey PNG of one level, of which one level is transparent."""
    digits = f"{grey:0{bits}b}"
    row = b"\0" + int(digits * SIZE, 2).to_bytes(bits)
    return write_png(file, bits, 0, row, transparent.to_bytes(2))


def levels(file: Path, white: float | None = None) -> Pixels:
    """The grey levels, int64, shape (8, 8), that are read from a file."""
    return read_image(file, SIZE, white=white)[0].numpy().astype(np.int64)


def error_of(file: Path, white: float | None = None) -> str:
    """The error that a file gives."""
    with pytest.raises(UserError) as caught:
        levels(file, white)
    assert caught.value.exit_code == 2
    assert str(file) in str(caught.value)
    return str(caught.value)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(TYPES)),
    st.binary(min_size=2 * SIZE * SIZE, max_size=2 * SIZE * SIZE),
    st.integers(0, SIZE * SIZE - 1),
    st.floats(0, 1),
)
def test_a_pixel_is_scaled_by_its_type_and_not_by_other_pixels(
    name: str, fractions: bytes, position: int, other: float
) -> None:
    kind, white = TYPES[name]
    brightness = np.frombuffer(fractions, "<u2").reshape(SIZE, SIZE) / 65535
    pixels = (brightness * white).astype(kind)
    found = levels(save(pixels, Path(name)))
    assert abs(found - pixels.astype(np.float64) / white * 255).max() <= 1

    pixels.flat[position] = other * white
    changed = levels(save(pixels, Path(name)))
    changed.flat[position] = found.flat[position]
    assert np.array_equal(changed, found)


def test_white_replaces_the_value_of_the_type(tmp_path: Path) -> None:
    ramp = np.arange(SIZE * SIZE).reshape(SIZE, SIZE) * 65  # up to 4095
    expected = np.rint(ramp * (255 / 4095))
    for kind in ("<u2", ">u2", "<i4", "<f4"):
        file = save(ramp.astype(kind), tmp_path / f"{kind[1:]}.tif")
        assert np.array_equal(levels(file, white=4095), expected), kind
    eight_bits = save(ramp.astype("u1"), tmp_path / "8.png")
    assert np.array_equal(levels(eight_bits, white=4095), ramp.astype("u1"))


@pytest.mark.parametrize(
    ("kind", "value", "white", "parts"),
    [
        ("<f4", 1.01, None, ("1.01", "0 to 1", "data.white")),
        ("<f4", 255.0, None, ("255", "0 to 1", "data.white")),
        ("<f4", -0.01, None, ("-0.01", "0 to 1")),
        ("<f4", np.nan, None, ("nan", "0 to 1")),
        ("<f4", np.inf, None, ("inf", "0 to 1")),
        ("<u2", 4096, 4095, ("4096", "0 to 4095", "data.white")),
        ("<i4", 7, None, ("unknown", "data.white", "32-bit")),
        ("<i4", -1, 255, ("-1", "0 to 255")),
    ],
)
def test_a_pixel_out_of_range_is_an_error(
    tmp_path: Path, kind: str, value: float, white: float | None, parts: tuple[str, ...]
) -> None:
    pixels = np.zeros((SIZE, SIZE), kind)
    pixels[3, 4] = value
    message = error_of(save(pixels, tmp_path / "odd.tif"), white)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("colour_type", "channels"),
    [(2, [0x8080, 0x8080, 0x8080]), (4, [0x8080, 0xFFFF]), (6, [0x8080, 0x8080, 0x8080, 0xFFFF])],
)
def test_colour_of_16_bits_has_a_fixed_white(
    tmp_path: Path, colour_type: int, channels: list[int]
) -> None:
    file = save_png(tmp_path / "deep.png", 16, colour_type, channels)
    assert abs(levels(file) - 128).max() <= 1
    assert "data.white=4095" in error_of(file, white=4095)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_level_of_any_depth_is_black(tmp_path: Path, bits: int) -> None:
    white = 2**bits - 1
    for grey in {1, white // 2 + 1, white}:
        for transparent in {0, 1, white // 2 + 1, white}:
            file = tmp_path / f"{grey}_{transparent}.png"
            save_png_with_transparent_level(file, bits, grey, transparent)
            expected = 0.0
            if grey != transparent:
                expected = grey / white * 255
            assert abs(levels(file) - expected).max() <= 1, file.name


def test_a_transparent_colour_of_16_bits_is_refused(tmp_path: Path) -> None:
    """Pixels that differ from it in the lower bits only would be transparent, too."""
    transparent = struct.pack(">HHH", 0x80FF, 0x8080, 0x8080)
    file = save_png(tmp_path / "deep.png", 16, 2, [0x8080, 0x8080, 0x8080], transparent)
    message = error_of(file)
    for part in ("transparent", "(33023, 32896, 32896)", "8 bits per channel"):
        assert part in message


def test_netpbm_files_define_white_in_their_header(tmp_path: Path) -> None:
    pixels = np.full((SIZE, SIZE), 2048, ">u2").tobytes()
    (tmp_path / "grey.pgm").write_bytes(b"P5 8 8 4095\n" + pixels)
    (tmp_path / "colour.ppm").write_bytes(b"P6 8 8 4095\n" + 3 * pixels)
    for name in ("grey.pgm", "colour.ppm"):
        for white in (None, 4095):
            assert abs(levels(tmp_path / name, white) - 128).max() <= 1


def test_all_modes_of_pillow_with_8_bits_are_read(tmp_path: Path) -> None:
    grey = Image.new("L", (SIZE, SIZE), 100)
    grey.convert("RGB").convert("CMYK").save(tmp_path / "cmyk.tif")
    grey.convert("RGB").convert("YCbCr").save(tmp_path / "ycbcr.tif")
    grey.convert("P").save(tmp_path / "palette.gif")
    grey.convert("LA").save(tmp_path / "alpha.png")
    for file in tmp_path.iterdir():
        assert abs(levels(file) - 100).max() <= 1, file.name
    grey.convert("1", dither=Image.Dither.NONE).save(tmp_path / "bits.png")
    assert not levels(tmp_path / "bits.png").any()
    neutral = [Image.new("L", (SIZE, SIZE), value) for value in (108, 128, 128)]
    Image.merge("LAB", neutral).save(tmp_path / "lab.tif")
    assert abs(levels(tmp_path / "lab.tif") - 100).max() <= 2


def test_white_may_be_zero_in_tiff(tmp_path: Path) -> None:
    for kind in ("u1", "<u2", "<f4"):
        white = {"u1": 255, "<u2": 65535, "<f4": 1}[kind]
        image = Image.fromarray(np.full((SIZE, SIZE), 0.2 * white).astype(kind))
        stored = image
        if kind == "u1":  # Pillow inverts it when it is saved
            stored = Image.eval(image, lambda value: 255 - value)
        stored.save(tmp_path / "inverted.tif", tiffinfo={262: 0})
        assert abs(levels(tmp_path / "inverted.tif") - 204).max() <= 1, kind


def test_the_first_of_several_images_is_read(tmp_path: Path) -> None:
    first, second = (Image.new("L", (SIZE, SIZE), value) for value in (50, 200))
    for name in ("pages.tif", "animated.gif", "animated.png"):
        first.save(tmp_path / name, save_all=True, append_images=[second])
        assert set(levels(tmp_path / name).flatten()) == {50}, name


@pytest.mark.parametrize("factor", [1, 2], ids=["Pillow warns", "Pillow raises an error"])
def test_a_large_image_is_refused_with_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, factor: int
) -> None:
    file = save(np.zeros((SIZE, SIZE), "u1"), tmp_path / "large.png")
    limit = SIZE * SIZE // factor - 1
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    message = error_of(file)
    for part in ("too large", f"({SIZE * SIZE} pixels)", "scale it down", "MAX_IMAGE_PIXELS"):
        assert part in message


def test_a_file_without_an_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    noise = np.random.default_rng(0).integers(0, 65536, (SIZE, SIZE), np.uint16)
    file = save(noise, tmp_path / "short.png")
    file.write_bytes(file.read_bytes()[:100])
    for name in ("empty.png", "short.png"):
        assert "damaged" in error_of(tmp_path / name)
