"""The samples of a run on a part of the data: trainer.overfit and trainer.fraction."""

import math

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, class_labels
from base.batch_loader import BatchLoader
from base.sample_order import FunctionSampler, SampleOrder
from data_loader.splits import select_stratified
from utils.randomness import RandomStream, make_generator

MAX_TARGET_DIMENSIONS = 2  # class probabilities


def first_batches(loader: BatchLoader, count: int) -> Tensor:
    """Indices of the samples of the first batches of the first epoch: int64, shape (N,)."""
    source = loader.source
    samples = min(count * source.batch_size, source.samples_per_epoch)
    steps = range(math.ceil(samples / source.step_size))
    return torch.cat([source.sample_indices(step) for step in steps])[:samples].cpu()


def stratified_fraction(dataset: BaseDataset, fraction: float, seed: int) -> Tensor:
    """Sorted indices of a fraction of the samples, at least one: int64, shape (N,).

    They are stratified if the data set has `targets`: classes, class probabilities or numbers.
    """
    total = len(dataset)
    count = max(1, round(fraction * total))
    targets = getattr(dataset, "targets", None)
    if isinstance(targets, Tensor) and len(targets) == total:
        if targets.ndim == MAX_TARGET_DIMENSIONS:
            if targets.shape[1] == 1:  # one number for each sample
                targets = targets[:, 0]
            else:
                targets = class_labels(targets)
        if targets.ndim == 1:
            return select_stratified(targets.cpu(), count, seed)
    return select_stratified(torch.zeros(total, dtype=torch.int64), count, seed)


def in_fixed_order(dataset: BaseDataset, indices: Tensor) -> SampleOrder:
    """The samples at `indices` (int64, shape (N,)) in this order, the same in each epoch."""
    sampler = FunctionSampler(_same_indices, {"indices": indices})
    return SampleOrder(sampler, "fixed", dataset, seed=0)


def in_random_order(dataset: BaseDataset, indices: Tensor, seed: int) -> SampleOrder:
    """The samples at `indices` (int64, shape (N,)), shuffled in each epoch."""
    sampler = FunctionSampler(_shuffled_indices, {"indices": indices, "seed": seed})
    return SampleOrder(sampler, "shuffled", dataset, seed)


def _same_indices(indices: Tensor) -> Tensor:
    return indices


def _shuffled_indices(indices: Tensor, seed: int, epoch: int) -> Tensor:
    rng = make_generator(seed, RandomStream.SHUFFLING, epoch)
    return indices[torch.randperm(len(indices), generator=rng)]
