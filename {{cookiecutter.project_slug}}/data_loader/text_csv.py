"""A data set of sentences from a CSV file."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from base.base_dataset import Batch, Sample
from config.schema import Count
from data_loader.example_messages import EXAMPLES
from data_loader.table_dataset import TableDataset
from data_loader.tables import TABLE_SUFFIXES, Table, read_table
from data_loader.tokens import describe_tokens, tokenize
from data_loader.unicode_forms import find_file, normalize_name
from logger.console import log
from utils.errors import UserError

# Indices in the vocabulary of what is not a known token.
PADDING = 0
UNKNOWN = 1
MAX_PATH_CHARACTERS = 255  # a longer input is a sentence; as a path, it may raise an OSError
FILE_NAME = re.compile(r"\S+\.(txt|md|csv|tsv|gz|xlsx|parquet|feather)")


class TextCSV(TableDataset):
    """Sentences and their classes.

    A sample's input is the sentence's token indices, int64, shape (length,); its target is a
    class, int64. The vocabulary contains the tokens of the training sentences, the most frequent
    ones first. Index 0 is padding, index 1 is an unknown token.

    Args:
        root: folder of the data.
        split: train, validation, test, or None for no sentences.
        seed: random seed that selects the validation sentences.
        file: Table in that folder: CSV, Excel, Parquet or Feather. The example's file is created if
            it does not exist.
        text: Column of the sentences.
        target: Column of the classes.
        length: Maximum number of tokens in a sentence; later ones are cut off.
        words: Maximum number of tokens in the vocabulary.

    Raises:
        UserError: if the file or one of its columns cannot be used.
    """

    fitted = ("vocabulary",)
    vocabulary: list[str]
    input_suffixes = (".csv", ".md", ".tsv", ".txt")
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
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.title = Path(file).stem
        self.text = normalize_name(text)
        self.target = normalize_name(target)
        self.length = length
        self.words = words
        self.sentences: list[str] = []
        self.tokens = torch.empty(0, length, dtype=torch.int64)
        self.targets = torch.empty(0)
        if split is None:
            return
        rows = self.read_rows(root, file, (self.text, self.target), EXAMPLES)
        targets = self.read_classes(split)
        _check_texts(rows, self.text)
        self.select_rows(targets, split, seed)
        self.sentences = self.rows.cells(self.text).tolist()

    def fit(self) -> None:
        self.vocabulary = _build_vocabulary(self.sentences, self.words)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.tokens[index], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.tokens[indices], "target": self.targets[indices]}

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        """Cuts a training batch to its longest sentence; other batches keep data.length tokens."""
        if rng is None:
            return batch
        lengths = (batch["input"] != PADDING).sum(1)
        longest = max(int(lengths.amax()), 1)
        return {**batch, "input": batch["input"][:, :longest]}

    @property
    def lengths(self) -> Tensor:
        """The number of tokens of each sentence, int64, shape (N,), for data.sampler=bucketed."""
        return (self.tokens != PADDING).sum(1)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.tokens = self._encode(self.sentences)

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads a sentence, the column `text` of a table, or the lines of another text file.

        See the base class.
        """
        sentences = self._read_sentences(source)
        without_words = [name for name, text in sentences.items() if not tokenize(text)]
        if len(without_words) == len(sentences):
            raise UserError(f"{source!r} contains no words; give a sentence, or a file of them")
        if without_words:
            log.warning(
                "%s: %d inputs without words are left out, such as %r",
                source,
                len(without_words),
                without_words[0],
            )
            for name in without_words:
                del sentences[name]
        samples: list[tuple[str, Sample]] = []
        for name, tokens in zip(sentences, self._encode([*sentences.values()]), strict=True):
            samples.append((name, {"input": tokens}))
        return samples

    def sample_name(self, index: int) -> str:
        """The place of the row in its file, and the sentence."""
        return f"{super().sample_name(index)}: {self.sentences[index]}"

    def describe_input(self) -> dict[str, Any]:
        rules = describe_tokens()
        steps = [
            *rules["steps"],
            "keep the first `length` tokens",
            "replace each by its index in `vocabulary`, or by `unknown`",
            "append `padding` up to `length` indices",
        ]
        return {
            **rules,
            "kind": "text",
            "steps": steps,
            "length": self.length,
            "vocabulary": self.vocabulary,
            "unknown": UNKNOWN,
            "padding": PADDING,
            "dtype": "int64",
        }

    def table(self, batch: Batch) -> list[list[str]]:
        lines = [["input", "target"]]
        labels = batch["target"].tolist()
        for indices, label in zip(batch["input"].tolist(), labels, strict=True):
            tokens = [self.vocabulary[index] for index in indices if index != PADDING]
            lines.append([" ".join(tokens), self.classes[label]])
        return lines

    def _read_sentences(self, source: str) -> dict[str, str]:
        """Returns the sentences in a file, or the argument itself, by their names."""
        if len(source) <= MAX_PATH_CHARACTERS and find_file(Path(source)).is_file():
            if source.lower().endswith(TABLE_SUFFIXES):
                return self._read_table(source)
            return _read_lines(source)
        if FILE_NAME.fullmatch(source):
            raise UserError(f"{source}: file not found; give an existing file, or a sentence")
        return {source: source}

    def _read_table(self, source: str) -> dict[str, str]:
        """Reads the sentences of a table, each with a name that contains its place."""
        rows = read_table(Path(source), [self.text], self.table_format)
        sentences: dict[str, str] = {}
        for place, sentence in zip(rows.places(), rows.cells(self.text), strict=True):
            sentences[f"{source} {place}: {sentence}"] = sentence
        return sentences

    def _encode(self, sentences: Sequence[str]) -> Tensor:
        """Converts sentences to token indices, int64, shape (N, length)."""
        codes = {token: index for index, token in enumerate(self.vocabulary)}
        encoded = torch.full((len(sentences), self.length), PADDING)
        for row, sentence in zip(encoded, sentences, strict=True):
            tokens = tokenize(sentence)[: self.length]
            indices = [codes.get(token, UNKNOWN) for token in tokens]
            row[: len(indices)] = torch.tensor(indices, dtype=torch.int64)
        return encoded


def _build_vocabulary(sentences: Sequence[str], size: int) -> list[str]:
    """Returns the `size` most frequent tokens, after those for padding and unknown tokens."""
    counts: Counter[str] = Counter()
    for sentence in sentences:
        counts.update(tokenize(sentence))
    tokens = [token for token, _ in counts.most_common(size)]
    return ["", "<unknown>", *tokens]


def _check_texts(rows: Table, column: str) -> None:
    """Raises a UserError if a row has no text."""
    for position, text in enumerate(rows.cells(column)):
        if not tokenize(text):
            raise UserError(
                f"{rows.locate(position, column)}: no text is given; fill in the cell, or remove "
                "the row"
            )


def _read_lines(file: str) -> dict[str, str]:
    """Reads the lines of a text file, each with a name that contains its number.

    Blank lines are left out.

    Only a line feed, a carriage return or both end a line, as in an editor. `str.splitlines` also
    divides at other characters, such as U+2028.
    """
    try:
        text = find_file(Path(file)).read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read; save it as text in UTF-8 ({error})") from error
    lines: dict[str, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            lines[f"{file} line {number}: {line.strip()}"] = line
    return lines
