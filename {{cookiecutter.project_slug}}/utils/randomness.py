"""Random numbers: everything random in a run is a function of the seed in its settings."""

import hashlib
import math
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from utils.ranks import rank


class RandomStream(IntEnum):
    """Purposes of random numbers: one seed gives different numbers for each."""

    SPLIT = 0  # which samples are for validation
    SHUFFLING = 1  # the order of the samples in an epoch
    LOADING = 2  # augmentation, and whatever a data set draws
    UPDATE = 3  # dropout, and whatever a training step draws


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seeds Python, NumPy and torch.

    Args:
        seed: the random seed of the run.
        deterministic: whether to allow deterministic algorithms only.
    """
    seed_global_generators(seed)
    if deterministic:
        if not os.environ.get("CUBLAS_WORKSPACE_CONFIG"):
            os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS requires it
        torch.use_deterministic_algorithms(True)


def seed_global_generators(*key: int) -> None:
    """Seeds the global generators of Python, NumPy and torch (CPU) with a key."""
    seed = seed_from(key)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    # torch.manual_seed also prepares to seed every kind of accelerator: 80 times the time.
    torch.default_generator.manual_seed(seed)


def seed_torch(*key: int, device: torch.device) -> None:
    """Seeds torch's global generators on the CPU and on `device` with a key."""
    seed = seed_from(key)
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def seed_from(key: Sequence[int]) -> int:
    """A seed of 64 bits; any two keys give seeds that differ in about half of their bits."""
    plain_key = tuple(int(number) for number in key)
    digest = hashlib.blake2b(repr(plain_key).encode(), digest_size=8).digest()
    return int.from_bytes(digest)


class BatchGenerator(Generator):
    """A generator for the augmentation of a batch of which this process has some of the samples.

    Numbers that `uniform` draws for a sample do not depend on the number of processes.

    Attributes:
        batch_size: samples of the whole batch in all processes; 0 if this process has all of them.
        rows: positions of this process's samples in the batch.
        output_device: where `uniform` puts the numbers, which it draws on the CPU.
    """

    batch_size = 0
    rows = slice(None)
    output_device = torch.device("cpu")

    def select(self, rows: slice, batch_size: int, output_device: torch.device) -> None:
        """Draws for the samples at `rows` of a batch from now on."""
        self.rows = rows
        self.batch_size = batch_size
        self.output_device = output_device


def make_generator(*key: int) -> BatchGenerator:
    """A generator whose numbers depend on `key` alone, such as (seed, stream, step)."""
    rng = BatchGenerator()
    rng.manual_seed(seed_from(key))
    return rng


def uniform(rng: Generator, count: int, *shape: int) -> Tensor:
    """Random numbers in [0, 1) for `count` samples, float32, shape (count, *shape)."""
    if not isinstance(rng, BatchGenerator):
        return torch.rand(count, *shape, generator=rng)
    numbers = torch.rand(rng.batch_size or count, *shape, generator=rng)
    return numbers[rng.rows].to(rng.output_device, non_blocking=True)


def draw_with_replacement(weights: Tensor, count: int, rng: Generator) -> Tensor:
    """Draws samples with replacement, from any number of weights.

    torch.multinomial is limited to 2^24 weights.

    Args:
        weights: finite and not negative, one of them positive; float64, shape (N,).
        count: number of samples to draw.
        rng: the generator to draw from.

    Returns:
        Indices of weights, int64, shape (count,).
    """
    cumulative = (weights / weights.max()).cumsum(0)  # the sum of huge weights would be infinite
    points = torch.rand(count, dtype=torch.float64, generator=rng) * cumulative[-1]
    # Points in ascending order are found in the cache: 1.3 instead of 3.1 s for 4 million samples.
    points, positions = points.sort()
    indices = torch.empty_like(positions)
    indices[positions] = torch.searchsorted(cumulative, points, right=True)  # no weights of 0
    return indices


def random_positions(total: int, count: int) -> Tensor:
    """Up to `count` random numbers less than `total`, each once and always the same ones.

    Returns:
        int64, shape (N,).
    """
    return permute(torch.arange(min(count, total)), total, make_generator(0))


def permute(positions: Tensor, count: int, rng: Generator) -> Tensor:
    """The elements at `positions` of a random permutation of 0, 1, ..., `count` - 1.

    torch.randperm and NumPy hold a whole permutation in memory (800 MB for 10^8 samples). This
    Feistel network (Luby and Rackoff, 1988) computes any part of one. Six rounds with random keys
    mix the two digits of a number in base ceil(sqrt(count)). Results of `count` or more are
    permuted again ("cycle walking": Black and Rogaway, 2002).

    Args:
        positions: int64, any shape, each less than `count`.
        count: length of the permutation.
        rng: chooses the permutation.

    Returns:
        int64, the shape of `positions`.
    """
    base = math.isqrt(count - 1) + 1
    round_keys = torch.randint(2**62, (6,), generator=rng).tolist()
    elements = _feistel(positions, base, round_keys)
    outside = elements >= count
    while outside.any():
        elements = torch.where(outside, _feistel(elements, base, round_keys), elements)
        outside = elements >= count
    return elements


def _feistel(numbers: Tensor, base: int, round_keys: Sequence[int]) -> Tensor:
    """A permutation of 0, 1, ..., base² - 1."""
    high = numbers // base
    low = numbers % base
    for key in round_keys:
        # Two multiplications by odd constants: after a single one, the digits stay correlated.
        mixed = (low + key) * 0x5851F42D4C957F2D
        mixed = (mixed ^ (mixed >> 29)) * 0x2545F4914F6CDD1D
        next_low = (high + (mixed >> 33)) % base
        high = low
        low = next_low
    return high * base + low


class GlobalRandomState:
    """The state of the global generators; it differs between the processes of a run.

    Args:
        device: the device that this process trains on, whose generator is included.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def state_dict(self) -> dict[str, Any]:
        """The states of Python's, NumPy's and torch's generators, as plain data."""
        name, keys, *others = np.random.get_state()
        states: dict[str, Any] = {
            "python": random.getstate(),
            "numpy": (name, np.asarray(keys).tolist(), *others),
            "cpu": torch.get_rng_state(),
        }
        if self.device.type != "cpu":
            states[self.device.type] = torch.get_device_module(self.device).get_rng_state()
        return states

    def load_state_dict(self, states: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned; other kinds of devices keep their state."""
        random.setstate(states["python"])
        np.random.set_state(states["numpy"])
        torch.set_rng_state(states["cpu"])
        if self.device.type != "cpu" and self.device.type in states:
            torch.get_device_module(self.device).set_rng_state(states[self.device.type])

    def load_rank_states(self, rank_states: Sequence[Mapping[str, Any]]) -> None:
        """Restores the state of this rank; a rank that did not exist then keeps its own state.

        Args:
            rank_states: what `state_dict` returned in each process of the saved run.
        """
        if rank() < len(rank_states):
            self.load_state_dict(rank_states[rank()])


@contextmanager
def preserve_global_rng(device: torch.device | None = None) -> Iterator[None]:
    """Within this context, random numbers may be drawn; afterwards the generators are as before.

    Args:
        device: a device whose generator is included, besides those on the CPU.
    """
    generators = GlobalRandomState(device or torch.device("cpu"))
    state = generators.state_dict()
    try:
        yield
    finally:
        generators.load_state_dict(state)
