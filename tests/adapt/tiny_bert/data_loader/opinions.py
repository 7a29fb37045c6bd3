"""Sentences with a bad and a good opinion, made in code; the class is that of the last one."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor
from torch.nn.utils.rnn import pad_sequence

from base.base_dataset import BaseDataset, Batch, Sample
from utils.errors import UserError
from utils.randomness import make_generator

COUNTS = {"train": 3000, "validation": 500, "test": 1000}
THINGS = ("room", "bed", "view", "breakfast", "staff", "lobby")
OPINIONS = (("dirty", "noisy", "rude", "awful"), ("clean", "quiet", "kind", "lovely"))
MAX_WORDS = 64  # in a sentence
PADDING = 0
UNKNOWN = 1


class Opinions(BaseDataset):
    """Token indices, int64, shape (L,), and classes. Batches have the keys of `transformers`.

    Args:
        root: not used, as nothing is read.
        split: train, validation, test, or None for no sentences.
        seed: random seed of the sentences.
    """

    title = "opinions"
    classes = ("bad", "good")
    fitted = ("vocabulary",)
    vocabulary: list[str]
    in_memory = True
    uses_global_rng = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        name = split or ""
        rng = make_generator(seed, *name.encode())  # other sentences in each split
        self.targets = torch.randint(2, (COUNTS.get(name, 0),), generator=rng)
        self.sentences: list[str] = []
        for target in self.targets.tolist():
            self.sentences.append(make_sentence(target, rng))

    def fit(self) -> None:
        words = set(" ".join(self.sentences).split())
        self.vocabulary = ["<padding>", "<unknown>", *sorted(words)]

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> Sample:
        return {"input_ids": self.encode(self.sentences[index]), "labels": self.targets[index]}

    def encode(self, sentence: str) -> Tensor:
        """Token indices of a sentence, int64, shape (L,)."""
        codes = {word: index for index, word in enumerate(self.vocabulary)}
        indices = []
        for word in sentence.split():
            indices.append(codes.get(word, UNKNOWN))
        return torch.tensor(indices)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Pads sentences to the longest one; ``attention_mask`` is 0 for padding."""
        rows = [sample["input_ids"] for sample in samples]
        input_ids = pad_sequence(rows, batch_first=True, padding_value=PADDING)
        batch = {"input_ids": input_ids, "attention_mask": (input_ids != PADDING).long()}
        if "labels" in samples[0]:
            batch["labels"] = torch.stack([sample["labels"] for sample in samples])
        return batch

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads a sentence."""
        if not 1 <= len(source.split()) <= MAX_WORDS:
            raise UserError(f"{source!r}: give a sentence of 1 to {MAX_WORDS} words")
        return [(source, {"input_ids": self.encode(source)})]


def make_sentence(target: int, rng: Generator) -> str:
    """An opinion of the other class, then one of the class `target`."""
    opinions = []
    for kind in (1 - target, target):
        thing = choose(THINGS, rng)
        opinions.append(f"the {thing} was {choose(OPINIONS[kind], rng)}")
    conjunction = choose(("and", "but", "and also", "although I think that"), rng)
    return f" {conjunction} ".join(opinions)


def choose(words: Sequence[str], rng: Generator) -> str:
    """A random word."""
    return words[int(torch.randint(len(words), (), generator=rng))]
