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
from storage.example_inputs import without_values
from utils.errors import UserError
from utils.nested import digest, map_tensors, named_tensors, stack_samples
from utils.randomness import RandomStream, preserve_global_rng, seed_global_generators

# Any nesting of dicts, lists, tuples, dataclasses and objects with a method `to(device)` around
# tensors. Most are dicts with the keys ``input`` and ``target``, which the shipped trainers use.
Sample = Any
Batch = Any

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
        fitted: names of the attributes that `fit` computes from the training samples: plain data.
        trained_on: title of the data that the fitted attributes come from.
        saved_attributes: names of attributes that change in training, such as a replay buffer:
            tensors and plain data. Checkpoints contain them. No workers may load the samples then,
            because changes would not reach them.
        input_suffixes: endings of the files that `read_inputs` reads, in lower case and with the
            dot. Then predict.py also accepts folders and patterns of file names.
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
    saved_attributes: Sequence[str] = ()
    input_suffixes: Sequence[str] = ()
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
        """One sample, such as a dict with the tensors ``input`` and ``target``."""

    def fit(self) -> None:
        """Computes the attributes in `fitted` from this data set, which is the training set.

        The main process calls it once, in a new run. Everything else, this data set included, then
        gets the values through `load_state_dict`.
        """

    def __getitems__(self, indices: Tensor) -> Batch:
        """The batch of the samples at `indices` (int64, shape (N,)); override it for speed."""
        return self.collate([self[index] for index in indices.tolist()])

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Stacks the tensors of samples of equal shapes; override it to pad others.

        Other values, such as texts and objects, become lists.
        """
        return stack_samples(samples)

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

    def sample_name(self, index: int) -> str:
        """What figures and tables call a sample, such as the name of its file."""
        return f"sample {index}"

    def describe_input(self) -> dict[str, Any]:
        """How `read_inputs` and `transform` make a tensor of an input, as plain data.

        Exported files contain it, so that a program without this project can prepare inputs.
        """
        return {}

    def draw(self, batch: Batch, heading: str, titles: Sequence[str] = ()) -> Figure | None:
        """A figure of the first images of a transformed batch; None if there are none.

        Images have the shape (N, C, H, W), with one or three channels. They are the ``input`` of
        the batch or, if it has none, its first tensor of such a shape.

        Args:
            batch: the result of `transform`.
            heading: title of the figure.
            titles: one title per sample; by default the classes.
        """
        images = _find_images(batch)
        if images is None:
            return None
        images = images[:MAX_DRAWN_IMAGES].float()
        if not titles:
            titles = self._class_titles(batch) or [""] * len(images)
        low = images.amin()
        contrast = (images.amax() - low).clamp(min=1e-6)
        return image_grid((images - low) / contrast, titles[:MAX_DRAWN_IMAGES], heading)

    def _class_titles(self, batch: Batch) -> list[str]:
        """The names of the classes in ``target``; empty if it contains anything else."""
        if not isinstance(batch, Mapping) or not isinstance(batch.get("target"), Tensor):
            return []
        target = batch["target"]
        if target.is_floating_point() and target.ndim == 2:
            target = target.argmax(1)
        if target.is_floating_point() or target.ndim != 1:
            return []
        labels = target.tolist()
        if not all(0 <= label < len(self.classes) for label in labels):
            return []
        return [self.classes[label] for label in labels]

    def table(self, batch: Batch) -> list[list[str]]:
        """A transformed batch as a table with a header, for data without figures.

        It has a row for each sample or, if the first dimensions of the tensors differ, for each
        tensor.
        """
        tensors = dict(named_tensors(batch))
        lengths = {tensor.shape[:1] for tensor in tensors.values()}
        if len(lengths) > 1 or torch.Size() in lengths:
            return _table_of_tensors(tensors)
        rows = [list(tensors)]
        for values in zip(*tensors.values(), strict=True):
            rows.append([_as_cell(value) for value in values])
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The fitted attributes, classes and title, as plain data for checkpoints."""
        names = ("title", "classes", "source", *self.fitted)
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the result of `state_dict`.

        Raises:
            UserError: if the classes differ from those of this data set, unless it defines
                `use_classes`.
        """
        if len(self) and list(self.classes) != list(state["classes"]):
            self.use_classes(state["classes"])
        for name in ("classes", *self.fitted):
            setattr(self, name, state[name])
        self.trained_on = state["title"]
        source_changed = bool(self.source) and self.source != state["source"]
        if source_changed and self.title == self.trained_on:
            log.warning("%s has changed since training: splits may share samples", self.title)

    def use_classes(self, classes: Sequence[str]) -> None:
        """Changes the targets to indices of the classes that the model was trained with.

        It is called if these differ from the classes of this data set, before they replace them.

        Raises:
            UserError: by default, and if a sample has another class.
        """
        raise UserError(
            f"{self.title} has the classes {list_names(self.classes)}; "
            f"the model was trained with {list_names(classes)}"
        )

    def to(self, device: torch.device) -> None:
        """Moves the `device_tensors` to a device, where batches are made from then on."""
        if self.device_tensors:
            self.device = device
        for name in self.device_tensors:
            setattr(self, name, getattr(self, name).to(device))

    @cached_property
    def example(self) -> Any:
        """The ``input`` of a batch of one sample, shape (1, ...), or the whole batch without one.

        Floating-point tensors are zeros, because checkpoints contain the example. Integers are
        kept.

        Raises:
            UserError: if there are no samples, and checkpoints have no example.
        """
        if len(self) == 0:
            raise UserError(
                f"{type(self).__name__}: batches contain objects, so checkpoints have no example; "
                "the model must take its sizes from attributes of the data set in `fitted`"
            )
        example = self.example_batch
        if isinstance(example, Mapping) and "input" in example:
            example = example["input"]
        return map_tensors(without_values, example)

    @cached_property
    def example_batch(self) -> Batch:
        """A transformed batch of the first sample; the same after a resume."""
        with preserve_global_rng():
            seed_global_generators(RandomStream.LOADING, 0)
            return self.transform(self.collate([self[0]]), None)

    @property
    def probe_indices(self) -> Tensor:
        """Indices of up to 64 samples, spread evenly over the data set: int64, shape (N,)."""
        count = min(MAX_PROBES, len(self))
        # Integers: float32 is exact up to 16,777,216 only.
        return torch.arange(count) * (len(self) - 1) // max(count - 1, 1)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the number of samples and of the samples at `probe_indices`.

        Of a sample, the tensors, numbers and texts count.
        """
        hashes = [str(len(self))]
        with preserve_global_rng():
            for index in self.probe_indices.tolist():
                seed_global_generators(RandomStream.LOADING, index)
                hashes.append(digest(self[index]))
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest()[:16]


