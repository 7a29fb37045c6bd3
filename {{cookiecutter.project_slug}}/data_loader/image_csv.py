"""A data set of image files, whose classes are in a table."""

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor

from base.base_dataset import Batch, Sample
from data_loader import transforms
from data_loader.columns import class_indices
from data_loader.example_shapes import EXAMPLES
from data_loader.image_files import describe_image, read_image
from data_loader.splits import split_rows
from data_loader.table_dataset import TableDataset
from data_loader.tables import TABLE_SUFFIXES, Table, file_hash, read_table
from utils.errors import UserError
from utils.randomness import uniform

MAX_STATISTICS_IMAGES = 500  # that mean and standard deviation are computed from
MAX_LISTED_FILES = 3  # in an error message
MARGIN_FRACTION = 8  # the margin for random crops is an eighth of the image's size


class ImageCSV(TableDataset):
    """Images of any format and size as RGB squares, with their classes (int64).

    A file is decoded each time that its sample is read: uint8, shape (3, S, S), where S is an
    eighth larger than `size`. `transform` crops it to `size`, at random in training and otherwise
    at the centre.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no images.
        seed: random seed that selects the validation images.
        file: Table in that folder: CSV, Excel, Parquet or Feather. The example's file and images
            are created if they do not exist.
        image: Column of the image files, which are relative to the table.
        target: Column of the classes.
        size: Height and width of the model's input, in pixels.
        flip: Whether training images are randomly flipped horizontally.

    Raises:
        UserError: if the table cannot be used, or an image file does not exist.
    """

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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.title = Path(file).stem
        self.image = image
        self.size = size
        self.margin = size // MARGIN_FRACTION
        self.flip = flip
        self.files: list[Path] = []
        self.targets = torch.empty(0, dtype=torch.int64)
        if split is None:
            return
        path = root / file
        rows = self.read_rows(path, split, (image, target), target, EXAMPLES.get(file))
        self.source = file_hash(path)
        self.classes, targets = class_indices(rows, target)
        indices = split_rows(targets, split, seed, self.classes)
        self.targets = targets[indices]
        used_rows = rows.take(indices)
        self.files = [path.parent / name for name in used_rows.cells(image)]
        if split == "train":  # which is built first: report all missing files at once
            _check_files(rows, image)
        else:
            _check_files(used_rows, image)

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
        """Reads an image file, or the files that the column `image` of a table names.

        See the base class.
        """
        if source.lower().endswith(TABLE_SUFFIXES):
            rows = read_table(Path(source), [self.image], self.table_format)
            _check_files(rows, self.image)
            files = [Path(source).parent / name for name in rows.cells(self.image)]
            return [(str(file), {"input": self._read(file)}) for file in files]
        return [(source, {"input": self._read(Path(source))})]

    def describe_input(self) -> dict[str, Any]:
        mean, std = self.mean_and_std
        first = self.margin // 2
        crop = {"top": first, "left": first, "height": self.size, "width": self.size}
        return {
            **describe_image(self.size + self.margin, colour=True, crop=True),
            "crop": crop,
            "mean": mean,
            "std": std,
            "dtype": "float32",
        }

    def _read(self, file: Path) -> Tensor:
        """Reads an image with the margin for random crops, uint8, shape (3, S, S)."""
        return read_image(file, self.size + self.margin, colour=True, crop=True)


def _check_files(rows: Table, column: str) -> None:
    """Raises a UserError if image files do not exist.

    Args:
        rows: rows that name them, relative to the folder of the table.
        column: column of the files.
    """
    folder = rows.file.parent
    names = rows.cells(column).tolist()
    missing = [index for index, name in enumerate(names) if not (folder / name).is_file()]
    if not missing:
        return
    places = rows.take(torch.tensor(missing[:MAX_LISTED_FILES])).places()
    listed = []
    for index, place in zip(missing, places, strict=False):
        listed.append(f"{names[index]!r} ({place})")
    if len(missing) > MAX_LISTED_FILES:
        listed.append("...")
    raise UserError(
        f"{rows.file}: {len(missing)} of {len(names)} files are not in {folder}: "
        f"{', '.join(listed)}; add the files, or remove these rows"
    )
