"""Sentences and their classes from a CSV file."""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from config.schema import Count
from data_loader.tables import class_indices, divide, hash_of, read_data, write_rows
from utils.errors import UserError
from utils.randomness import make_generator

MESSAGES = 3000  # in the example
PADDING, UNKNOWN = 0, 1  # numbers of no word
FILE = re.compile(r"\S+\.(txt|csv|tsv|md)")  # what is meant to be one
WORD = re.compile(r"\w+|[^\w\s]")  # a word, a number or a sign


class TextCSV(BaseDataset):
    """Sentences as numbers of their words, int64, shape (length,), and a class, int64.

    The words are those of the training sentences, in small letters, the most frequent ones first;
    0 stands behind the end of a sentence, 1 for a word that is not among them.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no sentences.
        seed: what the choice of the validation sentences is drawn from.
        file: CSV file in that folder; the example's is made if it is not there.
        text: Its column of sentences.
        target: Its column of classes.
        length: Words of a sentence that are read, from its beginning.
        words: Words that are known at most.

    Raises:
        UserError: if there is no such file, or it has no such columns.
    """

    fitted = ("vocabulary",)
    vocabulary: list[str]
    in_memory = True
    uses_global_rng = False

    def __init__(
        self,
        root: Path,
        split: str | None,
        seed: int,
        file: str = "text/messages.csv",
        text: str = "text",
        target: str = "class",
        length: Count = 32,
        words: Count = 10_000,
    ) -> None:
        self.title, self.length = Path(file).stem, length
        self.sentences, self.targets = list[str](), torch.empty(0)
        self.numbers = torch.empty(0, length, dtype=torch.int64)
        if split is None:
            return
        rows = read_data(root / file, (text, target), EXAMPLES.get(file))
        self.source = hash_of(root / file)
        self.classes, targets = class_indices(rows, target)
        chosen = divide(targets, split, seed, self.classes)
        for number, row in enumerate(rows, 1):
            if not row[text]:
                raise UserError(f"column {text!r}, row {number} below the header: no text is given")
        self.targets, self.sentences = targets[chosen], [rows[k][text] for k in chosen.tolist()]
        if split == "train":  # other splits are given what is learned here
            counts = Counter(word for sentence in self.sentences for word in words_of(sentence))
            self.vocabulary = ["", "<unknown>", *(word for word, _ in counts.most_common(words))]
            self.numbers = self._encode(self.sentences)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.numbers[index], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.numbers[indices], "target": self.targets[indices]}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        """In training, a batch is as long as the longest of its sentences; else data.length."""
        if generator is None:
            return batch
        longest = int((batch["input"] != PADDING).sum(1).amax())
        return {**batch, "input": batch["input"][:, : max(longest, 1)]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.numbers = self._encode(self.sentences)

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Of a sentence, or of a file with one in each line."""
        sentences = [source]
        if len(source) < 256 and Path(source).is_file():
            try:
                lines = Path(source).read_text("utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{source}: cannot be read as text in UTF-8; {error}") from error
            sentences = [line for line in lines if line.strip()]
        elif FILE.fullmatch(source):
            raise UserError(f"{source}: there is no such file")
        if not any(words_of(sentence) for sentence in sentences):
            raise UserError(f"{source!r}: there are no words in it")
        numbers = self._encode(sentences)
        return [(s, {"input": row}) for s, row in zip(sentences, numbers, strict=True)]

    def table(self, batch: Batch) -> list[list[str]]:
        rows = zip(batch["input"].tolist(), batch["target"].tolist(), strict=True)
        texts = ((" ".join(self.vocabulary[k] for k in words if k), k) for words, k in rows)
        return [["input", "target"], *([text, self.classes[k]] for text, k in texts)]

    def _encode(self, sentences: Sequence[str]) -> Tensor:
        """What the model gets for sentences: int64, shape (N, length)."""
        places = {word: k for k, word in enumerate(self.vocabulary)}
        numbers = torch.full((len(sentences), self.length), PADDING)
        for row, sentence in zip(numbers, sentences, strict=True):
            words = [places.get(word, UNKNOWN) for word in words_of(sentence)[: self.length]]
            row[: len(words)] = torch.tensor(words, dtype=torch.int64)
        return numbers


def words_of(sentence: str) -> list[str]:
    """Its words and signs, in small letters."""
    return WORD.findall(sentence.lower())


def make_messages(file: Path) -> None:
    """What guests of a hotel write; which is praise depends on the order of the words, too."""
    draws = make_generator(4)
    things = ["room", "breakfast", "view", "bed", "shower", "lobby", "staff", "price"]
    good = ["wonderful", "clean", "kind", "lovely", "perfect", "quiet"]
    bad = ["dirty", "noisy", "rude", "broken", "awful", "cold"]
    asked = ["When does the {a} open?", "How much is the {a}?", "Is the {a} near the {b}?"]
    asked += ["Could you tell me about the {a} and the {b}?"]
    told = ["The {a} was {x}, and the {b} was {y}.", "A {x} {a}!"]
    told += ["Not {z} at all: the {a} was {x}.", "I found the {a} {x}, but never {z}."]
    told += ["The {a} is {x}; nothing about it is {z}."]
    rows: list[Sequence[str]] = [("text", "class")]
    for _ in range(MESSAGES):
        kind, pattern, a, b, x, y, z = torch.randint(840, (7,), generator=draws).tolist()
        label = ("complaint", "praise", "question")[kind % 3]
        own, other = (good, bad) if label == "praise" else (bad, good)
        patterns = asked if label == "question" else told
        words = {"a": things[a % 8], "b": things[b % 8]}
        words |= {"x": own[x % 6], "y": own[y % 6], "z": other[z % 6]}
        rows.append((patterns[pattern % len(patterns)].format(**words), label))
    write_rows(file, rows)


EXAMPLES = {"text/messages.csv": make_messages}
