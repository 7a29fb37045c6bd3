"""The abstract data set: samples, whole batches, and statistics fitted on the training samples."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
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
from utils.nested import named_tensors
from utils.randomness import RandomStream, preserve_global_rng, seed_global_generators

Sample = dict[str, Tensor]
Batch = dict[str, Tensor]

MAX_PROBES = 64  # samples that the fingerprint is computed from
MAX_DRAWN_IMAGES = 25
MAX_CELL_CHARACTERS = 60


class BaseDataset(ABC, Dataset[Sample]):
    """Samples by index.

    A constructor takes ``root``, ``split`` and ``seed``; its further parameters are settings.
    The split is ``"train"``, ``"validation"``, ``"test"``, or None for a data set without samples
    that only reads inputs for predict.py.

    Attributes:
        title: the name of the data in logs, tables and figures.
        classes: names of the classes, by target; empty if there are none.
        fitted: names of the attributes that are fitted on the training samples: plain data.
        trained_on: title of the data that the fitted attributes come from.
        source: hash of the files that are divided into splits, if they may change.
        in_memory: whether batches are indexed from tensors; then no workers are started by
            default.
        uses_global_rng: whether the data set may draw random numbers from the global generators
            of Python, NumPy or torch, which are then seeded for each step. Set it to False, which
            saves 20 µs per step, if `transform` draws from its `rng` only.
        device_tensors: names of all tensors that batches are made of, if `__getitems__` and
            `transform` work on any device. An accelerator with enough memory keeps them.
        device: the device of these tensors; `__getitems__` gets its indices on it.
    """

    title = "data"
    classes: Sequence[str] = ()
    fitted: Sequence[str] = ()
    trained_on: str
    source = ""
    in_memory = False
    uses_global_rng = True
    device_tensors: Sequence[str] = ()
    device = torch.device("cpu")

    @abstractmethod
    def __len__(self) -> int:
        """The number of samples."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """One sample: tensors by name, such as ``input`` and ``target``."""

    def __getitems__(self, indices: Tensor) -> Batch:
        """The batch of the samples at `indices` (int64, shape (N,)); override it for speed."""
        return self.collate([self[index] for index in indices.tolist()])

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stacks samples of equal shapes into a batch; override it to pad others."""
        return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}

    def transform(self, batch: Batch, rng: torch.Generator | None) -> Batch:
        """The batch that the model gets, augmented at random only if there is an `rng`."""
        return batch

    def read_inputs(self, source: str) -> Sequence[tuple[str, Sample]]:
        """Samples without targets, each with a name, from an argument of predict.py.

        Args:
            source: the name of a file with one or more inputs, or an input itself.

        Raises:
            UserError: if there is no such input.
        """
        raise UserError(f"{type(self).__name__} does not define read_inputs, so it reads no inputs")

    def describe_input(self) -> dict[str, Any]:
        """How `read_inputs` and `transform` make a tensor of an input, as plain data.

        Exported files contain it, so that a program without this project can prepare inputs.
        """
        return {}

    def draw(self, batch: Batch, heading: str, titles: Sequence[str] = ()) -> Figure | None:
        """A figure of the first images of a transformed batch; None if ``input`` is no images.

        Args:
            batch: the result of `transform`; images have the shape (N, C, H, W).
            heading: title of the figure.
            titles: one title per sample; by default the classes.
        """
        images = batch["input"][:MAX_DRAWN_IMAGES].float()
        if images.ndim != 4 or len(images) == 0:
            return None
        if not titles and self.classes:
            targets = class_labels(batch["target"])
            titles = [self.classes[target] for target in targets[:MAX_DRAWN_IMAGES]]
        if not titles:
            titles = [""] * len(images)
        low = images.amin()
        high = images.amax()
        return image_grid((images - low) / (high - low), titles[:MAX_DRAWN_IMAGES], heading)

    def table(self, batch: Batch) -> list[list[str]]:
        """A transformed batch as a header and a row for each sample, for data without figures."""
        rows = [list(batch)]
        for values in zip(*(tensor.numpy() for tensor in batch.values()), strict=True):
            texts = [np.array2string(value, precision=4) for value in values]
            rows.append([shorten(text, MAX_CELL_CHARACTERS) for text in texts])
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The fitted attributes, classes and title, as plain data for checkpoints."""
        names = ("title", "classes", "source", *self.fitted)
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the result of `state_dict`.

        Raises:
            UserError: if the classes differ from those of this data set.
        """
        if len(self) and list(self.classes) != list(state["classes"]):
            raise UserError(
                f"{self.title} has the classes {_listing(self.classes)}; "
                f"the model was trained with {_listing(state['classes'])}"
            )
        for name in ("classes", *self.fitted):
            setattr(self, name, state[name])
        self.trained_on = state["title"]
        source_changed = bool(self.source) and self.source != state["source"]
        if source_changed and self.title == self.trained_on:
            log.warning("%s has changed since training: splits may share samples", self.title)

    def to(self, device: torch.device) -> None:
        """Moves the `device_tensors` to a device, where batches are made from then on."""
        if self.device_tensors:
            self.device = device
        for name in self.device_tensors:
            setattr(self, name, getattr(self, name).to(device))

    @cached_property
    def example(self) -> Tensor:
        """The model's input for one sample, shape (1, ...); zeros if it is floating-point."""
        batch = self.transform(self.collate([self[0]]), None)
        model_input = batch["input"].cpu()
        if model_input.is_floating_point():
            return torch.zeros_like(model_input)
        return model_input

    @property
    def probe_indices(self) -> Tensor:
        """Indices of up to 64 samples, spread evenly over the data set: int64, shape (N,)."""
        count = min(MAX_PROBES, len(self))
        # Integers: float32 is exact up to 16,777,216 only.
        return torch.arange(count) * (len(self) - 1) // max(count - 1, 1)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the number of samples and of the samples at `probe_indices`."""
        digest = hashlib.sha256(str(len(self)).encode())
        with preserve_global_rng():
            for index in self.probe_indices.tolist():
                seed_global_generators(RandomStream.LOADING, index)
                for name, tensor in sorted(named_tensors(self[index])):
                    digest.update(name.encode())
                    digest.update(_as_bytes(tensor))
        return digest.hexdigest()[:16]


def batch_size(batch: Batch) -> int:
    """The number of samples in a batch."""
    first_tensor = next(iter(batch.values()))
    return first_tensor.shape[0]


def class_labels(target: Tensor) -> Tensor:
    """Classes, int64, shape (N,), of hard or soft targets.

    Args:
        target: classes, int64, shape (N,), or class probabilities (soft or one-hot targets),
            floating-point, shape (N, C), of which the most probable class is taken.
    """
    if target.is_floating_point():
        return target.argmax(1)
    return target


def _as_bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()  # NumPy has no bfloat16


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names)[:MAX_CELL_CHARACTERS] or "(none)"
