"""Tables: how rows are encoded, what is refused, and what a model learns from them."""
# ruff: noqa: D103  the names of the tests say what they test

import csv
import json
import re
import unicodedata
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas
import pytest
import torch
from conftest import ROOT, needs
from exported import read_about, run_outside

from base.base_dataset import BaseDataset
from builders import build_fitted_dataset, restore_trainer
from config.loading import load_settings
from data_loader.example_apartments import make_apartments
from data_loader.tables import write_rows
from utils.errors import UserError

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
CLASSES = ROOT / "config/tabular_csv.yaml"
NUMBERS = ROOT / "config/tabular_number.yaml"
QUICK = ("device=cpu", "logger.tensorboard=false")
HEADER = ("kg", "colour", "animal")


def make_rows() -> list[tuple[object, ...]]:
    """Rows about animals; some weights and some colours are missing."""
    rows: list[tuple[object, ...]] = []
    for k in range(120):
        weight = 3 + k % 5 if k % 7 else ""
        rows.append((weight, ["grey", "", "red"][k % 3], ["cat", "dog"][k % 2]))
    return rows


ROWS = make_rows()


def own_settings(folder: Path) -> tuple[str, ...]:
    return (f"data.root={folder}", "data.target=animal", "data.ignore=[]")


@pytest.fixture
def animals(tmp_path: Path) -> Callable[..., BaseDataset]:
    """``animals(rows, "validation")``: a split of a table with these rows."""

    def build(rows: list[tuple[object, ...]], split: str = "train", *changes: str) -> BaseDataset:
        write_rows(tmp_path / "mine.csv", [HEADER, *rows])
        own = (*own_settings(tmp_path), "data.file=mine.csv")
        return build_fitted_dataset(load_settings(CLASSES, [*own, *changes]), split)

    return build


def refused(call: Callable[..., object], *arguments: Any) -> str:
    """The message of the error that a call raises."""
    with pytest.raises(UserError) as error:
        call(*arguments)
    assert error.value.exit_code == 2
    return str(error.value)


def test_numbers_are_standardized_missing_ones_marked_and_categories_one_hot_encoded(
    animals: Callable[..., BaseDataset],
) -> None:
    dataset = animals(ROWS)
    batch = dataset.__getitems__(torch.arange(len(dataset)))
    values, missing, *colours = batch["input"].T
    known = values[missing == 0]
    assert known.mean().item() == pytest.approx(0, abs=1e-6)
    assert known.std(correction=0).item() == pytest.approx(1, abs=1e-6)
    assert set(values[missing == 1].tolist()) == {0.0}
    assert 0 < missing.sum() < len(dataset) / 4
    assert len(colours) == 3
    assert torch.equal(torch.stack(colours).sum(0), torch.ones(len(dataset)))
    header, first, *_ = dataset.table(batch)
    assert header == ["kg", "kg missing", "colour=", "colour=grey", "colour=red", "target"]
    assert first[-1] in ("cat", "dog")


def test_each_category_has_its_own_feature_and_an_unknown_one_is_zeros(
    animals: Callable[..., BaseDataset],
) -> None:
    dataset = animals(ROWS)
    colours = ["red", "", "blue", "grey", "Red"]
    write_rows(Path("new.csv"), [("kg", "colour"), *((4, colour) for colour in colours)])
    samples = dataset.read_inputs("new.csv")
    features = torch.stack([sample["input"] for _, sample in samples])
    assert features.dtype == torch.float32
    assert features[:, 2:].tolist() == [  # empty, grey, red
        [0, 0, 1],
        [1, 0, 0],
        [0, 0, 0],
        [0, 1, 0],
        [0, 0, 0],
    ]


def test_other_splits_are_encoded_with_the_statistics_of_the_training_rows(
    animals: Callable[..., BaseDataset],
) -> None:
    train = animals(ROWS)
    test = animals(ROWS, "test")
    test.load_state_dict(train.state_dict())
    write_rows(Path("new.csv"), [("colour", "kg"), *(("blue", 100.0) for _ in range(5))])
    (name, sample), *others = test.read_inputs("new.csv")
    mean, std, _ = train.state_dict()["numbers"]["kg"]
    expected = torch.tensor([(100 - mean) / std, 0, 0, 0, 0])
    assert torch.allclose(sample["input"], expected)
    assert name == "new.csv line 2"
    assert len(others) == 4
    assert len(train.state_dict()["numbers"]) == 1  # nothing is fitted to other rows


