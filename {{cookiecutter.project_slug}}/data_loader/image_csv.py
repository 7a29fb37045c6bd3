"""A data set of image files, whose classes are in a CSV file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from data_loader import transforms
from data_loader.columns import class_indices, map_classes
from data_loader.example_shapes import EXAMPLES
from data_loader.image_files import IMAGE_SUFFIXES, describe_image, read_image
from data_loader.splits import split_rows
from data_loader.tables import example_maker, file_hash, read_data
from data_loader.unicode_forms import find_files, normalize_name
from utils.errors import UserError
from utils.randomness import uniform

MAX_STATISTICS_IMAGES = 500  # that mean and standard deviation are computed from
MAX_LISTED_FILES = 3  # in an error message
MARGIN_FRACTION = 8  # the margin for random crops is an eighth of the image's size


class ImageCSV(BaseDataset):
    """Images of any format and size as RGB squares, with their classes (int64).

    A file is decoded each time that its sample is read: uint8, shape (3, S, S), where S is an
    eighth larger than `size`. `transform` crops it to `size`, at random in training and otherwise
    at the centre.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no images.
        seed: random seed that selects the validation images.
        file: CSV file in that folder. The example's file and images are created if they do not
            exist.
        image: Column of the image files, which are relative to the CSV file.
        target: Column of the classes.
        size: Height and width of the model's input, in pixels.
        flip: Whether training images are randomly flipped horizontally.
        white: Value of a white pixel in images with more than 8 bits, such as 4095 for 12 bits in
            16; null for 65535 (16 bits) or 1 (floating-point numbers). 32-bit and signed integers
            require it.
        create_example: whether the file of the example may be created; only a new run does it.

    Raises:
        UserError: if the CSV file cannot be used, or an image file does not exist.
    """

    input_suffixes = IMAGE_SUFFIXES
    fitted = ("mean_and_std",)  # of training pixels scaled to [0, 1]
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
        white: Annotated[float, Field(gt=0)] | None = None,
        create_example: bool = True,
    ) -> None:
        self.title = Path(file).stem
        self.size = size
        self.margin = size // MARGIN_FRACTION
        self.flip = flip
        self.white = white
        self.files: list[Path] = []
        self.targets = torch.empty(0, dtype=torch.int64)
        if split is None:
            return
        is_training = split == "train"
        image = normalize_name(image)
        target = normalize_name(target)
        path = root / file
        make = example_maker(root, file, EXAMPLES, create_example)
        rows = read_data(path, (image, target), make)
        self.source = file_hash(path)
        self.classes, targets = class_indices(rows, target, training=is_training)
        # A file to evaluate may lack a class.
        checked_classes = self.classes if is_training else ()
        indices = split_rows(targets, split, seed, checked_classes)
        names = find_files(path.parent, [row[image] for row in rows])
        self.row_numbers = (indices + 1).tolist()
        self.names = [names[index] for index in indices.tolist()]
        self.files = [path.parent / name for name in self.names]
        self.targets = targets[indices]
        if split == "train":  # which is built first: report all missing files at once
            _check_files(path, names, range(len(names)))
        else:
            _check_files(path, names, indices.tolist())

    def fit(self) -> None:
        """Computes mean and standard deviation from evenly spaced samples."""
        count = min(MAX_STATISTICS_IMAGES, len(self))
        indices = torch.linspace(0, len(self) - 1, count).long()
        batch = self.__getitems__(indices)
        self.mean_and_std = transforms.pixel_statistics(batch["input"])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self._read(self.files[index]), "target": self.targets[index]}

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        images = batch["input"]
        if rng is None:
            offsets = torch.full((len(images), 2), self.margin // 2)
        else:
            offsets = (uniform(rng, len(images), 2) * (self.margin + 1)).long()
            if self.flip:
                images = transforms.random_horizontal_flip(images, rng)
        top, left = offsets.unbind(1)
        images = transforms.crop(images, top, left, self.size, self.size)
        return {**batch, "input": transforms.normalize(images, *self.mean_and_std)}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads an image file; see the base class."""
        return [(source, {"input": self._read(Path(source))})]

    def use_classes(self, classes: Sequence[str]) -> None:
        """Accepts a file that lacks some of the classes of the training data."""
        try:
            self.targets = map_classes(self.targets, self.classes, classes, self.row_numbers)
        except UserError as error:
            raise UserError(f"{self.title}: {error}") from error

    def sample_name(self, index: int) -> str:
        """The name of the image file, as in the CSV file."""
        return self.names[index]

    def describe_input(self) -> dict[str, Any]:
        mean, std = self.mean_and_std
        first = self.margin // 2
        crop = {"top": first, "left": first, "height": self.size, "width": self.size}
        return {
            **describe_image(self.size + self.margin, colour=True, crop=True, white=self.white),
            "crop": crop,
            "mean": mean,
            "std": std,
            "dtype": "float32",
        }

    def _read(self, file: Path) -> Tensor:
        """Reads an image with the margin for random crops, uint8, shape (3, S, S)."""
        size = self.size + self.margin
        return read_image(file, size, colour=True, crop=True, white=self.white)


def _check_files(csv_file: Path, names: Sequence[str], indices: Sequence[int]) -> None:
    """Raises a UserError if image files do not exist.

    Args:
        csv_file: file that names them, relative to its folder.
        names: image files of all rows.
        indices: rows that are checked.
    """
    folder = csv_file.parent
    missing = [index for index in indices if not (folder / names[index]).is_file()]
    if not missing:
        return
    listed = []
    for index in missing[:MAX_LISTED_FILES]:
        listed.append(f"{names[index]!r} (row {index + 1} below the header)")
    if len(missing) > MAX_LISTED_FILES:
        listed.append("...")
    raise UserError(
        f"{csv_file}: {len(missing)} of {len(indices)} files are not in {folder}: "
        f"{', '.join(listed)}; add the files, or remove these rows"
    )
