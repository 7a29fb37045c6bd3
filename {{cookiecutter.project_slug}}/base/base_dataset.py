"""What every data set gives: samples, whole batches, and what was learned from training rows."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from logger.pictures import Figure, image_grid
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
        in_memory: whether batches are indexed from tensors; then workers are none by default.
            A class that says so in its own body (a subclass may do otherwise) promises to draw from
            the generator alone that `transform` is given: no other is seeded for each step then.
    """

    title: str
    classes: Sequence[str] = ()
    learned: Sequence[str] = ()
    in_memory = False

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """One sample: tensors by name, such as ``input`` and ``target``."""

    def __getitems__(self, indices: Tensor) -> Batch:
        """A whole batch of the samples at `indices` (int64, shape (N,)); override it for speed."""
        return stack([self[index] for index in indices.tolist()])

    def transform(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        """What the model gets for a batch; random (augmented) only where a generator is given."""
        return batch

    def read_input(self, source: Path) -> Sample:
        """A sample without target, made from a file, for `predict.py`.

        Raises:
            UserError: if the file cannot be read.
        """
        raise UserError(f"{type(self).__name__} does not read files (it has no read_input)")

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

    def state_dict(self) -> dict[str, Any]:
        """What was learned from the training samples, as plain data; checkpoints hold it."""
        return {name: getattr(self, name) for name in ("title", "classes", *self.learned)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        for name in ("classes", *self.learned):
            setattr(self, name, state[name])

    @cached_property
    def example(self) -> Tensor:
        """Zeros, shaped like the model's input for one sample, shape (1, ...)."""
        return torch.zeros_like(self.transform(stack([self[0]]), None)["input"])

    @property
    def probes(self) -> Tensor:
        """Indices of 64 samples, or all if there are fewer, spread evenly over the set."""
        return torch.linspace(0, len(self) - 1, min(64, len(self))).long()

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the length and of the samples at `probes`."""
        batch = self.__getitems__(self.probes)
        content = b"".join(values.numpy().tobytes() for _, values in sorted(batch.items()))
        return hashlib.sha256(str(len(self)).encode() + content).hexdigest()[:16]


def batch_size(batch: Batch) -> int:
    """The number of samples in a batch."""
    return next(iter(batch.values())).shape[0]  # len() takes four times as long


def labels(target: Tensor) -> Tensor:
    """Classes, int64, shape (N,): targets that are classes, or the largest share of soft ones.

    Soft targets, one-hot ones among them, are floats of shape (N, C).
    """
    return target.argmax(1) if target.is_floating_point() else target


def stack(samples: Sequence[Sample]) -> Batch:
    """A batch from samples of equal shapes."""
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}
