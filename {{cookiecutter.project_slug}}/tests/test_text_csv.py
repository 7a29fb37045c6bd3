"""Sentences: how they become numbers, what padding means, and what is learned."""
# ruff: noqa: D103  the names of the tests say what they test

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT

from base.base_dataset import BaseDataset
from base.batch_loader import BatchLoader
from builders import build_dataset
from config.loading import load_settings
from data_loader.tables import write_rows
from data_loader.text_csv import make_messages, words_of
from model.text import TextNet
from utils.errors import UserError

Command = Callable[..., int]
CONFIG = ROOT / "config/text_csv.yaml"
QUICK = ("device=cpu", "logger.tensorboard=false")


@pytest.fixture
def greetings(tmp_path: Path) -> Callable[..., BaseDataset]:
    """``greetings("train", "data.length=3")``: sentences of one's own, under other names."""
    texts = ["Hello, world!", "hello you", "Bye", "bye bye now"]
    rows = [(texts[k % 4], ["in", "out"][k % 4 // 2]) for k in range(80)]
    write_rows(tmp_path / "mine.csv", [("said", "way"), *rows])
    own = [f"data.root={tmp_path}", "data.file=mine.csv", "data.text=said", "data.target=way"]
    return lambda split, *more: build_dataset(load_settings(CONFIG, [*own, *more]), split)


def test_words_and_signs_are_told_apart_in_any_language() -> None:
    assert words_of("Don't: 3,5 Äpfel — 猫!") == [
        *("don", "'", "t", ":", "3", ",", "5", "äpfel", "—", "猫", "!")
    ]


def test_words_are_numbered_by_their_frequency_in_the_training_sentences(
    greetings: Callable[..., BaseDataset],
) -> None:
    train = greetings("train")
    words = train.state_dict()["vocabulary"]
    assert words[:3] == ["", "<unknown>", "bye"]
    assert {"hello", "world", "!", ",", "you", "now"} == {*words[3:]}
    assert len(greetings("train", "data.words=2").state_dict()["vocabulary"]) == 4
    validation = greetings("validation")
    validation.load_state_dict(train.state_dict())
    ((_, sample),) = validation.read_inputs("BYE strange world")
    wanted = [words.index("bye"), 1, words.index("world"), *[0] * 29]
    assert sample["input"].tolist() == wanted


def test_a_cell_may_be_a_document_but_some_need_words(tmp_path: Path) -> None:
    rows = [("word " * 60_000, "ab"[k % 2]) for k in range(20)]
    write_rows(tmp_path / "mine.csv", [("text", "class"), *rows])
    settings = load_settings(CONFIG, [f"data.root={tmp_path}", "data.file=mine.csv"])
    assert build_dataset(settings, "train").state_dict()["vocabulary"][2:] == ["word"]
    write_rows(tmp_path / "mine.csv", [("text", "class"), *((" ", row[1]) for row in rows)])
    with pytest.raises(UserError, match="column 'text', row 1 below the header: no text"):
        build_dataset(settings, "train")


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


def test_training_batches_are_padded_to_their_longest_sentence(
    greetings: Callable[..., BaseDataset],
) -> None:
    dataset = greetings("train", "data.length=30")
    for step in range(5):
        (batch,) = BatchLoader(dataset, 3, seed=0)[step]  # type: ignore[misc]
        lengths = (batch["input"] != 0).sum(1)
        assert batch["input"].shape == (3, lengths.amax())
        assert torch.equal(
            batch["input"], batch["input"] * (torch.arange(int(lengths.amax())) < lengths[:, None])
        )
    (batch,) = BatchLoader(dataset, 3)[0]  # type: ignore[misc]
    assert batch["input"].shape == (3, 30)


def naive_bayes(train: BaseDataset, test: BaseDataset) -> float:
    """The accuracy of counting words without their order, the baseline of README.md."""
    size, (seen, asked) = 2000, (d.__getitems__(torch.arange(len(d))) for d in (train, test))
    words = [
        torch.stack([row.bincount(minlength=size) for row in b["input"]]) for b in (seen, asked)
    ]
    words = [(counts[:, 1:] > 0).double() for counts in words]
    classes = torch.nn.functional.one_hot(seen["target"]).double()
    share = (classes.T @ words[0] + 1) / (classes.sum(0)[:, None] + 2)
    scores = words[1] @ share.log().T + (1 - words[1]) @ (1 - share).log().T + classes.mean(0).log()
    return (scores.argmax(1) == asked["target"]).double().mean().item()


def test_padding_changes_nothing(greetings: Callable[..., BaseDataset]) -> None:
    torch.manual_seed(0)
    model = TextNet(greetings("train")).eval()  # type: ignore[arg-type]
    model.load_state_dict({**model.state_dict(), "groups.bias": torch.randn(64)})
    words = torch.randint(2, 8, (4, 5))
    padded = torch.cat([words, torch.zeros(4, 9, dtype=torch.int64)], dim=1)
    assert torch.allclose(model(words), model(padded), atol=1e-6)
    assert model(torch.zeros(2, 5, dtype=torch.int64)).isfinite().all()


def test_the_example_is_always_the_same_table(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        make_messages(tmp_path / name)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_sentences_are_classified_as_arguments_and_as_lines(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = (f"data.root={tmp_path}", "trainer.epochs=3", *QUICK)
    assert command("train", "--config", CONFIG, "--run-dir", "run", *changes) == 0
    assert command("evaluate", "run") == 0
    accuracy = json.loads(Path("run/evaluation/test/metrics.json").read_text())["accuracy"]
    train, test = (build_dataset(load_settings(CONFIG, changes), s) for s in ("train", "test"))
    test.load_state_dict(train.state_dict())
    assert accuracy > 0.97
    assert 0.6 < naive_bayes(train, test) < accuracy - 0.1
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
    assert "error: gone.txt: there is no such file" in printed.err
    assert "error: ' ': there are no words in it" in printed.err
    assert "error: bytes.bin: cannot be read as text in UTF-8" in printed.err
    assert len(printed.out.splitlines()) == 3


def test_an_exported_file_was_compared_on_words(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = (f"data.root={tmp_path}", "trainer.max_steps=3", *QUICK)
    assert command("train", "--config", CONFIG, "--run-dir", "run", *changes) == 0
    state = torch.load("run/checkpoints/last.pt", weights_only=True)
    assert state["example"].dtype == torch.int64
    assert state["example"].any()
    for kind in ("pt2", "onnx"):
        assert command("export", "run", "--format", kind) == 0
    program = torch.export.load("run/export/model.pt2").module()
    assert program(torch.randint(9, (3, 32))).shape == (3, 3)
