"""Tables: how rows become numbers, what is refused, and what is learned."""
# ruff: noqa: D103  the names of the tests say what they test

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT

from base.base_dataset import BaseDataset
from builders import build_dataset
from config.loading import load_settings
from data_loader.tables import write_rows
from data_loader.tabular_csv import make_apartments
from utils.errors import UserError

Command = Callable[..., int]
CLASSES, NUMBERS = ROOT / "config/tabular_csv.yaml", ROOT / "config/tabular_number.yaml"
QUICK = ("device=cpu", "logger.tensorboard=false")


@pytest.fixture
def mine(tmp_path: Path) -> Callable[..., BaseDataset]:
    """``mine(rows, "validation")``: a split of a table of one's own, about cats and dogs."""

    def build(rows: list[tuple[object, ...]], split: str = "train", *changes: str) -> BaseDataset:
        write_rows(tmp_path / "mine.csv", [("kg", "colour", "animal"), *rows])
        own = (f"data.root={tmp_path}", "data.file=mine.csv", "data.target=animal")
        settings = load_settings(CLASSES, [*own, "data.ignore=[]", *changes])
        return build_dataset(settings, split)

    return build


ROWS: list[tuple[object, ...]] = [
    (3 + k % 5 if k % 7 else "", ["grey", "", "red"][k % 3], ["cat", "dog"][k % 2])
    for k in range(120)
]


def test_numbers_are_standardised_gaps_marked_and_categories_spread_out(
    mine: Callable[..., BaseDataset],
) -> None:
    dataset = mine(ROWS)
    batch = dataset.__getitems__(torch.arange(len(dataset)))
    values, missing, *kinds = batch["input"].T
    known = values[missing == 0]
    assert known.mean().item() == pytest.approx(0, abs=1e-6)
    assert known.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert set(values[missing == 1].tolist()) == {0.0}
    assert 0 < missing.sum() < len(dataset) / 4
    assert len(kinds) == 3
    assert torch.equal(torch.stack(kinds).sum(0), torch.ones(len(dataset)))
    header, first, *_ = dataset.table(batch)
    assert header == ["kg", "kg missing", "colour=", "colour=grey", "colour=red", "target"]
    assert first[-1] in ("cat", "dog")


def test_other_splits_are_brought_to_the_training_rows_scale(
    mine: Callable[..., BaseDataset],
) -> None:
    train, test = mine(ROWS), mine(ROWS, "test")
    rows = [(100.0, "blue", "cat")] * 5  # of no known colour
    test.load_state_dict(train.state_dict())
    write_rows(Path("new.csv"), [("colour", "kg"), *((c, w) for w, c, _ in rows)])
    (name, sample), *others = test.read_inputs("new.csv")
    mean, spread, _ = train.state_dict()["numbers"]["kg"]
    wanted = torch.tensor([(100 - mean) / spread, 0, 0, 0, 0])
    assert torch.allclose(sample["input"], wanted)
    assert (name, len(others)) == ("new.csv row 1", 4)
    assert len(train.state_dict()["numbers"]) == 1  # nothing was learned from other rows


@pytest.mark.parametrize(
    ("cell", "row", "message"),
    [
        (
            "4,5",
            3,
            r"column 'kg': '4,5' is no number, but most of it looks so; mend it, or use data",
        ),
        ("", None, r"column 'animal', row 1 below the header: no class is given"),
    ],
)
def test_a_cell_that_does_not_fit_is_named(
    mine: Callable[..., BaseDataset], cell: str, row: int | None, message: str
) -> None:
    rows = [(cell, *r[1:]) if k == row else r for k, r in enumerate(ROWS)]
    rows = [(*r[:2], "") if row is None else r for r in rows]
    with pytest.raises(UserError, match=message):
        for split in ("train", "validation", "test"):
            dataset = mine(rows, split)
            if split != "train":
                dataset.load_state_dict(mine(ROWS).state_dict())


def test_columns_of_names_and_settings_that_are_no_columns_are_named(
    mine: Callable[..., BaseDataset],
) -> None:
    many = [(w, f"name {k}", a) for k, (w, _, a) in enumerate([*ROWS, *ROWS])]
    with pytest.raises(UserError, match=r"column 'colour' has 1\d\d different texts, such as 'na"):
        mine(many)
    assert len(mine(many, "train", "data.ignore=[colour]").example[0]) == 2
    with pytest.raises(UserError, match=r"data\.ignore: mine\.csv has no column 'age', but"):
        mine(ROWS, "train", "data.ignore=[age]")
    with pytest.raises(UserError, match="no columns left to predict from"):
        mine(ROWS, "train", "data.ignore=[kg, colour]")


def test_large_numbers_keep_their_small_differences(mine: Callable[..., BaseDataset]) -> None:
    times = [(1_700_000_000 + k, c, a) for k, (_, c, a) in enumerate(ROWS)]
    dataset = mine(times)
    values = torch.stack([dataset[k]["input"][0] for k in range(len(dataset))])
    assert len(values.unique()) == len(dataset)


