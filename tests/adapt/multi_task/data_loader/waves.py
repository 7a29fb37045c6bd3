"""Noisy waves of three shapes and random frequency, made in code."""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from utils.errors import UserError
from utils.randomness import make_generator

COUNTS = {"train": 4000, "validation": 500, "test": 1000}
LENGTH = 64
NOISE = 0.3


class Waves(BaseDataset):
    """Signals, float32, shape (1, 64), with two targets: the shape, and the frequency.

    The shape is a class, int64. The frequency, float32, is 2 to 8 periods of the signal.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no signals.
        seed: random seed of the signals.
    """

    title = "waves"
    classes = ("sine", "square", "sawtooth")
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        name = split or ""
        rng = make_generator(seed, *name.encode())
        count = COUNTS.get(name, 0)
        self.shapes = torch.randint(3, (count,), generator=rng)
        self.frequencies = 2 + 6 * torch.rand(count, generator=rng)
        start = torch.rand(count, 1, generator=rng)
        time = torch.arange(LENGTH) / LENGTH
        phase = (start + self.frequencies[:, None] * time) % 1
        sine = (math.tau * phase).sin()
        square = sine.sign()
        sawtooth = 2 * phase - 1
        waves = torch.stack([sine, square, sawtooth], dim=1)
        wave = waves[torch.arange(count), self.shapes]
        noise = NOISE * torch.randn(count, LENGTH, generator=rng)
        self.signals = (wave + noise).unsqueeze(1)

    def __len__(self) -> int:
        return len(self.signals)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> Batch:
        targets = {"shape": self.shapes[indices], "frequency": self.frequencies[indices]}
        return {"input": self.signals[indices], **targets}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads a text file with the 64 numbers of a signal; see the base class."""
        signal = np.loadtxt(source, dtype=np.float32)
        if signal.shape != (LENGTH,):
            raise UserError(f"{source}: {signal.size} numbers; a signal has {LENGTH}")
        return [(source, {"input": torch.from_numpy(signal).unsqueeze(0)})]
