"""Example data for image_csv.py: images of geometric shapes, made in code."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Generator

from data_loader.tables import write_rows
from utils.randomness import make_generator

IMAGES = 900
GREY_EVERY = 5  # images of which one is grey; the others are in colour


def make_shapes(file: Path) -> None:
    """Writes images of circles, squares and triangles, and the CSV file of their classes.

    The images have different sizes, and the classes different frequencies.
    """
    rng = make_generator(5)
    rows: list[Sequence[str]] = [("file", "class")]
    (file.parent / "shapes").mkdir(exist_ok=True)
    for number in range(IMAGES):
        image, label = _make_image(rng)
        if number % GREY_EVERY == 0:
            image = image.convert("L")
        name = f"shapes/{number:04d}.png"
        image.save(file.parent / name)
        rows.append((name, label))
    write_rows(file, rows)


def _make_image(rng: Generator) -> tuple[Image.Image, str]:
    """Draws a shape of random size and colours on noise; returns the image and its class."""
    numbers = torch.randint(256, (9,), generator=rng).tolist()
    width = 48 + numbers[0] // 4
    height = 48 + numbers[1] // 4
    kind = numbers[2]
    background = numbers[3:6]
    colour = tuple(128 + value // 2 for value in numbers[6:9])

    noise = torch.randint(60, (height, width, 3), generator=rng).numpy()
    pixels = np.array(background) // 3 + noise
    image = Image.fromarray(pixels.astype(np.uint8))

    radius = int(min(width, height) * (0.2 + 0.2 * float(torch.rand((), generator=rng))))
    centre = 0.4 + 0.001 * background[0] % 0.2  # as a fraction of width and height
    x = int(width * centre)
    y = int(height * centre)
    box = (x - radius, y - radius, x + radius, y + radius)
    canvas = ImageDraw.Draw(image)
    if kind < 128:
        canvas.ellipse(box, fill=colour)
        return image, "circle"
    if kind < 210:
        canvas.rectangle(box, fill=colour)
        return image, "square"
    canvas.regular_polygon((x, y, radius), 3, rotation=kind, fill=colour)
    return image, "triangle"


EXAMPLES = {"images/shapes.csv": make_shapes}
