"""Images in a folder, and their classes in a CSV file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from PIL import Image, ImageDraw
from pydantic import Field
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from data_loader.tables import class_indices, divide, hash_of, read_data, write_rows
from data_loader.transforms import augment, cropped, normalize, pixel_statistics, read_image
from utils.errors import UserError
from utils.randomness import make_generator, uniform

IMAGES = 900  # in the example
MEASURED = 500  # images from which mean and standard deviation are found
MARGIN = 8  # a training image is read larger by one part in so many, and cropped at random


class ImageCSV(BaseDataset):
    """Images of any format and size as squares in colour, uint8, shape (3, S, S), and classes.

    They are decoded when they are asked for, by workers. A training image is cropped at random
    from a square that is larger by an eighth, an evaluated one from its middle.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no images.
        seed: what the choice of the validation images is drawn from.
        file: CSV file in that folder; the example's is made if it is not there, with its images.
        image: Its column of image files, relative to the CSV file.
        target: Its column of classes.
        size: Pixels of a side of what the model gets.
        flip: Whether training images are mirrored at random.

    Raises:
        UserError: if there is no such file, or it names an image that is not there.
    """

    fitted = ("mean_and_std",)  # of the training pixels, as shares of 255
    mean_and_std: tuple[float, float]

    def __init__(
        self,
        root: Path,
        split: str | None,
        seed: int,
        file: str = "images/shapes.csv",
        image: str = "file",
        target: str = "class",
        size: Annotated[int, Field(ge=8, le=4096)] = 64,
        flip: bool = True,
    ) -> None:
        self.title, self.size, self.flip = Path(file).stem, size, flip
        self.files, self.targets = list[Path](), torch.empty(0, dtype=torch.int64)
        if split is None:
            return
        rows = read_data(root / file, (image, target), EXAMPLES.get(file))
        self.source = hash_of(root / file)
        self.classes, targets = class_indices(rows, target)
        chosen, folder = divide(targets, split, seed, self.classes), (root / file).parent
        self.targets, self.files = targets[chosen], [folder / rows[k][image] for k in chosen]
        needed = [*range(len(rows))] if split == "train" else chosen.tolist()
        if missing := [k for k in needed if not (folder / rows[k][image]).is_file()]:
            names = ", ".join(
                f"{rows[k][image]!r} (row {k + 1} below the header)" for k in missing[:3]
            )
            text = f"{len(missing)} of {len(needed)} files are not in {folder}: {names}"
            raise UserError(f"{root / file}: {text}{', ...' * (len(missing) > 3)}")
        if split == "train":  # other splits are given what is learned here
            some = torch.linspace(0, len(self) - 1, min(MEASURED, len(self))).long()
            self.mean_and_std = pixel_statistics(self.__getitems__(some)["input"])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self._read(self.files[index]), "target": self.targets[index]}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        images, margin = batch["input"], self.size // MARGIN
        places = torch.full((len(images), 2), margin // 2)
        if generator is not None:
            places = (uniform(generator, len(images), 2) * (margin + 1)).long()
            images = augment(images, 0, self.flip, generator)
        images = cropped(images, self.size, self.size, *places.T)
        return {**batch, "input": normalize(images, *self.mean_and_std)}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Of an image file."""
        return [(source, {"input": self._read(Path(source))})]

    def _read(self, file: Path) -> Tensor:
        return read_image(file, self.size + self.size // MARGIN, colour=True, crop=True)


def make_shapes(file: Path) -> None:
    """Circles, squares and triangles, more of the one than of the other, of many sizes."""
    draws = make_generator(5)
    rows: list[Sequence[str]] = [("file", "class")]
    (file.parent / "shapes").mkdir(exist_ok=True)
    for number in range(IMAGES):
        width, height, kind, *colours = torch.randint(256, (9,), generator=draws).tolist()
        width, height = 48 + width // 4, 48 + height // 4
        noise = torch.randint(60, (height, width, 3), generator=draws).numpy()
        pixels = (np.array(colours[:3]) // 3 + noise).astype(np.uint8)
        radius = int(min(width, height) * (0.2 + 0.2 * float(torch.rand((), generator=draws))))
        x, y = (int(side * (0.4 + 0.001 * colours[0] % 0.2)) for side in (width, height))
        image, colour = Image.fromarray(pixels), tuple(128 + c // 2 for c in colours[3:])
        label = "circle" if kind < 128 else "square" if kind < 210 else "triangle"
        box = (x - radius, y - radius, x + radius, y + radius)
        if label == "triangle":
            ImageDraw.Draw(image).regular_polygon((x, y, radius), 3, kind, fill=colour)
        elif label == "square":
            ImageDraw.Draw(image).rectangle(box, fill=colour)
        else:
            ImageDraw.Draw(image).ellipse(box, fill=colour)
        name = f"shapes/{number:04d}.png"
        (image.convert("L") if number % 5 == 0 else image).save(file.parent / name)
        rows.append((name, label))
    write_rows(file, rows)


EXAMPLES = {"images/shapes.csv": make_shapes}
