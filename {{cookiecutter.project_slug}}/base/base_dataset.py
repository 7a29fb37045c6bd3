"""What every data set gives: samples, whole batches, and what was learned from training rows."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from logger.console import log
from logger.figures import Figure, image_grid
from utils.errors import UserError

Sample = dict[str, Tensor]
Batch = dict[str, Tensor]


class BaseDataset(ABC, Dataset[Sample]):
    """Samples by index.

    A constructor takes ``root``, ``split`` (``"train"``, ``"validation"``, ``"test"``, or None for
    an empty set that only reads inputs for `predict.py`) and ``seed``; its further arguments are
    settings.

    Attributes:
        title: the data's name, as logs, tables and pictures give it.
        classes: names of the classes, by target; empty where there are none.
        learned: names of the attributes that were learned from the training samples, plain data.
        trained_on: title of the data that `load_state_dict` gave what was learned from.
        source: hash of what the splits are divided from, where that may change.
        in_memory: whether batches are indexed from tensors; then workers are none by default.
            A class that says so in its own body (a subclass may do otherwise) promises to draw from
            the generator alone that `transform` is given: no other is seeded for each step then.
        device_tensors: names of the tensors that batches are made of, all of them, if `__getitems__` and
            `transform` work on any device; an accelerator that has room for them keeps them.
        device: where those tensors are, to which `__getitems__` is given its indices.
    """

    title = "data"
    classes: Sequence[str] = ()
    fitted: Sequence[str] = ()
    trained_on: str
    source = ""
    in_memory = False
    device_tensors: Sequence[str] = ()
    device = torch.device("cpu")

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """One sample: tensors by name, such as ``input`` and ``target``."""

    def __getitems__(self, indices: Tensor) -> Batch:
        """A whole batch of the samples at `indices` (int64, shape (N,)); override it for speed."""
        return self.collate([self[index] for index in indices.tolist()])

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """A batch from samples, here of equal shapes; override it to pad others."""
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def transform(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """What the model gets for a batch; random (augmented) only where a generator is given."""
        return batch

    def read_inputs(self, source: str) -> Sequence[tuple[str, Sample]]:
        """Samples without targets, each with a name, from an argument of `predict.py`.

        That is the name of a file, or an input itself; a file may hold many.

        Raises:
            UserError: if there is none to be had.
        """
        raise UserError(f"{type(self).__name__} reads no inputs (it has no read_inputs)")

    def draw(self, batch: Batch, heading: str, titles: Sequence[str] = ()) -> Figure | None:
        """A picture of a transformed batch's first 25 samples; None where ``input`` is no images.

        Args:
            batch: what `transform` gave; images have the shape (N, C, H, W).
            heading: text above all.
            titles: one text a sample; by default the classes.
        """
        images = batch["input"][:25].float()
        if images.ndim != 4 or not len(images):
            return None
        if not titles and self.classes:
            titles = [self.classes[label] for label in labels(batch["target"][:25])]
        titles = titles[:25] or [""] * len(images)
        low, high = images.amin(), images.amax()
        return image_grid((images - low) / (high - low), titles, heading)

    def table(self, batch: Batch) -> list[list[str]]:
        """A transformed batch, a row for each sample below a header, for what has no picture."""
        rows = zip(*(value.numpy() for value in batch.values()), strict=True)
        short = [[shorten(np.array2string(v, precision=4), 60) for v in row] for row in rows]
        return [[*batch], *short]

    def state_dict(self) -> dict[str, Any]:
        """What was learned from the training samples, as plain data; checkpoints hold it."""
        return {name: getattr(self, name) for name in ("title", "classes", "source", *self.fitted)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave.

        Raises:
            UserError: if it was of other classes than there are here.
        """
        if len(self) and [*self.classes] != [*state["classes"]]:
            both = (self.classes, state["classes"])
            mine, known = (", ".join(names)[:60] or "(none)" for names in both)
            raise UserError(f"{self.title} has the classes {mine}; in training, they were {known}")
        for name in ("classes", *self.fitted):
            setattr(self, name, state[name])
        self.trained_on = state["title"]
        if self.source and self.title == self.trained_on and self.source != state["source"]:
            log.warning("%s has changed since training: splits may share samples", self.title)

    def to(self, device: torch.device) -> None:
        """Moves what is `device_tensors` to a device; batches are made there from then on."""
        if self.device_tensors:
            self.device = device
        for name in self.device_tensors:
            setattr(self, name, getattr(self, name).to(device))

    @cached_property
    def example(self) -> Tensor:
        """The model's input for one sample, shape (1, ...); zeros, where any numbers will do."""
        found = self.transform(self.collate([self[0]]), None)["input"].cpu()
        return torch.zeros_like(found) if found.is_floating_point() else found

    @property
    def probe_indices(self) -> Tensor:
        """Indices of 64 samples, or all if there are fewer, spread evenly over the set."""
        count = min(64, len(self))  # in integers, as float32 ends at 16,777,216
        return torch.arange(count) * (len(self) - 1) // max(count - 1, 1)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the length and of the samples at `probe_indices`."""
        batch = self.__getitems__(self.probe_indices.to(self.device))
        content = b"".join(values.cpu().numpy().tobytes() for _, values in sorted(batch.items()))
        return hashlib.sha256(str(len(self)).encode() + content).hexdigest()[:16]


def batch_size(batch: Batch) -> int:
    """The number of samples in a batch."""
    return next(iter(batch.values())).shape[0]  # len() takes four times as long


def labels(target: Tensor) -> Tensor:
    """Classes, int64, shape (N,): targets that are classes, or the largest share of soft ones.

    Soft targets, one-hot ones among them, are floats of shape (N, C).
    """
    return target.argmax(1) if target.is_floating_point() else target
