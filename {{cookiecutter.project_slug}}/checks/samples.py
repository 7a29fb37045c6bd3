"""Reads the samples of a split: which of them are broken, their targets, hashes of their inputs."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from base.base_dataset import BaseDataset
from logger.console import progress_bar
from utils.errors import describe_error
from utils.nested import digest, named_tensors
from utils.randomness import make_generator, permute, preserve_global_rng

SECONDS_PER_SPLIT = 2.0


@dataclass
class Reading:
    """What was read of a split.

    Attributes:
        total: its number of samples.
        read: how many of them were read.
        broken: messages about those that cannot be read.
        non_finite: the names of those that contain NaN or infinity.
        targets: the class of each other sample, or the digest of another target.
        hashes: the digest of the inputs of each, without augmentation; of the whole sample if there
            are no classes.
        discrete: whether all inputs are short lists of whole numbers, such as words and categories.
    """

    total: int
    read: int = 0
    broken: list[str] = field(default_factory=list)
    non_finite: list[str] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    discrete: bool = True


def read_split(dataset: BaseDataset, split: str) -> Reading:
    """Reads samples in random order until all are read or the time is over."""
    count = len(dataset)
    reading = Reading(count)
    order = permute(torch.arange(count), count, make_generator(0))
    end = time.perf_counter() + SECONDS_PER_SPLIT
    with preserve_global_rng(), progress_bar(count, f"reading {split}") as bar:
        for index in order.tolist():
            _read_sample(reading, dataset, index)
            bar.update()
            if time.perf_counter() > end:
                break
    return reading


def _read_sample(reading: Reading, dataset: BaseDataset, index: int) -> None:
    """Adds a sample to a reading."""
    reading.read += 1
    try:
        sample = dataset[index]
    except Exception as error:  # whatever the code of a data set may raise
        reading.broken.append(f"{dataset.sample_name(index)}: {describe_error(error)}")
        return
    for _, tensor in named_tensors(sample):
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            reading.non_finite.append(dataset.sample_name(index))
            break
    inputs, target = _split_sample(sample)
    if not dataset.classes:
        inputs = sample  # the same inputs with another number are another measurement
    if not _is_discrete(inputs):
        reading.discrete = False
    reading.hashes.append(digest(inputs))
    reading.targets.append(target)


def _split_sample(sample: Any) -> tuple[Any, Any]:
    """The inputs of a sample, and its target as a value that can be compared."""
    if not isinstance(sample, Mapping) or "target" not in sample:
        return sample, None
    inputs = {name: value for name, value in sample.items() if name not in ("target", "index")}
    target = sample["target"]
    if isinstance(target, Tensor) and target.numel() == 1 and not target.is_complex():
        return inputs, target.item()
    if isinstance(target, Tensor) and target.ndim == 1 and target.is_floating_point():
        return inputs, tuple(target.tolist())
    return inputs, digest(target)


def _is_discrete(inputs: Any) -> bool:
    """Whether inputs are lists of whole numbers, and no images or measurements."""
    for _, tensor in named_tensors(inputs):
        has_fractions = tensor.is_floating_point() and not torch.equal(tensor, tensor.round())
        if tensor.ndim > 1 or has_fractions:
            return False
    return True