def test_a_mistyped_number_is_refused_with_column_and_cell(
    animals: Callable[..., BaseDataset],
) -> None:
    rows = [*ROWS]
    rows[3] = ("4,5", *rows[3][1:])
    message = refused(animals, rows)
    for part in ("mine.csv, line 5,", "'kg'", "'4,5'", "data.missing", "data.ignore"):
        assert part in message


def test_a_mistyped_number_in_another_split_is_refused_with_column_and_cell(
    animals: Callable[..., BaseDataset],
) -> None:
    state = animals(ROWS).state_dict()
    rows = [("4,5", *row[1:]) for row in ROWS]
    for split in ("validation", "test"):
        message = refused(animals(rows, split).load_state_dict, state)
        for part in ("mine.csv, line ", "'kg'", "'4,5'", "not a number"):
            assert part in message


@pytest.mark.parametrize("split", ["validation", "test"])
def test_the_training_set_reports_a_mistyped_number_of_any_split(
    animals: Callable[..., BaseDataset], split: str
) -> None:
    position = int(animals(ROWS, split).indices[0])  # type: ignore[attr-defined]
    rows = [*ROWS]
    rows[position] = ("4,5", *rows[position][1:])
    assert f"mine.csv, line {position + 2}," in refused(animals, rows)


def test_a_missing_class_is_refused_with_column_and_row(
    animals: Callable[..., BaseDataset],
) -> None:
    for split in ("train", "validation", "test"):
        message = refused(animals, [(weight, colour, "") for weight, colour, _ in ROWS], split)
        for part in ("mine.csv, line 2,", "'animal'", "no class", "data.drop_missing_target"):
            assert part in message


def test_a_column_with_too_many_categories_is_refused_unless_ignored(
    animals: Callable[..., BaseDataset],
) -> None:
    rows = [(row[0], f"name {k}", row[2]) for k, row in enumerate([*ROWS, *ROWS])]
    message = refused(animals, rows)
    for part in ("'colour'", "'name ", "at most 100", "data.ignore"):
        assert part in message
    assert len(animals(rows, "train", "data.ignore=[colour]").example[0]) == 2


def test_ignoring_an_unknown_column_or_all_columns_is_refused(
    animals: Callable[..., BaseDataset],
) -> None:
    message = refused(animals, ROWS, "train", "data.ignore=[age]")
    for part in ("data.ignore", "mine.csv", "'age'", "kg, colour, animal"):
        assert part in message
    message = refused(animals, ROWS, "train", "data.ignore=[kg, colour]")
    for part in ("no columns", "data.ignore"):
        assert part in message


def test_small_differences_between_large_numbers_are_kept(
    animals: Callable[..., BaseDataset],
) -> None:
    rows = [(1_700_000_000 + k, *row[1:]) for k, row in enumerate(ROWS)]
    dataset = animals(rows)
    values = torch.stack([dataset[k]["input"][0] for k in range(len(dataset))])
    assert len(values.unique()) == len(dataset)


@pytest.mark.parametrize("mark", ["NA", "n/a", "?"])
def test_usual_marks_of_missing_values_count_as_empty_cells(
    animals: Callable[..., BaseDataset], mark: str
) -> None:
    marked = []
    for weight, colour, animal in ROWS:
        marked.append((mark if weight == "" else weight, mark if colour == "" else colour, animal))
    plain = animals(ROWS)
    other = animals(marked)
    assert torch.equal(plain[0]["input"], other[0]["input"])
    assert {**plain.state_dict(), "source": ""} == {**other.state_dict(), "source": ""}


def test_numbers_with_decimal_commas_are_not_taken_for_categories(
    animals: Callable[..., BaseDataset],
) -> None:
    rows = [(f"{3 + k % 9},5", *row[1:]) for k, row in enumerate(ROWS)]
    message = refused(animals, rows)
    for part in ("mine.csv, line 2,", "'kg'", "'3,5'", "not a number", "data.decimal=comma"):
        assert part in message


