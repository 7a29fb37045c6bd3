"""Everything random starts from the one seed in the settings."""

import hashlib
import math
import os
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seeds Python, NumPy and torch; `deterministic` allows only repeatable algorithms."""
    seed_all(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)


class BatchGenerator(Generator):
    """A generator for the samples of a batch, of which this process may have some only.

    What is drawn for a sample does not depend on the number of processes, where all draws are made
    by `uniform`.
    """

    samples = 0  # in the whole batch; 0 for those that are asked for
    rows = slice(None)  # those of them that are here
    place = torch.device("cpu")  # where they are; numbers are drawn on the CPU, alike for all


def uniform(generator: Generator, count: int, *shape: int) -> Tensor:
    """Numbers from 0 to 1 for the `count` samples of a batch, float32, shape (count, *shape)."""
    if not isinstance(generator, BatchGenerator):
        return torch.rand(count, *shape, generator=generator)
    whole = torch.rand(generator.samples or count, *shape, generator=generator)
    return whole[generator.rows].to(generator.place, non_blocking=True)


def generator(*key: int) -> BatchGenerator:
    """A generator that depends on nothing but `key`, such as (seed, purpose, step)."""
    draws = BatchGenerator()
    draws.manual_seed(_hash(key))
    return draws


def permute(numbers: Tensor, count: int, draws: Generator) -> Tensor:
    """Where a random permutation of 0, 1, ..., `count` - 1 takes `numbers`, of the same shape.

    A Feistel network over pairs of digits (Luby and Rackoff, 1988), whose six rounds `draws`
    choose, so that it needs no memory but for `numbers`, int64. Its pairs are a few more than
    `count`; what they are taken for beyond that is permute again (Black and Rogaway, 2002).
    """
    base = math.isqrt(count - 1) + 1
    keys = torch.randint(2**62, (6,), generator=draws).tolist()

    def permute(numbers: Tensor) -> Tensor:
        high, low = numbers // base, numbers % base
        for key in keys:
            mixed = (low + key) * 0x5851F42D4C957F2D  # one such multiplication is not enough
            mixed = (mixed ^ mixed >> 29) * 0x2545F4914F6CDD1D
            high, low = low, (high + (mixed >> 33)) % base
        return high * base + low

    numbers = permute(numbers)
    while (beyond := numbers >= count).any():
        numbers = torch.where(beyond, permute(numbers), numbers)
    return numbers


def seed_all(*key: int) -> None:
    """Puts the generators of Python, NumPy and torch into a state that `key` alone decides."""
    number = _hash(key)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes 80 times as long


def rng_state(device: torch.device) -> dict[str, Any]:
    """The states of the global generators: torch's, on the CPU and on `device`, and others'."""
    name, keys, *rest = np.random.get_state()
    numpy = (name, np.asarray(keys).tolist(), *rest)
    states = {"python": random.getstate(), "numpy": numpy, "cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state()
    return states


def set_rng_state(states: Mapping[str, Any], device: torch.device) -> None:
    """Takes over what `rng_state` gave; another kind of device keeps its own."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    torch.set_rng_state(states["cpu"])
    if device.type != "cpu" and device.type in states:
        torch.get_device_module(device).set_rng_state(states[device.type])


def seed_torch(*key: int, device: torch.device | None = None) -> None:
    """The same for torch alone, on the CPU and on `device`; it takes a quarter of the time."""
    number = _hash(key)
    torch.default_generator.manual_seed(number)
    if device is not None and device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def _hash(key: tuple[int, ...]) -> int:
    """64 bits that differ in half of their places between any two keys."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest())
