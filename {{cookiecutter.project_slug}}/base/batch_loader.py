"""The loader: which batches an optimizer step consists of, and the workers that load them."""

import copy
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from base.base_dataset import BaseDataset, Batch
from base.sample_order import SampleOrder
from utils.device import pin, to_cpu, to_device
from utils.errors import TRAINING_FAILED, LoadingError, UserError, describe_error
from utils.nested import map_tensors, named_leaves
from utils.randomness import (
    BatchGenerator,
    RandomStream,
    make_generator,
    permute,
    random_positions,
    seed_global_generators,
)

ORDER_BLOCK_SAMPLES = 2**16  # of a larger data set, the order is computed in blocks
MAX_FREE_MEMORY_FRACTION = 0.25  # of an accelerator's free memory, for the tensors of a data set


@dataclass
class Step:
    """The batches of one optimizer step, with the samples of this process only.

    There is one batch, or with `trainer.accumulate` several.

    Attributes:
        batches: the gradients of several batches are added.
        loss_weights: factor of each batch's mean loss, so that the gradient, averaged over the
            processes, is that of the mean loss over all samples of the step.
        sample_counts: the number of this process's samples in each batch; 0 for a small last batch.
        indices: of the samples of each batch in all processes, int64, shape (N,); none if the
            samples are not those of a data set.
    """

    batches: list[Batch]
    loss_weights: list[float]
    sample_counts: list[int]
    indices: list[Tensor] = field(default_factory=list)

    def to(self, device: torch.device) -> "Step":
        """The same step with its batches on a device."""
        if device.type == "cpu":
            return self
        return replace(self, batches=[to_device(batch, device) for batch in self.batches])

    def pin_memory(self) -> "Step":
        """The same step in pinned memory; torch's DataLoader calls it in a thread of its own."""
        return replace(self, batches=[pin(batch) for batch in self.batches])