def test_a_file_with_other_classes_or_columns_than_in_training_is_refused(
    tmp_path: Path, command: Command, capsys: Captured
) -> None:
    own = own_settings(tmp_path)
    write_rows(tmp_path / "mine.csv", [HEADER, *ROWS])
    options = (*own, "data.file=mine.csv", "trainer.epochs=1", *QUICK)
    assert command("train", "--config", CLASSES, "--run-dir", "run", *options) == 0

    eels = [(w, c, "eel" if animal == "dog" else animal) for w, c, animal in ROWS]
    write_rows(tmp_path / "other.csv", [HEADER, *eels])
    assert command("evaluate", "run", "data.file=other.csv") == 2
    error = capsys.readouterr().err
    for part in ("other.csv, line", "'animal'", "'eel'", "cat, dog"):
        assert part in error

    without_colour = [(w, animal) for w, _, animal in ROWS]
    write_rows(tmp_path / "other.csv", [("kg", "animal"), *without_colour])
    assert command("evaluate", "run", "data.file=other.csv") == 2
    error = capsys.readouterr().err
    for part in ("other", "'colour'", "data.ignore"):
        assert part in error

    numbered = [(colour, k) for k, (_, colour, _) in enumerate(ROWS)]
    write_rows(tmp_path / "other.csv", [("colour", "animal"), *numbered])
    assert command("evaluate", "run", "data.file=other.csv", "data.predict=number") == 2
    error = capsys.readouterr().err
    for part in ("other", "(none)", "cat, dog"):
        assert part in error
    assert not Path("run/evaluation").exists()


def test_a_file_that_has_changed_since_training_causes_a_warning(
    tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "mine.csv", [HEADER, *ROWS])
    options = (*own_settings(tmp_path), "data.file=mine.csv", "trainer.epochs=1", *QUICK)
    assert command("train", "--config", CLASSES, "--run-dir", "run", *options) == 0
    assert command("evaluate", "run") == 0
    assert "has changed since training" not in caplog.text
    write_rows(tmp_path / "mine.csv", [HEADER, *reversed(ROWS)])
    assert command("evaluate", "run") == 0
    assert "mine has changed since training" in caplog.text


def test_a_file_without_one_of_the_classes_is_evaluated(
    tmp_path: Path, command: Command, capsys: Captured
) -> None:
    own = (*own_settings(tmp_path), *QUICK)
    owls = [(9, "white", "owl")] * 60
    write_rows(tmp_path / "mine.csv", [HEADER, *ROWS, *owls])
    options = (*own, "data.file=mine.csv", "trainer.epochs=2")
    assert command("train", "--config", CLASSES, "--run-dir", "run", *options) == 0

    write_rows(tmp_path / "new.csv", [HEADER, *(row for row in ROWS if row[2] == "dog")])
    assert command("evaluate", "run", "data.file=new.csv") == 0
    with Path("run/evaluation/new test/by_class.csv").open(newline="") as stream:
        cat, dog, owl = list(csv.reader(stream))[1:]
    assert cat == ["cat", "0", "-", "-", "-"]
    assert owl == ["owl", "0", "-", "-", "-"]
    assert dog[:3] == ["dog", "10", "1.0000"]
    metrics = json.loads(Path("run/evaluation/new test/metrics.json").read_text())
    assert metrics["accuracy"] == pytest.approx(float(dog[3]), abs=1e-4)
    assert metrics["f1"] == pytest.approx(float(dog[4]), abs=1e-4)
    with Path("run/evaluation/new test/confusion_matrix.csv").open(newline="") as stream:
        rows = np.array([row[1:] for row in list(csv.reader(stream))[1:]]).astype(int)
    assert rows.sum(1).tolist() == [0, 10, 0]

    lions = [(99, "yellow", "lion")] * 60
    write_rows(tmp_path / "new.csv", [HEADER, *ROWS, *lions])
    capsys.readouterr()
    assert command("evaluate", "run", "data.file=new.csv") == 2
    (message,) = capsys.readouterr().err.splitlines()
    assert "'lion'" in message
    assert "cat, dog, owl" in message
    line = int(re.search(r"new\.csv, line (\d+)", message)[1])  # type: ignore[index]
    assert len(ROWS) + 1 < line <= len(ROWS) + 61


