"""From a data set to the batches of each step."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from base.base_dataset import BaseDataset, Batch
from utils.seed import generator

ORDER, AUGMENTATION = 1, 2  # purposes of random numbers: different draws from one seed


@dataclass(frozen=True)
class BatchLoader(Dataset[list[Batch]]):
    """The batches of step k, a pure function of the seed and k.

    So any step can be made by any process at any time: a run resumes anywhere, with any number of
    workers, and there is no state to save.

    Args:
        dataset: the samples.
        batch_size: samples in a batch; the last one of an epoch may be smaller.
        seed: for training, what order and augmentation are drawn from; without it, samples come
            in their own order and as they are.
        accumulate: batches in one step.
        workers: processes that make the batches.
    """

    dataset: BaseDataset
    batch_size: int
    seed: int | None = None
    accumulate: int = 1
    workers: int = 0

    @cached_property
    def steps_per_epoch(self) -> int:
        """The steps in which every sample comes once."""
        return -(-len(self.dataset) // (self.batch_size * self.accumulate))

    def __getitem__(self, step: int) -> list[Batch]:
        """The batches of step `step` of the run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        size = self.batch_size * self.accumulate
        indices = epoch_order(len(self.dataset), self.seed, epoch)[position * size :][:size]
        return [self._batch(part, step, k) for k, part in enumerate(indices.split(self.batch_size))]

    def steps(self, first: int, last: int) -> Iterator[list[Batch]]:
        """The batches of each step from `first` up to, not including, `last`."""
        if self.workers == 0:
            return map(self.__getitem__, range(first, last))
        own, steps = torch.Generator(), range(first, last)  # else it would draw from dropout's
        return iter(DataLoader(self, None, sampler=steps, num_workers=self.workers, generator=own))

    def _batch(self, indices: Tensor, step: int, number: int) -> Batch:
        draws = None if self.seed is None else generator(self.seed, AUGMENTATION, step, number)
        return self.dataset.transform(self.dataset.__getitems__(indices), draws)


@lru_cache(maxsize=2)  # of training and of validation
def epoch_order(samples: int, seed: int | None, epoch: int) -> Tensor:
    """The order of the samples in an epoch, int64, shape (N,); as it is without a seed."""
    if seed is None:
        return torch.arange(samples)
    return torch.randperm(samples, generator=generator(seed, ORDER, epoch))
