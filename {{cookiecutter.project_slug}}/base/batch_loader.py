"""From a data set to the batches of each step."""

import multiprocessing
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from base.base_dataset import BaseDataset, Batch
from utils.errors import TRAINING_FAILED, LoadingError, UserError, explain
from utils.randomness import BatchGenerator, generator, permute, seed_all

ORDER, LOADING = 1, 2  # purposes of random numbers: different draws from one seed
BLOCK = 2**18  # places in an order that are made at once
ROOM = 0.25  # share of an accelerator's free memory that a data set may take


@dataclass(frozen=True)
class BatchLoader(Dataset[list[Batch] | LoadingError]):
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
        rank: which of the `world` processes that train together this is; it has each sample whose
            place in a batch, modulo `world`, is `rank`.
        world: how many those are.
    """

    dataset: BaseDataset
    batch_size: int
    seed: int | None = None
    accumulate: int = 1
    workers: int = 0
    rank: int = 0
    world: int = 1

    @cached_property
    def size(self) -> int:
        """The samples in a step."""
        return self.batch_size * self.accumulate

    @cached_property
    def steps_per_epoch(self) -> int:
        """The steps in which every sample comes once."""
        return -(-len(self.dataset) // self.size)

    @cached_property
    def steps_per_block(self) -> int:
        """The steps whose samples are found at once."""
        return max(1, BLOCK // self.size)

    def samples_before(self, step: int) -> int:
        """The samples in all steps before `step`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        samples = len(self.dataset)
        return epoch * samples + min(position * self.size, samples)

    def __getitem__(self, step: int) -> list[Batch] | LoadingError:
        """The batches of step `step` of the run, or why they cannot be had.

        An error is not raised but given back, as it would lose its type on the way from a worker.
        """
        epoch, position = divmod(step, self.steps_per_epoch)
        block, place = divmod(position, self.steps_per_block)
        length = self.steps_per_block * self.size
        data, start = self.dataset, block * length
        order = order_of(len(data), self.seed, epoch, start, length, data.device)
        indices = order[place * self.size : (place + 1) * self.size]
        # To split takes a while.
        parts = indices.split(self.batch_size) if self.accumulate > 1 else [indices]
        draws = self._draws(step)
        try:
            return [self._load(part, step, draws) for part in parts]
        except Exception as error:  # of the data set
            return self._explain(error, indices)

    def cache_on_device(self, device: torch.device) -> None:
        """Has a data set that can make its batches on an accelerator do so, if there is room."""
        data = self.dataset  # which may have no tensors where it has no samples
        sizes = [getattr(data, name).nbytes for name in data.device_tensors if len(data)]
        able = sizes and device.type == "cuda" and not self.workers
        if able and sum(sizes) < ROOM * torch.cuda.mem_get_info(device)[0]:
            self.dataset.to(device)

    def loss_weights(self, step: int) -> list[float]:
        """What the mean over each batch of a step here counts for in the mean over processes."""
        if self.world == 1 and self.accumulate == 1:
            return [1.0]
        samples = self.samples_before(step + 1) - self.samples_before(step)
        sizes = [min(self.batch_size, samples - k) for k in range(0, samples, self.batch_size)]
        own = [len(range(self.rank, size, self.world)) for size in sizes]
        return [size * self.world / samples for size in own]

    def steps(self, first: int, last: int) -> Iterator[list[Batch]]:
        """The batches of each step from `first` up to, not including, `last`.

        Raises:
            LoadingError: naming data set, sample and cause, if a batch cannot be had.
        """
        steps = range(first, last)
        source: Iterable[list[Batch] | LoadingError] = map(self.__getitem__, steps)
        if self.workers and len(steps) > 1:
            again = self.seed is None and steps == range(self.steps_per_epoch)
            source = iter(self._evaluation if again else self._start(steps))
            if hasattr(signal, "SIGCHLD"):  # torch's handler would raise in the midst of a step
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        try:
            for step, batches in zip(steps, source, strict=True):
                if isinstance(batches, LoadingError):
                    raise batches
                if self.seeds_all:  # whatever was drawn for the batches, and wherever
                    self._draws(step)
                yield batches
        except (RuntimeError, OSError, EOFError) as error:  # also in the midst of a batch
            text = f"{self.dataset.title}: a worker died ({error}); data.workers=0 tells more"
            raise LoadingError(text, TRAINING_FAILED) from error
        finally:
            del source  # ends workers; left to the garbage collector, they take 5 s each

    def _start(self, steps: range, stay: bool = False) -> DataLoader[list[Batch] | LoadingError]:
        options: Any = {"num_workers": self.workers, "persistent_workers": stay}
        options["generator"] = generator(0)  # or it would draw from the one that updates draw from
        if self.world > 1 and "forkserver" in multiprocessing.get_all_start_methods():
            # A process that is forked while another thread runs, such as those of gloo, may hang
            # (python/cpython#112275).
            options["multiprocessing_context"] = multiprocessing.get_context("forkserver")
        # The copy has none of the workers that this has started, which cannot be sent to others.
        return DataLoader(replace(self), None, sampler=steps, **options)

    @cached_property
    def _evaluation(self) -> DataLoader[list[Batch] | LoadingError]:
        """The whole set, by workers that stay for the next time."""
        return self._start(range(self.steps_per_epoch), stay=True)

    def check(self) -> None:
        """Reads the samples that stand for all, so that what cannot be read is told beforehand.

        Raises:
            LoadingError: naming data set, sample and cause.
            UserError: if there are no samples.
        """
        if not len(self.dataset):
            raise UserError(f"{self.dataset.title}: there are no samples")
        try:
            if not isinstance(self.dataset[0], dict):
                raise UserError("__getitem__ must give a dict of tensors, `input` among them")
            _ = self.dataset.fingerprint, self.dataset.example
        except Exception as error:  # of the data set
            raise self._explain(error, self.dataset.probe_indices) from error

    def sample_batch(self, count: int) -> Batch:
        """Some samples, always the same, drawn from all and transformed as for evaluation.

        They are on the CPU.
        """
        samples = len(self.dataset)
        chosen = permute(torch.arange(min(count, samples)), samples, generator(0))
        batch = self.dataset.__getitems__(chosen.to(self.dataset.device))
        return {k: value.cpu() for k, value in self.dataset.transform(batch, None).items()}

    @cached_property
    def seeds_all(self) -> bool:
        """Whether the data set may draw as it likes, so that all generators are seeded a step.

        It takes a while: of a small network's step, a tenth.
        """
        return not vars(type(self.dataset)).get("in_memory", False)

    def _draws(self, step: int) -> BatchGenerator | None:
        """What a step's samples are augmented with; None where they are not."""
        if self.seeds_all:
            seed_all(self.seed or 0, LOADING, step, self.rank)
        augments = type(self.dataset).transform is not BaseDataset.transform
        augmented = self.seed is not None and augments
        return generator(self.seed or 0, LOADING, step) if augmented else None

    def _load(self, part: Tensor, step: int, draws: BatchGenerator | None) -> Batch:
        """This process's samples of a batch, as the model gets them; there may be none."""
        count = part.shape[0]  # len() takes four times as long
        some = count > self.rank
        rows = slice(self.rank, None, self.world) if some else slice(1)
        if draws is not None:
            draws.samples, draws.rows, draws.place = count, rows, part.device
        batch = self.dataset.transform(self._samples(part[rows], step), draws)
        return batch if some else {name: value[:0] for name, value in batch.items()}

    def _samples(self, indices: Tensor, step: int) -> Batch:
        """The samples, each of which draws on its own where it may draw as it likes."""
        if not self.seeds_all or type(self.dataset).__getitems__ is not BaseDataset.__getitems__:
            return self.dataset.__getitems__(indices)
        samples = []
        for index in indices.tolist():
            seed_all(self.seed or 0, LOADING, step, index)
            samples.append(self.dataset[index])
        return self.dataset.collate(samples)

    def _explain(self, error: Exception, indices: Tensor) -> LoadingError:
        """The error with data set, sample (where one alone brings it about) and place."""
        sample = f"samples {', '.join(map(str, indices[:3].tolist()))}, ... together"
        for index in indices.tolist():
            try:
                self.dataset[index]
            except Exception as alone:
                sample, error = f"sample {index}", alone
                break
        text, code = explain(error), getattr(error, "exit_code", TRAINING_FAILED)
        return LoadingError(f"{self.dataset.title}: {sample}: {text}", code)


@lru_cache(maxsize=2)  # of training and of validation
def order_of(
    samples: int, seed: int | None, epoch: int, first: int, length: int, device: torch.device
) -> Tensor:
    """The samples at `length` places, from `first` on, of an epoch's order, int64, shape (N,).

    They come as they are without a seed. An order that is longer is nowhere held as a whole.
    """
    places = torch.arange(first, min(first + length, samples))
    draws = generator(seed or 0, ORDER, epoch)
    if seed is not None and samples <= length:
        places = torch.randperm(samples, generator=draws)
    elif seed is not None:
        places = permute(places, samples, draws)
    return places.to(device)
