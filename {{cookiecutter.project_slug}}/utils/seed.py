"""Everything random starts from the one seed in the settings."""

import hashlib
import os
import random

import numpy as np
import torch


def seed_everything(seed: int, deterministic: bool = False) -> None:
    """Seeds Python, NumPy and torch; `deterministic` allows only repeatable algorithms."""
    seed_step(seed)
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
        torch.use_deterministic_algorithms(True)


def generator(*key: int) -> torch.Generator:
    """A generator that depends on nothing but `key`, such as (seed, purpose, step)."""
    return torch.Generator().manual_seed(_hash(key))


def seed_step(*key: int) -> None:
    """Puts the global generators of Python, NumPy and torch into a state that `key` alone decides.

    Done before each step, that leaves no state of theirs for a checkpoint to hold.
    """
    number = _hash(key)
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)  # torch.manual_seed takes 80 times as long


def seed_torch(*key: int, device: torch.device) -> None:
    """The same for torch alone, on the CPU and on `device`; it takes a quarter of the time."""
    number = _hash(key)
    torch.default_generator.manual_seed(number)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(number)


def _hash(key: tuple[int, ...]) -> int:
    """64 bits that differ in half of their places between any two keys."""
    return int.from_bytes(hashlib.blake2b(repr(key).encode(), digest_size=8).digest())