def class_labels(target: Tensor) -> Tensor:
    """Classes, int64, shape (N,), of hard or soft targets.

    Args:
        target: classes, int64, shape (N,), or class probabilities (soft or one-hot targets),
            floating-point, shape (N, C), of which the most probable class is taken.
    """
    if target.is_floating_point():
        return target.argmax(1)
    return target


def _find_images(batch: Batch) -> Tensor | None:
    """The images in a batch, shape (N, C, H, W); None if there are none."""
    tensors = dict(named_tensors(batch))
    if "input" in tensors:
        tensors = {"input": tensors["input"]}
    for tensor in tensors.values():
        is_image = tensor.ndim == 4 and tensor.shape[1] in (1, 3)
        if is_image and len(tensor) > 0 and not tensor.is_complex():
            return tensor
    return None


def _table_of_tensors(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    rows = [["tensor", "dtype", "shape", "values"]]
    for name, tensor in tensors.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        rows.append([name, dtype, str(tuple(tensor.shape)), _as_cell(tensor)])
    return rows


def _as_cell(tensor: Tensor) -> str:
    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:  # NumPy has no bfloat16
        tensor = tensor.float()
    text = np.array2string(tensor.numpy(), precision=4)
    return shorten(text, MAX_CELL_CHARACTERS)


def list_names(names: Sequence[str]) -> str:
    """The names as a list for a message, which is cut if it is long."""
    return ", ".join(names)[:MAX_CELL_CHARACTERS] or "(none)"
