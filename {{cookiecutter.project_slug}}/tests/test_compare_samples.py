"""Comparisons of two runs sample by sample."""
# ruff: noqa: D103  the names of the tests say what they test

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from run_folders import write_evaluation, write_run

from experiments.runs import Evaluation, read_run
from experiments.samples import SampleComparison, compare_samples

NUMBERS = [1.0, -2.5, 3.25, 0.0]


def write_predictions(
    run: Path, true: Sequence[Sequence[float]], losses: Sequence[float], **metrics: object
) -> None:
    """Writes the evaluation of a regression with one or several targets."""
    folder = run / "evaluation/test"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"fingerprint": "cc", **metrics}))
    suffixes = [""]
    if len(true[0]) > 1:
        suffixes = [f"_{number}" for number in range(len(true[0]))]
    header = [f"{name}{suffix}" for name in ("true", "predicted") for suffix in suffixes]
    with (folder / "predictions.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", *header, "loss"])
        for index, (numbers, loss) in enumerate(zip(true, losses, strict=True)):
            cells = [f"{number:.6g}" for number in numbers]
            writer.writerow([f"row {index}", *cells, *cells, loss])


def compare(folder: Path) -> SampleComparison:
    (samples,) = compare_samples(read_run(folder / "a"), read_run(folder / "b"))
    return samples


def test_numbers_that_another_machine_has_rounded_differently_are_equal(tmp_path: Path) -> None:
    write_predictions(write_run(tmp_path / "a"), [[x] for x in NUMBERS], [1, 1, 1, 1])
    rounded = [[x + 1e-5] for x in NUMBERS]
    write_predictions(write_run(tmp_path / "b"), rounded, [2, 2, 2, 1])
    samples = compare(tmp_path)
    assert samples.problem == ""
    assert len(samples.only_first) == 3
    assert samples.p_value == pytest.approx(0.25)  # 2 / 2 ** 3


@pytest.mark.parametrize("other", [1.001, float("nan"), float("inf")])
def test_other_numbers_are_a_difference(tmp_path: Path, other: float) -> None:
    infinite = [float("inf")]  # which is equal in both, and must not make the others equal
    write_predictions(write_run(tmp_path / "a"), [[1.0], infinite], [1, 1])
    write_predictions(write_run(tmp_path / "b"), [[other], infinite], [1, 1])
    assert "row 0" in compare(tmp_path).problem


def test_several_targets_are_compared(tmp_path: Path) -> None:
    write_predictions(write_run(tmp_path / "a"), [[1.0, 2.0], [3.0, 4.0]], [1, 2])
    write_predictions(write_run(tmp_path / "b"), [[1.0, 2.0], [3.0, 4.0]], [2, 1])
    samples = compare(tmp_path)
    assert samples.only_first == ["row 0"]
    assert samples.only_second == ["row 1"]
    write_predictions(write_run(tmp_path / "other/a"), [[1.0, 2.0]], [1])
    write_predictions(write_run(tmp_path / "other/b"), [[1.0, 2.5]], [1])
    assert "row 0" in compare(tmp_path / "other").problem


def test_samples_that_are_scaled_in_another_way_are_compared(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The seed decides on the training samples, and they on the statistics that scale inputs."""
    write_predictions(write_run(tmp_path / "a"), [[1.0], [2.0]], [1, 1])
    write_predictions(write_run(tmp_path / "b"), [[1.0], [2.0]], [2, 2], fingerprint="dd")
    assert command("compare", "a", "b") == 0
    output = capsys.readouterr().out
    assert "sign test" in output
    assert "inputs differ" in output


def test_classes_are_not_compared_with_numbers(tmp_path: Path) -> None:
    first = write_run(tmp_path / "a")
    write_evaluation(first, predicted=["1"], true=["1"])
    file = first / "evaluation/test/predictions.csv"
    file.write_text(file.read_text().replace("sample 0", "row 0"))
    write_predictions(write_run(tmp_path / "b"), [[1.0]], [1])
    assert "classes" in compare(tmp_path).problem


@pytest.mark.parametrize("kept", [0.0, 0.2, 0.5, 0.9, 0.998])
def test_predictions_that_are_cut_off_are_reported(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str], kept: float
) -> None:
    true = ["cat", "dog"] * 20
    for name in ("a", "b"):
        write_evaluation(write_run(tmp_path / name), predicted=true, true=true)
    file = tmp_path / "b/evaluation/test/predictions.csv"
    content = file.read_bytes()
    file.write_bytes(content[: int(kept * len(content))])
    assert command("compare", "a", "b") == 0
    output = capsys.readouterr().out
    assert "McNemar" not in output
    assert "sample by sample" in output


@pytest.mark.parametrize("column", ["name", "true", "predicted", "loss"])
def test_a_column_that_is_missing_is_named(tmp_path: Path, column: str) -> None:
    for name in ("a", "b"):
        write_evaluation(write_run(tmp_path / name), predicted=["cat"], true=["cat"])
    file = tmp_path / "b/evaluation/test/predictions.csv"
    file.write_text(file.read_text().replace(f"{column}", f"{column}_x", 1))
    assert f"no column {column};" in compare(tmp_path).problem


def test_evaluations_that_are_cut_off_are_reported(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    write_evaluation(run, predicted=["cat"], true=["cat"])
    file = run / "evaluation/test/metrics.json"
    assert isinstance(read_run(run).evaluations["test"], Evaluation)
    file.write_bytes(file.read_bytes()[:20])
    found = read_run(run)
    assert not found.evaluations
    (problem,) = found.evaluation_problems
    assert "evaluation/test/metrics.json" in problem
    assert found.is_complete  # the validation decides, which this file does not concern


def test_values_that_differ_in_late_digits_are_shown_in_full(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", accuracy=0.912345, name="x" * 200 + "1")
    write_run(tmp_path / "b", accuracy=0.912346, name="x" * 200 + "2")
    assert command("compare", "a", "b") == 0
    lines = capsys.readouterr().out.splitlines()
    (name,) = [line for line in lines if line.startswith("name ")]
    (accuracy,) = [line for line in lines if line.startswith("validation: accuracy ")]
    for line in (name, accuracy):
        first, second = line.split()[-2:]
        assert first != second


def test_of_two_equal_runs_the_newer_one_counts(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    for day, name in ((1, "old"), (2, "new")):
        write_run(tmp_path / name, manifest={"started": f"2026-11-0{day}T10:00:00+00:00"})
    for arguments in (("old", "new"), ("new", "old")):
        assert command("compare", *arguments) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].split() == list(arguments)
        (warning,) = [line for line in lines if line.startswith("warning")]
        assert warning.endswith(": old")


def test_a_tag_that_one_of_two_runs_has_leaves_a_single_run(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "a", manifest={"tags": ["wide"]}, width=64)
    write_run(tmp_path / "b")
    assert command("compare", "a", "b", "--tag", "wide") == 0
    assert capsys.readouterr().out.startswith("1 run;")
    for number in (1, 2):
        write_run(tmp_path / f"more/{number}", manifest={"tags": ["wide"]}, width=number)
    assert command("compare", "b", "more", "--tag", "wide") == 0
    assert capsys.readouterr().out.startswith("2 runs")