def test_the_example_data_are_reproducible(tmp_path: Path) -> None:
    for name in ("a.csv", "b.csv"):
        make_apartments(tmp_path / name)
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_a_model_learns_and_predicts_the_classes_of_a_table(
    tmp_path: Path, command: Command, capsys: Captured
) -> None:
    options = (f"data.root={tmp_path}", *QUICK)
    assert command("train", "--config", CLASSES, "--run-dir", "run", *options) == 0
    assert command("evaluate", "run") == 0
    assert json.loads(Path("run/evaluation/test/metrics.json").read_text())["accuracy"] > 0.8
    lines = (tmp_path / "tabular/apartments.csv").read_text().splitlines()[:9]
    Path("new.csv").write_text("\n".join(line.rsplit(",", 2)[0] for line in lines))  # no targets
    capsys.readouterr()
    assert command("predict", "run", "new.csv", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    predicted = [entry["predictions"][0]["class"] for entry in entries]
    true = [line.rsplit(",", 1)[1] for line in lines[1:]]
    assert sum(a == b for a, b in zip(predicted, true, strict=True)) >= 6
    Path("new.csv").write_text("area_m2,rooms\n1,2\n")
    assert command("predict", "run", "new.csv") == 2
    assert "new.csv: no column 'floor'" in capsys.readouterr().err


@needs(NUMBERS)
@pytest.mark.parametrize(
    ("offset", "unit"), [("1.7e9", "0.01"), ("1e15", "100"), ("0", "1e30"), ("0", "1e-30")]
)
def test_targets_do_not_depend_on_offset_and_unit(tmp_path: Path, offset: str, unit: str) -> None:
    numbers = [53 * k % 97 for k in range(120)]
    other = [str(Decimal(offset) + Decimal(unit) * number) for number in numbers]
    write_rows(tmp_path / "small.csv", [("kg", "price"), *enumerate(numbers)])
    write_rows(tmp_path / "other.csv", [("kg", "price"), *enumerate(other)])
    datasets: list[Any] = []
    for file in ("small.csv", "other.csv"):
        own = (f"data.root={tmp_path}", f"data.file={file}", "data.target=price", "data.ignore=[]")
        datasets.append(build_fitted_dataset(load_settings(NUMBERS, own), "train"))
    expected, found = datasets
    assert found.targets.dtype == torch.float32
    assert found.targets.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(found.targets, expected.targets, atol=1e-4)
    batch = found.__getitems__(torch.arange(len(found)))
    shown = [float(line[-1]) for line in found.table(batch)[1:]]
    ((_, std),) = found.target_standardization
    assert shown == pytest.approx(found.unscaled_targets[:, 0].tolist(), abs=1e-4 * std)


@needs(NUMBERS)
def test_timestamps_are_predicted(tmp_path: Path, command: Command, capsys: Captured) -> None:
    start = 1_700_000_000
    rows = [(k % 50, start + 40 * (k % 50)) for k in range(200)]
    write_rows(tmp_path / "mine.csv", [("kg", "time"), *rows])
    own = (f"data.root={tmp_path}", "data.file=mine.csv", "data.target=time", "data.ignore=[]")
    options = ("trainer.epochs=20", "trainer.validate_every_epochs=10", *QUICK)
    assert command("train", "--config", NUMBERS, "--run-dir", "run", *own, *options) == 0
    assert command("evaluate", "run") == 0
    metrics = json.loads(Path("run/evaluation/test/metrics.json").read_text())
    assert metrics["r2"] > 0.9
    assert 0 < metrics["mae"] < 200
    write_rows(Path("new.csv"), [("kg",), (10,), (40,)])
    capsys.readouterr()
    assert command("predict", "run", "new.csv", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    values = [entry["predictions"][0]["value"] for entry in entries]
    assert values == pytest.approx([start + 400, start + 1600], abs=300)
    assert command("predict", "run", "new.csv") == 0
    first_row = capsys.readouterr().out.splitlines()[2]
    assert float(first_row.split()[-1]) == pytest.approx(values[0], abs=1e-3)
    trainer, _ = restore_trainer([Path("run/checkpoints/best.pt")], None, [])
    rules = trainer.dataset.describe_input()
    rows_as_prepared = [encode_row({"kg": kg}, rules) for kg in ("10", "40")]
    exported = trainer.exported_model(trainer.model.eval())
    outputs = exported(torch.tensor(rows_as_prepared))
    assert outputs.dtype == torch.float64
    assert outputs[:, 0].tolist() == pytest.approx(values, abs=1e-3)
    assert exported.state_dict().keys() == trainer.model.state_dict().keys()


@needs(NUMBERS)
@pytest.mark.parametrize("column", ["kg", "price"])
def test_numbers_that_float64_cannot_distinguish_are_refused(tmp_path: Path, column: str) -> None:
    rows = [(10**17 + k, k) if column == "kg" else (k, 10**17 + k) for k in range(100)]
    write_rows(tmp_path / "mine.csv", [("kg", "price"), *rows])
    own = (f"data.root={tmp_path}", "data.file=mine.csv", "data.target=price", "data.ignore=[]")
    message = refused(build_fitted_dataset, load_settings(NUMBERS, own), "train")
    for part in (f"'{column}'", "float64", "offset"):
        assert part in message


def test_integers_that_float64_makes_equal_are_refused_as_inputs(
    things: Callable[..., BaseDataset],
) -> None:
    identifiers = [str(10**18 + k % 50) for k in range(60)]
    message = refused(things, identifiers)
    for part in ("'a'", "float64", identifiers[0], "data.kinds"):
        assert part in message
    assert things(repeated(str(10**18))).state_dict()["numbers"]["a"][:2] == (1e18, 1)
    dataset = things(identifiers, "data.kinds={a: category}")
    assert len(dataset.state_dict()["categories"]["a"]) > 1


def test_numbers_with_typeset_separators_are_not_taken_for_categories(
    things: Callable[..., BaseDataset],
) -> None:
    cells = [f"1\u00a0{k:03d}" for k in range(60)]
    message = refused(things, cells)
    for part in ("line 2", repr(cells[0]), "data.thousands"):
        assert part in message
    assert "a" in things(cells, "data.thousands=space").state_dict()["numbers"]


def test_a_number_too_far_from_the_training_rows_is_refused(
    animals: Callable[..., BaseDataset],
) -> None:
    dataset = animals(ROWS)
    write_rows(Path("new.csv"), [("kg", "colour"), ("1e30", "red")])
    message = refused(dataset.read_inputs, "new.csv")
    for part in ("'kg'", "1e+30", "standard deviations"):
        assert part in message


@needs(NUMBERS)
def test_numbers_are_predicted_in_the_unit_of_their_column(
    tmp_path: Path, command: Command
) -> None:
    options = (f"data.root={tmp_path}", *QUICK)
    assert command("train", "--config", NUMBERS, "--run-dir", "run", *options) == 0
    assert command("evaluate", "run") == 0
    metrics: dict[str, Any] = json.loads(Path("run/evaluation/test/metrics.json").read_text())
    assert metrics["r2"] > 0.9
    assert metrics["mae"] == pytest.approx(48, abs=8)  # 48 is the mean absolute noise
    assert Path("run/evaluation/test/predicted.png").stat().st_size > 5000
    assert command("predict", "run", tmp_path / "tabular/apartments.csv", "--json") == 0


def encode_row(row: dict[str, str], rules: Any) -> list[float]:
    """The features of a row, made by what about.json says."""
    features: list[float] = []
    for column in rules["columns"]:
        cell = row[column["name"]].strip()
        if cell in rules["missing"]:
            cell = ""
        if column["kind"] == "category":
            features += [float(cell == category) for category in column["categories"]]
            continue
        features.append((float(cell) - column["mean"]) / column["std"] if cell else 0.0)
        if column["missing_feature"]:
            features.append(float(not cell))
    return features


def test_a_program_without_the_project_prepares_a_row(
    animals: Callable[..., BaseDataset], tmp_path: Path, command: Command, capsys: Captured
) -> None:
    animals(ROWS)
    own = (*own_settings(tmp_path), "data.file=mine.csv", "trainer.max_steps=3", *QUICK)
    assert command("train", "--config", CLASSES, "--run-dir", "run", *own) == 0
    assert command("export", "run") == 0
    about = read_about(Path("run"))
    rules = about["preparation"]
    rows = [{"kg": "7.5", "colour": "red"}, {"kg": "NA", "colour": ""}, {"kg": "", "colour": "x"}]
    write_rows(tmp_path / "new.csv", [("kg", "colour"), *(tuple(row.values()) for row in rows)])
    array = np.array([encode_row(row, rules) for row in rows], rules["dtype"])
    logits = run_outside(Path("run/export/model.pt2"), array, tmp_path / "outside")
    capsys.readouterr()
    assert command("predict", "run", tmp_path / "new.csv", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    assert len(entries) == 3
    for entry, probabilities in zip(entries, logits.softmax(1), strict=True):
        for answer in entry["predictions"]:
            index = about["data"]["classes"].index(answer["class"])
            assert probabilities[index].item() == pytest.approx(answer["probability"], abs=2e-3)


def test_a_finished_run_finds_its_data_in_another_working_folder_or_names_what_is_missing(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    options = (*QUICK, "trainer.epochs=1")
    assert command("train", "--config", CLASSES, "--run-dir", "run", *options) == 0
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run = tmp_path / "run"
    assert command("evaluate", run) == 0
    assert command("train", "--resume", run, "trainer.epochs=2") == 0
    assert list(elsewhere.iterdir()) == []
    (elsewhere / "data").mkdir()  # the folder that data.root means here
    capsys.readouterr()
    for arguments in (["evaluate", run], ["train", "--resume", run]):
        assert command(*arguments, "data.root=data") == 69
        assert f"apartments.csv does not exist in {elsewhere}" in capsys.readouterr().err
    assert list((elsewhere / "data").iterdir()) == []


def test_categories_and_settings_may_have_different_unicode_forms(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [("été", "né", "hiver", "sûr")]
    for k in range(40):
        form: Literal["NFC", "NFD"] = "NFC" if k % 3 else "NFD"
        category = unicodedata.normalize(form, "café")
        missing = unicodedata.normalize(form, "inconnu é")
        number = k if k % 2 else missing
        rows.append((category, "unused", number, unicodedata.normalize(form, f"é{k % 4 // 2}")))
    write_rows(tmp_path / "mine.csv", rows)
    texts = [f"data.target={unicodedata.normalize('NFD', 'sûr')}"]
    texts.append(f"data.ignore=[{unicodedata.normalize('NFD', 'né')}]")
    texts.append(f"data.missing=[{unicodedata.normalize('NFD', 'inconnu é')}]")
    own = [f"data.root={tmp_path}", "data.file=mine.csv", *texts]
    state = build_fitted_dataset(load_settings(CLASSES, own), "train").state_dict()
    assert state["categories"] == {"été": ["café"]}
    assert list(state["numbers"]) == ["hiver"]
    assert state["classes"] == ["é0", "é1"]


@pytest.fixture
def things(tmp_path: Path) -> Callable[..., BaseDataset]:
    """``things(["007", "1", ...])``: a split of a table with this column, called `a`."""

    def build(cells: list[str], *changes: str, split: str = "train") -> BaseDataset:
        rows = [[cell, k % 5, ["cat", "dog"][k % 2]] for k, cell in enumerate(cells)]
        write_rows(tmp_path / "mine.csv", [["a", "b", "animal"], *rows])
        own = (*own_settings(tmp_path), "data.file=mine.csv")
        return build_fitted_dataset(load_settings(CLASSES, [*own, *changes]), split)

    return build


def repeated(*cells: str) -> list[str]:
    return [cells[k % len(cells)] for k in range(60)]


@pytest.mark.parametrize(
    "cells", [("007", "012", "7"), ("3_42", "1_77"), ("12e5", "3e1", "7"), ("1/2", "3/4")]
)
def test_identifiers_are_categories(
    things: Callable[..., BaseDataset], cells: tuple[str, ...]
) -> None:
    state = things(repeated(*cells)).state_dict()
    assert state["categories"] == {"a": sorted(cells)}
    assert list(state["numbers"]) == ["b"]


def test_the_kind_of_a_column_can_be_set(things: Callable[..., BaseDataset]) -> None:
    assert things(repeated("1", "2"), "data.kinds={a: category}").state_dict()["categories"] == {
        "a": ["1", "2"]
    }
    numbers = things(repeated("007", "1e2"), "data.kinds={a: number}").state_dict()["numbers"]
    assert numbers["a"][:2] == pytest.approx((53.5, 46.5), abs=2)
    message = refused(things, repeated("1", "x"), "data.kinds={a: date}")
    for part in ("mine.csv", "'a'", "data.kinds"):
        assert part in message
    message = refused(things, repeated("1", "2"), "data.kinds={c: date}")
    for part in ("data.kinds", "'c'", "a, b, animal"):
        assert part in message
    message = refused(things, repeated("1", "2"), "data.kinds={animal: category}")
    for part in ("data.kinds", "'animal'", "data.predict"):
        assert part in message


def test_booleans_are_categories_however_they_are_written(
    things: Callable[..., BaseDataset],
) -> None:
    train = things(repeated("True", "False", "TRUE", ""))
    assert train.state_dict()["categories"] == {"a": ["", "false", "true"]}
    other = things(repeated("true", "false", "TRUE", ""))
    assert torch.equal(other[0]["input"], train[0]["input"])


DAYS = [f"2024-0{k % 9 + 1}-1{k % 7}" for k in range(60)]


def in_other_notations() -> list[tuple[list[str], tuple[str, ...]]]:
    parts = [day.split("-") for day in DAYS]
    months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep"]
    return [
        ([f"{day}T00:00:00Z" for day in DAYS], ()),
        ([f"{d}.{m}.{y}" for y, m, d in parts], ()),
        ([f"{d}/{m}/{y} 00:00" for y, m, d in parts], ()),
        ([f"{m}-{d}-{y}" for y, m, d in parts], ()),
        ([f"{int(d)} {months[int(m) - 1]} {y}" for y, m, d in parts], ()),
        ([f"{y}{m}{d}" for y, m, d in parts], ("data.kinds={a: date}",)),
    ]


@pytest.mark.parametrize(("cells", "changes"), in_other_notations())
def test_dates_become_their_parts_in_any_notation(
    things: Callable[..., BaseDataset], cells: list[str], changes: tuple[str, ...]
) -> None:
    dataset = things(DAYS)
    batch = dataset.__getitems__(torch.arange(len(dataset)))
    names = dataset.table(batch)[0][1:-1]
    assert names == ["a year", "a month", "a day", "a day_of_week", "a hour", "a elapsed"]
    year, month, _, weekday, hour, elapsed = batch["input"][:, 1:].T
    assert not year.any()
    assert not hour.any()
    assert len(month.unique()) == 9
    assert 5 <= len(weekday.unique()) <= 7
    assert elapsed.mean().item() == pytest.approx(0, abs=1e-5)
    assert elapsed.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    other = things(cells, *changes)
    assert torch.equal(other.__getitems__(torch.arange(len(other)))["input"], batch["input"])
    assert dataset.state_dict()["dates"]["a"]["first"].startswith("2024-01-1")


def test_missing_dates_are_marked(things: Callable[..., BaseDataset]) -> None:
    dataset = things([day if k % 4 else "NA" for k, day in enumerate(DAYS)])
    batch = dataset.__getitems__(torch.arange(len(dataset)))
    missing = batch["input"][:, -1] == 1
    assert 0 < missing.sum() < len(dataset) / 2
    assert not batch["input"][missing, 1:-1].any()


def test_dates_whose_day_and_month_can_be_exchanged_are_refused(
    things: Callable[..., BaseDataset],
) -> None:
    cells = [f"0{k % 9 + 1}/0{k % 8 + 1}/2020" for k in range(60)]
    message = refused(things, cells)
    for part in ("mine.csv, line", "'a'", "%d/%m/%Y", "%m/%d/%Y", "data.day_first"):
        assert part in message
    months = things(cells, "data.day_first=false").state_dict()["dates"]["a"]["parts"]["month"]
    days = things(cells, "data.day_first=true").state_dict()["dates"]["a"]["parts"]["day"]
    assert months == days


@pytest.mark.parametrize("cell", ["2024-13-01", "soon", "1.2.2024"])
@pytest.mark.parametrize("row", [20, 57])
def test_an_invalid_date_in_any_split_is_refused(
    things: Callable[..., BaseDataset], cell: str, row: int
) -> None:
    message = refused(things, [*DAYS[:row], cell, *DAYS[row + 1 :]])
    for part in (f"mine.csv, line {row + 2},", "'a'", repr(cell), "date"):
        assert part in message


def test_an_invalid_cell_of_any_split_is_found_before_training(
    animals: Callable[..., Any], tmp_path: Path, command: Command, capsys: Captured
) -> None:
    options = (*own_settings(tmp_path), "data.file=mine.csv", "trainer.max_steps=1", *QUICK)
    for split in ("train", "validation", "test"):
        row = animals(ROWS, split).indices[5].item()
        rows = [*ROWS]
        rows[row] = ("unknown", *ROWS[row][1:])
        write_rows(tmp_path / "mine.csv", [HEADER, *rows])
        assert command("train", "--config", CLASSES, "--run-dir", "run", *options) == 2
        error = capsys.readouterr().err
        for part in (f"mine.csv, line {row + 2}, column 'kg'", "'unknown'"):
            assert part in error
        assert not list(tmp_path.glob("run/**/*.pt"))


def test_predict_reads_all_formats_with_the_settings_of_the_run(
    tmp_path: Path, command: Command, capsys: Captured
) -> None:
    rows = [[str(weight).replace(".", ","), *others] for weight, *others in ROWS]
    lines = [";".join(map(str, row)) for row in [HEADER, *rows]]
    (tmp_path / "mine.csv").write_text("\n".join(lines).replace("red", "rød"), encoding="cp1252")
    own = (*own_settings(tmp_path), "data.file=mine.csv", "trainer.max_steps=3", *QUICK)
    notation = ("data.decimal=comma", "data.encoding=cp1252")
    assert command("train", "--config", CLASSES, "--run-dir", "run", *own, *notation) == 0
    frame = pandas.DataFrame({"kg": [7.5, 3.25], "colour": ["rød", None]})
    frame.to_csv("new.csv", index=False, sep=";", decimal=",", encoding="cp1252")
    frame.to_csv("new.tsv", index=False, sep="\t", decimal=",", encoding="cp1252")
    frame.to_csv("new.csv.gz", index=False, decimal=",", encoding="cp1252")
    frame.to_excel("new.xlsx", index=False)
    frame.to_parquet("new.parquet")
    frame.to_feather("new.feather")
    names = ("new.csv", "new.tsv", "new.csv.gz", "new.xlsx", "new.parquet", "new.feather")
    capsys.readouterr()
    assert command("predict", "run", *names, "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    assert [entry["input"] for entry in entries[:2]] == ["new.csv line 2", "new.csv line 3"]
    for position, entry in enumerate(entries):
        assert entry["predictions"] == entries[position % 2]["predictions"]
    assert len(entries) == 12


def test_a_category_that_no_training_row_has_is_reported(
    things: Callable[..., BaseDataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = things(repeated("1", "x", "TRUE"))
    write_rows(tmp_path / "new.csv", [["a", "b"], ["1.0", 2], ["true", 3]])
    known = dataset.read_inputs(str(tmp_path / "new.csv"))
    assert not caplog.records
    assert [sample["input"][1:].sum().item() for _, sample in known] == [1, 1]
    write_rows(tmp_path / "new.csv", [["a", "b"], ["x", 2], ["X", 3]])
    ((_, first), (_, second)) = dataset.read_inputs(str(tmp_path / "new.csv"))
    assert (first["input"][1:].sum(), second["input"][1:].sum()) == (1, 0)
    for part in ("new.csv, line 3", "'a'", "'X'"):
        assert part in caplog.text


def test_a_file_with_another_spelling_of_the_classes_is_evaluated(
    tmp_path: Path, command: Command
) -> None:
    rows = [(k % 5, ["red", "grey"][k % 2], ["True", "False"][k % 2]) for k in range(120)]
    write_rows(tmp_path / "mine.csv", [HEADER, *rows])
    options = (*own_settings(tmp_path), "data.file=mine.csv", "trainer.epochs=1", *QUICK)
    assert command("train", "--config", CLASSES, "--run-dir", "run", *options) == 0
    write_rows(tmp_path / "new.csv", [HEADER, *([*row[:2], row[2].upper()] for row in rows)])
    accuracies = []
    for name, file in (("test", "mine.csv"), ("new test", "new.csv")):
        assert command("evaluate", "run", f"data.file={file}") == 0
        metrics = json.loads(Path(f"run/evaluation/{name}/metrics.json").read_text())
        accuracies.append(metrics["accuracy"])
    assert accuracies[0] == accuracies[1]


def test_identifiers_that_float64_cannot_distinguish_are_refused(
    things: Callable[..., BaseDataset],
) -> None:
    cells = ("12345678901234567890", "12345678901234567891")
    message = refused(things, repeated(*cells))
    for part in ("mine.csv", "'a'", *map(repr, cells), "data.kinds={a: category}"):
        assert part in message
    state = things(repeated("14.62", "14.620", "1462e-2", "")).state_dict()
    assert state["numbers"]["a"] == (14.62, 1.0, True)


def test_an_unknown_category_is_reported_at_the_evaluation(
    tmp_path: Path, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    write_rows(tmp_path / "mine.csv", [HEADER, *ROWS])
    options = (*own_settings(tmp_path), "data.file=mine.csv", "trainer.epochs=1", *QUICK)
    assert command("train", "--config", CLASSES, "--run-dir", "run", *options) == 0
    assert command("evaluate", "run") == 0
    assert "no training row" not in caplog.text
    write_rows(tmp_path / "new.csv", [HEADER, *((row[0], "GREY", row[2]) for row in ROWS)])
    assert command("evaluate", "run", "data.file=new.csv") == 0
    for part in ("new.csv, line", "'colour'", "'GREY'"):
        assert part in caplog.text
