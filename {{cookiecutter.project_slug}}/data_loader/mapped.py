"""Data that do not fit in memory: a data set whose samples are read from memory-mapped files.

``python -m data_loader.convert --help`` describes the command that writes the files.
"""

import json
import mmap
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pydantic
import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from config.constructors import construct
from config.loading import load_section
from config.schema import ClassSection, DataSettings
from logger.figures import Figure
from utils.errors import DATA_UNAVAILABLE, UserError

ABOUT = "about.json"
CONVERT_AGAIN = "delete the folder and convert the data again: python -m data_loader.convert"


class TensorInfo(pydantic.BaseModel):
    """The dtype and shape of one tensor of a sample."""

    dtype: str
    shape: tuple[int, ...]

    def __repr__(self) -> str:
        return f"{self.dtype} {self.shape}"


class SplitInfo(pydantic.BaseModel):
    """The number of samples in a split, and the tensors of each sample by name."""

    samples: int
    tensors: dict[str, TensorInfo]


class About(pydantic.BaseModel):
    """The content of about.json.

    Attributes:
        title: title of the converted data set.
        classes: names of its classes.
        fitted: statistics that it has fitted to its training samples, by attribute name.
        like: class (``name``) and settings of the converted data set; empty if there was none.
        hashes: fingerprints of the converted data sets by split.
        splits: what the files contain, by split.
    """

    title: str
    classes: list[str]
    fitted: dict[str, Any]
    like: dict[str, Any]
    hashes: dict[str, str] = {}
    splits: dict[str, SplitInfo]


class Mapped(BaseDataset):
    """Samples in ``SPLIT/NAME.npy``, one memory-mapped file for each tensor of a sample.

    Transforms, figures, tables and the reading of inputs are those of the converted data set, whose
    class and settings are in ``about.json``. The split into training and validation samples was
    fixed by the conversion.

    `in_memory` is false for three reasons. Workers wait for the disk while the main process
    computes. If the disk fails or a file is cut short during a read, the system kills the reading
    process, which should be a worker. The converted data set's `transform` may use any random
    generator.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no samples.
        seed: not used; random choices were made by the conversion.
        folder: Folder in data.root that `python -m data_loader.convert` has written.
        like: Changed settings of the converted data set, as in {flip: false}.

    Raises:
        UserError: if files are missing, cut short, or differ from what about.json says.
    """

    def __init__(
        self, root: Path, split: str | None, seed: int, folder: str = "mapped", like: Any = None
    ) -> None:
        about = read_about(root / folder)
        options = _original_settings(about, root / folder, like)
        self.original: BaseDataset | None = None
        if options is not None:
            self.original = construct(options, BaseDataset, root=root, split=None, seed=seed)
            self.input_suffixes = self.original.input_suffixes
        self.title = about.title
        self.classes = about.classes
        self.fitted = [*about.fitted]
        self.folder = root / folder / str(split)
        if split is None:
            self.info = SplitInfo(samples=0, tensors={})
        elif split in about.splits:
            self.info = about.splits[split]
        else:
            available = ", ".join(about.splits)
            text = f"{root / folder} contains no {split} split, only: {available}"
            raise UserError(text, DATA_UNAVAILABLE)
        self.load_state_dict({"title": about.title, "classes": about.classes, **about.fitted})
        _ = self.arrays  # an unusable file is reported now, not in the first batch

    def __getstate__(self) -> dict[str, Any]:
        """The attributes without the maps: a pickled map would contain all samples."""
        return {name: value for name, value in vars(self).items() if name != "arrays"}

    def __len__(self) -> int:
        return self.info.samples

    def __getitem__(self, index: int) -> Sample:
        batch = self.__getitems__(torch.tensor([index]))
        return {name: values[0] for name, values in batch.items()}

    def __getitems__(self, indices: Tensor) -> Batch:
        positions = indices.numpy()
        outside = positions[(positions < 0) | (positions >= len(self))]
        if len(outside):
            raise IndexError(f"index {outside[0]} is out of range for {len(self)} samples")
        for array in self.arrays.values():
            _prefetch(array, positions)
        batch = {}
        for name, array in self.arrays.items():
            batch[name] = torch.from_numpy(array[positions])  # a copy, not a view of the file
        return batch

    def collate(self, samples: Sequence[Sample]) -> Batch:
        if self.original is None:
            return super().collate(samples)
        return self.original.collate(samples)

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        if self.original is None:
            return super().transform(batch, rng)
        return self.original.transform(batch, rng)

    def read_inputs(self, source: str) -> Sequence[tuple[str, Sample]]:
        if self.original is None:
            return super().read_inputs(source)
        return self.original.read_inputs(source)

    def describe_input(self) -> dict[str, Any]:
        if self.original is None:
            return super().describe_input()
        return self.original.describe_input()

    def draw(self, batch: Batch, heading: str, titles: Sequence[str] = ()) -> Figure | None:
        if self.original is None:
            return super().draw(batch, heading, titles)
        return self.original.draw(batch, heading, titles)

    def table(self, batch: Batch) -> list[list[str]]:
        if self.original is None:
            return super().table(batch)
        return self.original.table(batch)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if self.original is not None:
            self.original.load_state_dict(state)

    @property
    def targets(self) -> Tensor:
        """The targets of all samples, copied into memory; `loss.balanced` counts them.

        Raises:
            AttributeError: if the samples have no ``target``.
        """
        if "target" not in self.arrays:
            raise AttributeError("the samples have no target")
        return torch.from_numpy(np.array(self.arrays["target"]))

    @cached_property
    def arrays(self) -> dict[str, Any]:
        """A memory map (`numpy.memmap`) of each tensor's file, shape (samples, ...)."""
        return {name: self._open_array(name) for name in self.info.tensors}

    def _open_array(self, name: str) -> Any:
        file = self.folder / f"{name}.npy"
        info = self.info.tensors[name]
        expected = f"{info.dtype} {(len(self), *info.shape)}"
        try:
            array = np.load(file, mmap_mode="r", allow_pickle=False)
            found = f"{array.dtype} {array.shape}"
            if found != expected:
                raise ValueError(f"it contains {found}, but {ABOUT} says {expected}")
            torch.from_numpy(array[:0].copy())  # raises a TypeError for a dtype that torch lacks
        except Exception as error:  # a file made with ill intent may raise anything
            raise UserError(f"{file} is unusable: {error}; {CONVERT_AGAIN}") from error
        return array