@pytest.mark.parametrize("mark", ["NA", "n/a", "?"])
def test_usual_marks_of_gaps_are_gaps_in_numbers_and_categories(
    mine: Callable[..., BaseDataset], mark: str
) -> None:
    marked = [(mark if w == "" else w, mark if c == "" else c, a) for w, c, a in ROWS]
    plain, other = mine(ROWS), mine(marked)
    assert torch.equal(plain[0]["input"], other[0]["input"])
    assert {**plain.state_dict(), "source": ""} == {**other.state_dict(), "source": ""}


def test_numbers_with_decimal_commas_are_not_taken_for_categories(
    mine: Callable[..., BaseDataset],
) -> None:
    with pytest.raises(UserError, match=r"column 'kg': '3,5' is no number, but most of it looks"):
        mine([(f"{3 + k % 9},5", c, a) for k, (_, c, a) in enumerate(ROWS)])


def test_a_file_with_other_classes_is_not_taken_for_the_models(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "mine.csv", [("kg", "colour", "animal"), *ROWS])
    other = [(w, c, {"cat": "cat", "dog": "eel"}[str(a)]) for w, c, a in ROWS]
    write_rows(tmp_path / "other.csv", [("kg", "colour", "animal"), *other])
    own = (f"data.root={tmp_path}", "data.target=animal", "data.ignore=[]", "trainer.epochs=1")
    files = ("data.file=mine.csv", "data.file=other.csv")
    assert command("train", "--config", CLASSES, "--run-dir", "run", *own, files[0], *QUICK) == 0
    assert command("evaluate", "run", files[1]) == 2
    message = "other has the classes cat, eel; in training, they were cat, dog"
    assert message in capsys.readouterr().err
    write_rows(tmp_path / "other.csv", [("kg", "animal"), *((w, a) for w, _, a in ROWS)])
    assert command("evaluate", "run", files[1]) == 2
    message = "other: the model was trained with a column 'colour', which is missing or left out"
    assert message in capsys.readouterr().err
    write_rows(
        tmp_path / "other.csv", [("colour", "animal"), *((r[1], k) for k, r in enumerate(ROWS))]
    )
    assert command("evaluate", "run", files[1], "data.predict=number") == 2
    assert (
        "other has the classes (none); in training, they were cat, dog" in capsys.readouterr().err
    )
    assert not Path("run/evaluation").exists()


def test_a_file_that_has_changed_since_training_is_warned_of(
    tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    own = (f"data.root={tmp_path}", "data.target=animal", "data.ignore=[]", "data.file=mine.csv")
    write_rows(tmp_path / "mine.csv", [("kg", "colour", "animal"), *ROWS])
    changes = (*own, "trainer.epochs=1", *QUICK)
    assert command("train", "--config", CLASSES, "--run-dir", "run", *changes) == 0
    assert command("evaluate", "run") == 0
    assert "has changed since training" not in caplog.text
    write_rows(tmp_path / "mine.csv", [("kg", "colour", "animal"), *reversed(ROWS)])
    assert command("evaluate", "run") == 0
    assert "mine has changed since training: splits may share samples" in caplog.text


def test_the_example_is_always_the_same_table(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        make_apartments(tmp_path / name)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_classes_are_learned_and_predicted_from_a_table(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = (f"data.root={tmp_path}", *QUICK)
    assert command("train", "--config", CLASSES, "--run-dir", "run", *changes) == 0
    assert command("evaluate", "run") == 0
    assert json.loads(Path("run/evaluation/test/metrics.json").read_text())["accuracy"] > 0.8
    lines = (tmp_path / "tabular/apartments.csv").read_text().splitlines()[:9]
    Path("new.csv").write_text("\n".join(line.rsplit(",", 2)[0] for line in lines))  # no answers
    capsys.readouterr()
    assert command("predict", "run", "new.csv", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    found = [entry["predictions"][0]["class"] for entry in entries]
    true = [line.rsplit(",", 1)[1] for line in lines[1:]]
    assert sum(a == b for a, b in zip(found, true, strict=True)) >= 6
    Path("new.csv").write_text("area_m2,rooms\n1,2\n")
    assert command("predict", "run", "new.csv") == 2
    assert "new.csv: no column 'floor'" in capsys.readouterr().err


def test_numbers_are_predicted_in_their_own_unit(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = (f"data.root={tmp_path}", *QUICK)
    assert command("train", "--config", NUMBERS, "--run-dir", "run", *changes) == 0
    assert command("evaluate", "run") == 0
    metrics: dict[str, Any] = json.loads(Path("run/evaluation/test/metrics.json").read_text())
    assert metrics["r2"] > 0.9
    assert metrics["mae"] == pytest.approx(48, abs=8)  # the noise alone brings 48
    assert Path("run/evaluation/test/predicted.png").stat().st_size > 5000
    assert command("predict", "run", tmp_path / "tabular/apartments.csv", "--json") == 0
