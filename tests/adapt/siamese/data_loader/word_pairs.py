"""Pairs of invented words: the same word with a typing error, or another word."""

import random
from pathlib import Path
from string import ascii_lowercase

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from utils.errors import UserError

COUNTS = {"train": 20_000, "validation": 500, "test": 1000}
CONSONANTS = "bdfgklmnprst"
VOWELS = "aeiou"
SYLLABLES = 4
LENGTH = 2 * SYLLABLES + 1  # an error can add a letter


class WordPairs(BaseDataset):
    """Two words, int64, shape (9,), padded with 0, and whether they are the same, float32.

    Of another word, two syllables are exchanged, so that it has the same letters.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no pairs.
        seed: random seed of the pairs.
    """

    title = "pairs of words"
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        rng = random.Random(f"{seed} {split}")
        count = COUNTS.get(split or "", 0)
        self.left = torch.zeros(count, LENGTH, dtype=torch.int64)
        self.right = torch.zeros(count, LENGTH, dtype=torch.int64)
        self.same = torch.arange(count) % 2 == 0
        for index in range(count):
            syllables = [rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in range(SYLLABLES)]
            self.left[index] = encode("".join(syllables))
            if not self.same[index]:
                i, j = rng.sample(range(SYLLABLES), 2)
                syllables[i], syllables[j] = syllables[j], syllables[i]
            self.right[index] = encode(mistype("".join(syllables), rng))

    def __len__(self) -> int:
        return len(self.same)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor(index))

    def __getitems__(self, indices: Tensor) -> Batch:
        pair = {"left": self.left[indices], "right": self.right[indices]}
        return {"pair": pair, "same": self.same[indices].float()}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads two words with a comma between them; see the base class."""
        words = source.split(",")
        if len(words) != 2:
            raise UserError(f"{source}: not two words; write them as in banana,bannana")
        left, right = words
        return [(source, {"pair": {"left": encode(left), "right": encode(right)}})]


def mistype(word: str, rng: random.Random) -> str:
    """The word with a letter dropped, doubled or replaced."""
    place = rng.randrange(len(word))
    letter = rng.choice(["", 2 * word[place], rng.choice(ascii_lowercase)])
    return word[:place] + letter + word[place + 1 :]


def encode(word: str) -> Tensor:
    """The letters as numbers from 1, int64, shape (9,), padded with 0."""
    if len(word) > LENGTH or not set(word) <= set(ascii_lowercase):
        raise UserError(f"{word!r}: use up to {LENGTH} letters from a to z")
    letters = torch.zeros(LENGTH, dtype=torch.int64)
    for place, letter in enumerate(word):
        letters[place] = 1 + ascii_lowercase.index(letter)
    return letters
