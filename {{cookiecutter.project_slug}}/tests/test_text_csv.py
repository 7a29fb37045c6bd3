"""Sentences: tokens, vocabulary, padding, and what a model learns from them."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from exported import read_about, run_outside
from torch import Tensor
from torch.nn import functional

from base.base_dataset import BaseDataset, Batch
from base.batch_loader import BatchLoader
from builders import build_fitted_dataset, build_loader
from config.loading import load_settings
from data_loader.example_messages import make_messages
from data_loader.tables import write_rows
from data_loader.tokens import tokenize
from model.text import TextNet
from utils.errors import UserError

Command = Callable[..., int]
CONFIG = ROOT / "config/text_csv.yaml"
QUICK = ("device=cpu", "logger.tensorboard=false")


@pytest.fixture
def greetings(tmp_path: Path) -> Callable[..., BaseDataset]:
    """``greetings("train", "data.length=3")``: a split of a file with other columns."""
    rows = [("Hello, world!", "in"), ("hello you", "in"), ("Bye", "out"), ("bye bye now", "out")]
    write_rows(tmp_path / "mine.csv", [("said", "way"), *(20 * rows)])
    own = [f"data.root={tmp_path}", "data.file=mine.csv", "data.text=said", "data.target=way"]
    return lambda split, *more: build_fitted_dataset(load_settings(CONFIG, [*own, *more]), split)


def test_words_and_punctuation_of_any_language_are_separate_tokens() -> None:
    tokens = tokenize("Don't: 3,5 Äpfel — 猫!")
    assert tokens == ["don", "'", "t", ":", "3", ",", "5", "äpfel", "—", "猫", "!"]


def test_the_vocabulary_is_sorted_by_frequency_in_the_training_sentences(
    greetings: Callable[..., BaseDataset],
) -> None:
    train = greetings("train")
    vocabulary = train.state_dict()["vocabulary"]
    assert vocabulary[:3] == ["", "<unknown>", "bye"]
    assert {"hello", "world", "!", ",", "you", "now"} == {*vocabulary[3:]}
    assert len(greetings("train", "data.words=2").state_dict()["vocabulary"]) == 4
    validation = greetings("validation")
    validation.load_state_dict(train.state_dict())
    ((_, sample),) = validation.read_inputs("BYE strange world")
    known = [vocabulary.index("bye"), 1, vocabulary.index("world")]
    assert sample["input"].tolist() == [*known, *[0] * 29]


def test_bucketed_batches_of_sentences_have_less_padding(tmp_path: Path) -> None:
    root = f"data.root={tmp_path}"
    dataset: Any = build_fitted_dataset(load_settings(CONFIG, [root]), "train")
    assert dataset.lengths.tolist() == [int((row != 0).sum()) for row in dataset.tokens]
    tokens = int(dataset.lengths.sum())
    padding = {}
    for sampler in ("shuffled", "bucketed"):
        settings = load_settings(CONFIG, [root, f"data.sampler={sampler}", "data.batch_size=16"])
        loader = build_loader(settings, dataset, training=True)
        padding[sampler] = -tokens
        for step in loader.steps(0, loader.steps_per_epoch):
            padding[sampler] += step.batches[0]["input"].numel()
    assert padding["bucketed"] < 0.3 * padding["shuffled"]


def test_a_cell_may_be_a_long_document(tmp_path: Path) -> None:
    document = "word " * 60_000
    write_rows(
        tmp_path / "mine.csv", [("text", "class"), *(10 * [(document, "a"), (document, "b")])]
    )
    settings = load_settings(CONFIG, [f"data.root={tmp_path}", "data.file=mine.csv"])
    assert build_fitted_dataset(settings, "train").state_dict()["vocabulary"][2:] == ["word"]


def test_a_row_without_text_is_refused_with_column_and_row(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "mine.csv", [("text", "class"), *(10 * [("x", "a"), ("y", "b")]), (" ", "b")]
    )
    settings = load_settings(CONFIG, [f"data.root={tmp_path}", "data.file=mine.csv"])
    with pytest.raises(UserError) as error:
        build_fitted_dataset(settings, "train")
    for part in ("mine.csv, line 22,", "'text'", "no text"):
        assert part in str(error.value)
    assert error.value.exit_code == 2


def test_long_sentences_are_cut_and_short_ones_padded(
    greetings: Callable[..., BaseDataset],
) -> None:
    dataset = greetings("train", "data.length=3")
    batch = dataset.__getitems__(torch.arange(len(dataset)))
    assert batch["input"].shape == (len(dataset), 3)
    rows = dataset.table(batch)
    assert rows[0] == ["input", "target"]
    assert {tuple(row) for row in rows[1:]} == {
        ("hello , world", "in"),
        ("hello you", "in"),
        ("bye", "out"),
        ("bye bye now", "out"),
    }


def first_batches(loader: BatchLoader, step: int) -> list[Batch]:
    """The batches of one step."""
    return next(loader.steps(step, step + 1)).batches


def test_training_batches_are_padded_to_their_longest_sentence(
    greetings: Callable[..., BaseDataset],
) -> None:
    dataset = greetings("train", "data.length=30")
    for step in range(5):
        (batch,) = first_batches(BatchLoader(dataset, 3, seed=0), step)
        lengths = (batch["input"] != 0).sum(1)
        longest = int(lengths.amax())
        assert batch["input"].shape == (3, longest)
        is_token = torch.arange(longest) < lengths[:, None]
        assert torch.equal(batch["input"], batch["input"] * is_token)
    (batch,) = first_batches(BatchLoader(dataset, 3), 0)
    assert batch["input"].shape == (3, 30)


def naive_bayes(train: BaseDataset, test: BaseDataset) -> float:
    """The accuracy of naive Bayes, which ignores the order of words; docs/tables.md quotes it."""
    seen = train.__getitems__(torch.arange(len(train)))
    asked = test.__getitems__(torch.arange(len(test)))
    classes = functional.one_hot(seen["target"]).double()
    occurs = words_in(seen["input"])
    probability = (classes.T @ occurs + 1) / (classes.sum(0)[:, None] + 2)
    occurs = words_in(asked["input"])
    scores = occurs @ probability.log().T + (1 - occurs) @ (1 - probability).log().T
    scores += classes.mean(0).log()
    return (scores.argmax(1) == asked["target"]).double().mean().item()


def words_in(sentences: Tensor) -> Tensor:
    """Which words occur in each sentence, as 1 or 0, float64, shape (N, vocabulary)."""
    counts = torch.stack([tokens.bincount(minlength=2000) for tokens in sentences])
    return (counts[:, 1:] > 0).double()


def test_padding_does_not_change_the_outputs(greetings: Callable[..., BaseDataset]) -> None:
    torch.manual_seed(0)
    model = TextNet(greetings("train")).eval()  # type: ignore[arg-type]
    model.load_state_dict({**model.state_dict(), "groups.bias": torch.randn(64)})
    words = torch.randint(2, 8, (4, 5))
    padded = torch.cat([words, torch.zeros(4, 9, dtype=torch.int64)], dim=1)
    assert torch.allclose(model(words), model(padded), atol=1e-6)
    assert model(torch.zeros(2, 5, dtype=torch.int64)).isfinite().all()


def test_the_example_data_are_reproducible(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        make_messages(tmp_path / name)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_sentences_are_classified_from_arguments_and_from_lines_of_a_file(
    tmp_path: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes = (f"data.root={tmp_path}", "trainer.epochs=3", *QUICK)
    assert command("train", "--config", CONFIG, "--run-dir", "run", *changes) == 0
    assert command("evaluate", "run") == 0
    accuracy = json.loads(Path("run/evaluation/test/metrics.json").read_text())["accuracy"]
    train = build_fitted_dataset(load_settings(CONFIG, changes), "train")
    test = build_fitted_dataset(load_settings(CONFIG, changes), "test")
    test.load_state_dict(train.state_dict())
    assert accuracy > 0.97
    assert 0.6 < naive_bayes(train, test) < accuracy - 0.1
    table = [("id", "text"), (1, "The view was awful,\nreally awful."), (2, "A kind lobby!")]
    write_rows(tmp_path / "new.csv", table)
    capsys.readouterr()
    assert command("predict", "run", tmp_path / "new.csv", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    for entry, line, (_, text) in zip(entries, (2, 4), table[1:], strict=True):
        assert entry["input"].endswith(f"new.csv line {line}: {text}")
    assert [entry["predictions"][0]["class"] for entry in entries] == ["complaint", "praise"]
    Path("lines.txt").write_text("How much is the bed?\n\nThe staff was rude.\n", encoding="utf-8")
    Path("bytes.bin").write_bytes(b"\xff\xfe\xfa")
    capsys.readouterr()
    arguments = ("lines.txt", "The room was clean, and the staff was kind.")
    assert command("predict", "run", *arguments, "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    assert [entry["predictions"][0]["class"] for entry in entries] == [
        "question",
        "complaint",
        "praise",
    ]
    assert command("predict", "run", " ", "bytes.bin", "gone.txt", "A kind lobby!") == 2
    printed = capsys.readouterr()
    for part in ("error: gone.txt: file not found", "error: ' ' contains no words"):
        assert part in printed.err
    for part in ("error: bytes.bin: cannot be read", "UTF-8"):
        assert part in printed.err
    assert len(printed.out.splitlines()) == 3
    Path("gaps.txt").write_text(
        "A kind lobby!\n\n\u200b\n\ufeff\nA clean room.\n", encoding="utf-8"
    )
    assert command("predict", "run", "gaps.txt", "--json") == 0
    assert len(json.loads(capsys.readouterr().out)["inputs"]) == 2
    assert "gaps.txt: 2 inputs without words" in caplog.text
    assert command("predict", "run", "A \x1b[31mred room") == 0
    assert r"A \x1b[31mred room" in capsys.readouterr().out


def test_exported_models_take_token_indices(tmp_path: Path, command: Command) -> None:
    changes = (f"data.root={tmp_path}", "trainer.max_steps=3", *QUICK)
    assert command("train", "--config", CONFIG, "--run-dir", "run", *changes) == 0
    state = torch.load("run/checkpoints/last.pt", weights_only=True)
    assert state["example"].dtype == torch.int64
    assert state["example"].any()
    for file_format in ("pt2", "onnx"):
        assert command("export", "run", "--format", file_format) == 0
    program = torch.export.load("run/export/model.pt2").module()
    for length in (3, 32, 50):
        assert program(torch.randint(9, (3, length))).shape == (3, 3)


def outside_tokens(sentence: str, rules: Any) -> list[str]:
    """The tokens of a sentence, made by what about.json says."""
    text = unicodedata.normalize("NFC", sentence)
    for character, replacement in rules["replaced"].items():
        text = text.replace(character, replacement)
    text = unicodedata.normalize(rules["normalization"], text).casefold()
    for pattern in rules["removed"]:
        text = re.sub(pattern, "", text)
    text = unicodedata.normalize(rules["normalization"], text)
    return re.findall(rules["token"], text)


def test_a_program_without_the_project_prepares_a_sentence(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = (f"data.root={tmp_path}", "data.length=6", "trainer.max_steps=3", *QUICK)
    assert command("train", "--config", CONFIG, "--run-dir", "run", *changes) == 0
    assert command("export", "run") == 0
    about = read_about(Path("run"))
    rules = about["preparation"]
    sentences = ["Is the BED near?", "The view was awful, really awful, and unheard-of: zzz!"]
    sentences.append("“ＷＡＳ” the sta\u00adff ru\u200dde?")
    array = np.full((3, rules["length"]), rules["padding"], rules["dtype"])
    for row, sentence in zip(array, sentences, strict=True):
        tokens = outside_tokens(sentence, rules)[: rules["length"]]
        for position, token in enumerate(tokens):
            row[position] = rules["unknown"]
            if token in rules["vocabulary"]:
                row[position] = rules["vocabulary"].index(token)
    logits = run_outside(Path("run/export/model.pt2"), array, tmp_path / "outside")
    capsys.readouterr()
    assert command("predict", "run", *sentences, "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    for entry, probabilities in zip(entries, logits.softmax(1), strict=True):
        for answer in entry["predictions"]:
            index = about["data"]["classes"].index(answer["class"])
            assert probabilities[index].item() == pytest.approx(answer["probability"], abs=2e-3)