@dataclass(frozen=True)
class StepSource(Dataset["Step | LoadingError"]):
    """The batches of step k as a pure function of the seed and k.

    Any process can load any step at any time. A run can therefore resume at any step, with any
    number of workers, and there is no state to save.

    Args:
        dataset: the samples.
        batch_size: samples of a batch in all processes; the last batch of an epoch may be smaller.
        seed: for training: determines order and augmentation. Without a seed, samples come in
            their own order and are not augmented.
        accumulate: batches of one step.
        rank: this process has the samples at the positions rank, rank + world_size, ... of a
            batch.
        world_size: processes that train together.
        order: the indices of the samples of an epoch, int64, shape (N,), on the device of the data
            set. By default all samples, which training shuffles; that is computed in blocks.
        drop_last: for training: whether an epoch leaves out the last batch if it is smaller.
        augments: for training: whether batches are augmented.
    """

    dataset: BaseDataset
    batch_size: int
    seed: int | None = None
    accumulate: int = 1
    rank: int = 0
    world_size: int = 1
    order: Callable[[int], Tensor] | None = None
    drop_last: bool = False
    augments: bool = True

    @cached_property
    def step_size(self) -> int:
        """Samples of a whole step."""
        return self.batch_size * self.accumulate

    @cached_property
    def steps_per_block(self) -> int:
        """Steps whose shuffled order is computed at once."""
        return max(1, ORDER_BLOCK_SAMPLES // self.step_size)

    @cached_property
    def samples_per_epoch(self) -> int:
        """Samples of an epoch: those of the data set, unless a sampler returns fewer or more."""
        count = len(self.dataset)
        if self.order is not None:
            count = len(self.order(0))
        if self.drop_last:
            count -= count % self.batch_size
        return count

    @cached_property
    def last_batch_size(self) -> int:
        """Samples of the last batch of an epoch, which is the smallest."""
        return self.samples_per_epoch % self.batch_size or self.batch_size

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        full_steps, remainder = divmod(self.samples_per_epoch, self.step_size)
        if remainder == 0:
            return full_steps
        if self.seed is None and full_steps > 0 and remainder < self.world_size:
            # In evaluation, the last step takes the remaining samples as well, so that no process
            # has an empty batch. (In training, the steps must not depend on the world size.)
            return full_steps
        return full_steps + 1

    def __getitem__(self, step: int) -> "Step | LoadingError":
        """The batches of a step of the run.

        An error is returned and not raised, because it would lose its type on the way from a
        worker to the training process.
        """
        try:
            indices = self.sample_indices(step)
        except LoadingError as error:  # of a sampler
            return error
        try:
            return self._load_step(step, indices)
        except Exception as error:  # whatever the code of a data set may raise
            return self.loading_error(error, indices)

    def sample_indices(self, step: int) -> Tensor:
        """Indices of the samples of a whole step: int64, shape (N,)."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        start = step_of_epoch * self.step_size
        stop = min(start + self.step_size, self.samples_per_epoch)
        if self.seed is None:
            if step_of_epoch == self.steps_per_epoch - 1:
                stop = self.samples_per_epoch
            if self.order is not None:
                return self.order(0)[start:stop]
            return torch.arange(start, stop, device=self.dataset.device)
        if self.order is not None:
            return self.order(epoch)[start:stop]
        block, step_of_block = divmod(step_of_epoch, self.steps_per_block)
        steps = shuffled_steps(
            len(self.dataset),
            self.seed,
            epoch,
            block * self.steps_per_block * self.step_size,
            self.steps_per_block,
            self.step_size,
            self.dataset.device,
        )
        return steps[step_of_block][: stop - start]

    def local_batches(self, step: int) -> "list[tuple[Tensor, Batch]]":
        """The indices of this process's samples in each batch of a step, with the batch."""
        indices = self.sample_indices(step)
        parts = [indices]
        if self.accumulate > 1:
            parts = list(indices.split(self.batch_size))
        rows = slice(self.rank, None, self.world_size)
        batches = self._load_step(step, indices).batches
        return [(part[rows], batch) for part, batch in zip(parts, batches, strict=True)]

    def local_indices(self, step: int) -> Tensor:
        """Indices of this process's samples of a step of one batch: int64, shape (N,)."""
        return self.sample_indices(step)[self.rank :: self.world_size]

    def _load_step(self, step: int, indices: Tensor) -> Step:
        self.seed_loading(step)
        rng = None
        if self.seed is not None and self.augments and self._has_transform:
            rng = make_generator(self.seed, RandomStream.LOADING, step)
        parts = [indices]  # one batch, even if the last of an evaluation is larger
        if self.accumulate > 1:
            parts = list(indices.split(self.batch_size))
        batches = [self._load_batch(part, step, rng) for part in parts]
        sizes = [part.shape[0] for part in parts]
        counts = [len(range(self.rank, size, self.world_size)) for size in sizes]
        step_samples = indices.shape[0]
        loss_weights = [count * self.world_size / step_samples for count in counts]
        return Step(batches, loss_weights, counts, parts)

    @cached_property
    def _has_transform(self) -> bool:
        return type(self.dataset).transform is not BaseDataset.transform

    @cached_property
    def _seeds_each_sample(self) -> bool:
        """Whether samples are read one by one and may draw from the global generators.

        Each has a seed of its own then, so that it does not depend on the other processes.
        """
        reads_one_by_one = type(self.dataset).__getitems__ is BaseDataset.__getitems__
        return self.dataset.uses_global_rng and reads_one_by_one

    def seed_loading(self, step: int) -> None:
        """Seeds the global generators for a step, if the data set may use them."""
        if self.dataset.uses_global_rng:
            seed_global_generators(self.seed or 0, RandomStream.LOADING, step, self.rank)

    def _load_batch(self, indices: Tensor, step: int, rng: BatchGenerator | None) -> Batch:
        """This process's samples of a batch, transformed.

        If this process has no samples, each tensor has no rows. If the batch cannot be cut to no
        rows (lists, graphs), it contains one sample of another process, with loss weight 0.
        """
        size = indices.shape[0]
        rows = slice(self.rank, None, self.world_size)
        is_empty = self.rank >= size
        if is_empty:
            rows = slice(0, 1)
        if self.world_size > 1:  # otherwise all rows are selected
            indices = indices[rows]
        if rng is not None:
            rng.select(rows, size, indices.device)
        if self._seeds_each_sample:
            samples = self._read_seeded_samples(indices, step)
        else:
            samples = self.dataset.__getitems__(indices)
        batch = self.dataset.transform(samples, rng)
        if is_empty and _has_one_row(batch):
            batch = map_tensors(lambda tensor: tensor[:0], batch)
        return batch

    def _read_seeded_samples(self, indices: Tensor, step: int) -> Batch:
        samples = []
        for index in indices.tolist():
            seed_global_generators(self.seed or 0, RandomStream.LOADING, step, index)
            samples.append(self.dataset[index])
        return self.dataset.collate(samples)

    def loading_error(self, error: Exception, indices: Tensor) -> LoadingError:
        """The error with the data set and, if one sample alone causes it, that sample."""
        first_indices = ", ".join(str(index) for index in indices[:3].tolist())
        sample = f"samples {first_indices}, ... together"
        if len(indices) == 1:
            sample = f"sample {first_indices}"
        for index in indices.tolist():
            try:
                self.dataset[index]
            except Exception as sample_error:
                sample = f"sample {index}"
                error = sample_error
                break
        exit_code = getattr(error, "exit_code", TRAINING_FAILED)
        return LoadingError(f"{self.dataset.title}: {sample}: {describe_error(error)}", exit_code)


def _has_one_row(batch: Batch) -> bool:
    """Whether a batch of one sample consists of tensors of the shape (1, ...)."""
    return all(
        isinstance(leaf, Tensor) and leaf.shape[:1] == (1,) for _, leaf in named_leaves(batch)
    )


@lru_cache(maxsize=2)
def shuffled_steps(
    count: int, seed: int, epoch: int, start: int, steps: int, step_size: int, device: torch.device
) -> tuple[Tensor, ...]:
    """The shuffled indices of some steps of an epoch: int64, shape (N,) for each step.

    The last results are cached, so that an order is computed once for many steps. A longer order
    is never in memory as a whole.

    Args:
        count: samples of the data set.
        seed: random seed of the run.
        epoch: number of the epoch, from 0.
        start: position of the first sample in the epoch.
        steps: number of steps; there are fewer at the end of the epoch.
        step_size: samples of a step.
        device: device of the result.
    """
    rng = make_generator(seed, RandomStream.SHUFFLING, epoch)
    if count <= steps * step_size:
        order = torch.randperm(count, generator=rng)
    else:
        positions = torch.arange(start, min(start + steps * step_size, count))
        order = permute(positions, count, rng)
    indices: tuple[Tensor, ...] = order.to(device).split(step_size)
    return indices


class BatchLoader:
    """Loads steps, in this process or in workers; the arguments are those of `StepSource`.

    Args:
        dataset: the samples.
        batch_size: samples of a batch in all processes.
        seed: random seed for training; None for evaluation.
        accumulate: batches of one step.
        workers: processes that load batches; 0 loads them in this process.
        rank: number of this process among those that train together.
        world_size: the number of those processes.
        order: the order of the samples; None takes all of them, and shuffles them in training.
        drop_last: whether training leaves out the last batch of an epoch if it is smaller.
    """

    def __init__(
        self,
        dataset: BaseDataset,
        batch_size: int,
        seed: int | None = None,
        accumulate: int = 1,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
        order: SampleOrder | None = None,
        drop_last: bool = False,
    ) -> None:
        self.dataset = dataset
        self.workers = workers
        self.order = order
        self.source = StepSource(
            dataset, batch_size, seed, accumulate, rank, world_size, order, drop_last
        )
        self.restricted_to: int | None = None
        self._pins_memory = False

    def restricted(
        self, order: SampleOrder, sample_count: int, augments: bool = True
    ) -> "BatchLoader":
        """A loader of a part of the samples.

        Args:
            order: the samples of each epoch.
            sample_count: the number of samples of the part.
            augments: whether training batches are augmented.
        """
        loader = copy.copy(self)
        loader.restricted_to = sample_count
        loader.order = order
        loader.source = replace(self.source, order=order, augments=augments)
        return loader

    @property
    def sample_count(self) -> int:
        """Samples that are used: those of the data set, unless the loader is `restricted`."""
        if self.restricted_to is None:
            return len(self.dataset)
        return self.restricted_to

    @property
    def step_size(self) -> int:
        """Samples of a whole step in all processes."""
        return self.source.step_size

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.source.steps_per_epoch

    @property
    def last_step_size(self) -> int:
        """Samples of the last step of an epoch in all processes."""
        return len(self.source.sample_indices(self.steps_per_epoch - 1))

    def use_device(self, device: torch.device) -> None:
        """Prepares for batches on a device: moves the data set there if it fits."""
        if device.type != "cuda":
            return
        self._pins_memory = True
        if self.workers == 0 and len(self.dataset) and self.dataset.device_tensors:
            tensors = [getattr(self.dataset, name) for name in self.dataset.device_tensors]
            free_bytes, _ = torch.cuda.mem_get_info(device)
            if sum(t.nbytes for t in tensors) < MAX_FREE_MEMORY_FRACTION * free_bytes:
                self.dataset.to(device)

    def steps(self, first: int, last: int) -> Iterator[Step]:
        """The steps from `first` up to, but not including, `last`.

        Raises:
            LoadingError: naming data set, sample and cause, if a batch cannot be loaded.
        """
        steps = range(first, last)
        if self.workers > 0 and len(steps) > 1:
            parts = self._parts(steps)
            results: Iterable[Any] = chain.from_iterable(map(self._load_in_workers, parts))
        else:
            results = map(self.source.__getitem__, steps)
        for step, result in zip(steps, results, strict=True):
            if isinstance(result, LoadingError):
                raise result
            # A worker has seeded its own generators. Seed those of this process as well, so that
            # the next step does not depend on where this one was loaded.
            self.source.seed_loading(step)
            yield result

    def _parts(self, steps: range) -> Iterator[range]:
        """The steps that the same workers load: all of them, or those of one epoch.

        Workers have the sampler's state of the time when they started. A sampler with a state is
        therefore called here, at the start of each epoch, and new workers get its order.
        """
        if self.order is None or not self.order.has_state:
            yield steps
            return
        first = steps.start
        while first < steps.stop:
            epoch = first // self.steps_per_epoch
            last = min((epoch + 1) * self.steps_per_epoch, steps.stop)
            self.order(epoch)
            yield range(first, last)
            first = last

    def _load_in_workers(self, steps: range) -> "Iterator[Step | LoadingError]":
        evaluates_all = self.source.seed is None and steps == range(self.steps_per_epoch)
        loader = self._evaluation_loader if evaluates_all else self._make_loader(steps)
        with _keeping_sigchld_handler():
            results = iter(loader)
            _use_default_sigchld_handler()
            try:
                yield from results
            except (RuntimeError, OSError, EOFError) as error:
                raise LoadingError(
                    f"{self.dataset.title}: a worker process died ({error}); data.workers=0 shows "
                    "the error itself",
                    TRAINING_FAILED,
                ) from error
            finally:
                # Ends the workers now: left to the garbage collector, each takes 5 s to end.
                del results

    @cached_property
    def _evaluation_loader(self) -> "DataLoader[Step | LoadingError]":
        """Loads all samples, with workers that stay for the next evaluation."""
        return self._make_loader(range(self.steps_per_epoch), persistent=True)

    def _make_loader(
        self, steps: Iterable[int], persistent: bool = False
    ) -> "DataLoader[Step | LoadingError]":
        options: dict[str, Any] = {}
        if self.source.world_size > 1 and "forkserver" in multiprocessing.get_all_start_methods():
            # A process that is forked while a thread of gloo runs may hang
            # (python/cpython#112275).
            options["multiprocessing_context"] = multiprocessing.get_context("forkserver")
        return DataLoader(
            self.source,
            batch_size=None,
            sampler=steps,
            num_workers=self.workers,
            persistent_workers=persistent,
            pin_memory=self._pins_memory,
            # Without a generator, it would draw from the global one, which training uses.
            generator=make_generator(0),
            **options,
        )

    def check(self) -> None:
        """Reads the first and the last sample, to report unreadable data before training.

        Raises:
            LoadingError: naming data set, sample and cause.
            UserError: if there are no samples, they contain no tensors, or the sampler fails.
        """
        count = len(self.dataset)
        if count == 0:
            raise UserError(f"{self.dataset.title}: there are no samples")
        if self.dataset.saved_attributes and self.workers > 0:
            raise UserError(
                f"data.workers = {self.workers}: {type(self.dataset).__name__} has "
                "saved_attributes, whose changes would not reach workers; use data.workers=0"
            )
        try:
            first_sample: Any = self.dataset[0]
            _ = self.dataset[count - 1]
        except Exception as error:  # whatever the code of a data set may raise
            raise self.source.loading_error(error, torch.tensor([0, count - 1])) from error
        if not any(isinstance(leaf, Tensor) for _, leaf in named_leaves(first_sample)):
            name = type(self.dataset).__name__
            kind = type(first_sample).__name__
            raise UserError(
                f"{name}.__getitem__ returns no tensors ({kind}); return a dict, list, tuple or "
                'dataclass of tensors, such as {"input": ..., "target": ...}'
            )
        try:
            _ = self.dataset.example
        except Exception as error:  # whatever the code of a data set may raise
            raise self.source.loading_error(error, torch.tensor([0])) from error
        _ = self.steps_per_epoch  # calls the sampler

    def check_steps(self) -> None:
        """Raises a UserError if an epoch has no steps."""
        if self.steps_per_epoch == 0:
            raise UserError(
                f"data.drop_last = true leaves out all {self.sample_count} samples "
                f"of {self.dataset.title}, because data.batch_size = "
                f"{self.source.batch_size}; use a smaller batch size"
            )

    def sample_batch(self, count: int) -> Batch:
        """Up to `count` random samples, always the same ones, transformed as for evaluation.

        They are on the CPU.
        """
        return self.load_batch(self.sample_indices(count))

    def sample_indices(self, count: int) -> Tensor:
        """The indices of up to `count` random samples, always the same: int64, shape (N,)."""
        return random_positions(len(self.dataset), count)

    def load_batch(self, indices: Tensor) -> Batch:
        """The samples at `indices` (int64, shape (N,)), transformed as for evaluation.

        They are on the CPU.
        """
        batch = self.dataset.__getitems__(indices.to(self.dataset.device))
        return to_cpu(self.dataset.transform(batch, None))


@contextmanager
def _keeping_sigchld_handler() -> Iterator[None]:
    """Restores the handler of SIGCHLD, which torch replaces with the first worker."""
    if not _can_set_sigchld_handler():
        yield
        return
    previous = signal.getsignal(signal.SIGCHLD)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous)


def _use_default_sigchld_handler() -> None:
    """Keeps torch's handler from raising in the middle of a step when a worker dies.

    The error is raised when the next batch is needed.
    """
    if _can_set_sigchld_handler():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _can_set_sigchld_handler() -> bool:
    """Whether this is the main thread, and not Windows, which has no SIGCHLD."""
    is_main_thread = threading.current_thread() is threading.main_thread()
    return is_main_thread and hasattr(signal, "SIGCHLD")
