"""Sentences of a small grammar, as one text."""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, Sample

SENTENCES = {"train": 6000, "validation": 600, "test": 1200}
LENGTH = 32  # words that are predicted in a sample

# What a symbol is replaced by; all alternatives are equally probable. A verb agrees with its
# subject, which can be several words away.
GRAMMAR = {
    "SENTENCE": ["SINGULAR SINGULAR_VERB OBJECT .", "PLURAL PLURAL_VERB OBJECT ."],
    "SINGULAR": ["SINGULAR_NOUN", "SINGULAR_NOUN PLACE", "SINGULAR_NOUN PLACE PLACE"],
    "PLURAL": ["PLURAL_NOUN", "PLURAL_NOUN PLACE", "PLURAL_NOUN PLACE PLACE"],
    "PLACE": ["near OBJECT", "behind OBJECT"],
    "OBJECT": ["SINGULAR_NOUN", "PLURAL_NOUN"],
    "SINGULAR_NOUN": ["the cat", "the dog"],
    "PLURAL_NOUN": ["the cats", "the dogs"],
    "SINGULAR_VERB": ["sees", "hears"],
    "PLURAL_VERB": ["see", "hear"],
}


class Sentences(BaseDataset):
    """Words of a text, int64, shape (33,): each but the first is to be predicted.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no text.
        seed: random seed of the text.
    """

    title = "sentences"
    fitted = ("vocabulary",)
    vocabulary: list[str]
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        self.words: list[str] = []
        rng = random.Random(f"{seed} {split}")
        for _ in range(SENTENCES.get(split or "", 0)):
            self.words += expand("SENTENCE", rng)

    def fit(self) -> None:
        self.vocabulary = sorted(set(self.words))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.tokens = self.encode(self.words)

    def __len__(self) -> int:
        return max(len(self.words) - 1, 0) // LENGTH

    def __getitem__(self, index: int) -> Sample:
        start = index * LENGTH
        return {"tokens": self.tokens[start : start + LENGTH + 1]}

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads the beginning of a text; see the base class."""
        return [(source, {"tokens": self.encode(source.split())})]

    def encode(self, words: Sequence[str]) -> Tensor:
        """Converts words to their indices in the vocabulary, int64, shape (N,).

        Raises:
            ValueError: if a word is not in the vocabulary.
        """
        indices = [self.vocabulary.index(word) for word in words]
        return torch.tensor(indices, dtype=torch.int64)

    def decode(self, tokens: Tensor) -> str:
        """Converts indices in the vocabulary, shape (N,), to a text."""
        return " ".join(self.vocabulary[index] for index in tokens.tolist())


def expand(symbol: str, rng: random.Random) -> list[str]:
    """The words that a symbol of the grammar is replaced by; a word remains."""
    if symbol not in GRAMMAR:
        return [symbol]
    words = []
    for part in rng.choice(GRAMMAR[symbol]).split():
        words += expand(part, rng)
    return words
