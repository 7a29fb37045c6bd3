"""A data set of image files, whose classes are in a table."""

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor

from base.base_dataset import Batch, Sample
from data_loader import transforms
from data_loader.example_shapes import EXAMPLES
from data_loader.image_files import IMAGE_SUFFIXES, describe_image, read_image
from data_loader.table_dataset import TableDataset
from data_loader.tables import TABLE_SUFFIXES, Table, read_table
from data_loader.unicode_forms import find_files, normalize_name
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
        white: Value of a white pixel in images with more than 8 bits, such as 4095 for 12 bits in
            16; null for 65535 (16 bits) or 1 (floating-point numbers). 32-bit and signed integers
            require it.

    Raises:
        UserError: if the table cannot be used, or an image file does not exist.
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.title = Path(file).stem
        self.image = normalize_name(image)
        self.target = normalize_name(target)
        self.size = size
        self.margin = size // MARGIN_FRACTION
        self.flip = flip
        self.white = white
        self.files: list[Path] = []
        self.targets = torch.empty(0, dtype=torch.int64)
        if split is None:
            return
        self.read_rows(root, file, (self.image, self.target), EXAMPLES)
        targets = self.read_classes(split)
        self.select_rows(targets, split, seed)
        if split == "train":  # which is built first: report all missing files at once
            _find_images(self.all_rows, self.image)
        self.files = _find_images(self.rows, self.image)

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
            files = _find_images(rows, self.image)
        else:
            files = [Path(source)]
        return [(str(file), {"input": self._read(file)}) for file in files]

    def sample_name(self, index: int) -> str:
        """The name of the image file in the table."""
        name: str = self.rows.cells(self.image).iloc[index]
        return name

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


def _find_images(rows: Table, column: str) -> list[Path]:
    """Returns the image files that rows name, relative to the folder of the table.

    Args:
        rows: rows of the table.
        column: column of the files.

    Raises:
        UserError: if files do not exist.
    """
    folder = rows.file.parent
    names = rows.cells(column).tolist()
    files = [folder / name for name in find_files(folder, names)]
    missing = [index for index, file in enumerate(files) if not file.is_file()]
    if not missing:
        return files
    places = rows.take(torch.tensor(missing[:MAX_LISTED_FILES])).places()
    listed = []
    for index, place in zip(missing, places, strict=False):
        listed.append(f"{names[index]!r} ({place})")
    if len(missing) > MAX_LISTED_FILES:
        listed.append("...")
    raise UserError(
        f"{rows.file}: {len(missing)} of {len(names)} files are not in {folder}: "
        f"{', '.join(listed)}; {_advice(folder, names[missing[0]])}"
    )


def _advice(folder: Path, name: str) -> str:
    """What to do about an image file that does not exist in a folder."""
    if "\\" in name:
        return "write / instead of \\, in paths that are relative to the table"
    similar = _in_other_case(folder, name)
    if similar is not None:
        return f"there is {str(similar)!r}: upper and lower case must be the same"
    return "add the files, or remove these rows"


def _in_other_case(folder: Path, name: str) -> Path | None:
    """Returns the path of a file in a folder that differs from a name in its case only, if any."""
    path = Path()
    for part in Path(name).parts:
        if not (folder / path).is_dir():
            return None
        entries = [entry.name for entry in (folder / path).iterdir()]
        similar = [entry for entry in entries if entry.casefold() == part.casefold()]
        if not similar:
            return None
        path = path / similar[0]
    return path