def _prefetch(array: Any, positions: np.ndarray[Any, Any]) -> None:
    """Asks the system to read the samples of a batch, all at the same time.

    Without this advice, the system reads one sample after the other, and many pages around each.
    For 256 random samples of 792 bytes that are not cached, the advice reduces the time from 95 to
    6 ms and the data read from 113 to 2 MB (benchmarks/mapped.py). If they are cached, it costs
    0.3 ms.
    """
    if not hasattr(mmap, "MADV_WILLNEED"):  # on Windows
        return
    sample_bytes = array[:1].nbytes
    first_sample = array.offset % mmap.ALLOCATIONGRANULARITY  # its position in the map, in bytes
    for position in positions.tolist():
        start = first_sample + position * sample_bytes
        page = start - start % mmap.PAGESIZE
        array.base.madvise(mmap.MADV_WILLNEED, page, start + sample_bytes - page)


def read_about(folder: Path) -> About:
    """Reads the about.json of a converted data set.

    Raises:
        UserError: if the file is missing or damaged.
    """
    file = folder / ABOUT
    try:
        return About.model_validate(json.loads(file.read_text("utf-8")))
    except FileNotFoundError as error:
        text = f"{file} does not exist; python -m data_loader.convert writes it, in a new folder"
        raise UserError(text, DATA_UNAVAILABLE) from error
    except ValueError as error:
        raise UserError(f"{file} is damaged ({_one_line(error)}); {CONVERT_AGAIN}") from error


def _original_settings(
    about: About, folder: Path, changes: Mapping[str, Any] | None
) -> ClassSection | None:
    """The settings of the converted data set; None if it was not made from one.

    Raises:
        UserError: if this project has no such class, or the class no such settings.
    """
    try:
        like = about.like | dict(changes or {})
        if not like:
            return None
        return load_section("data", DataSettings, like)
    except (TypeError, ValueError, UserError) as error:
        text = f"{folder / ABOUT} and data.like name no data set of this project"
        raise UserError(f"{text} ({_one_line(error)}); {CONVERT_AGAIN}") from error


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split())
    return f"{type(error).__name__}: {message[:200]}"
