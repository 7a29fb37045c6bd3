"""Sequences of digits of many lengths; in half of them a 3 comes right before a 5."""

from pathlib import Path

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from utils.randomness import make_generator

COUNTS = {"train": 4000, "validation": 500, "test": 1000}
SHORTEST = 4
LONGEST = 15


class Pairs(BaseDataset):
    """Digits from 1 to 9, int64, shape (L,), and whether a 3 comes right before a 5.

    A batch is padded with 0 to the length of its longest sequence.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no sequences.
        seed: what the sequences are drawn from.
    """

    title = "pairs of digits"
    classes = ("without", "with a pair")
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        rng = make_generator(seed, *str(split).encode())  # another one for each split
        count = COUNTS.get(split or "", 0)
        digits = torch.randint(1, 10, (count, LONGEST), generator=rng)
        self.lengths = torch.randint(SHORTEST, LONGEST + 1, (count,), generator=rng)
        first = (torch.rand(count, generator=rng) * (self.lengths - 1)).long()
        planted = (torch.rand(count, generator=rng) < 0.5).nonzero().squeeze(1)
        digits[planted, first[planted]] = 3
        digits[planted, first[planted] + 1] = 5
        self.digits = digits * (torch.arange(LONGEST) < self.lengths[:, None])
        pairs = (self.digits[:, :-1] == 3) & (self.digits[:, 1:] == 5)
        self.targets = pairs.any(1).long()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.digits[index, : self.lengths[index]], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        longest = int(self.lengths[indices].max())
        return {"input": self.digits[indices, :longest], "target": self.targets[indices]}
