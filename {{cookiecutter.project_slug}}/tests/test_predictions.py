"""What evaluate.py reports of single samples: predictions, calibration, confidence intervals."""
# ruff: noqa: D103  the names of the tests say what they test

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from conftest import Minimal
from test_disks import NO_LIMIT, limit_files
from torch import Tensor, nn

from base.base_dataset import Batch
from evaluation.report import make_report
from evaluation.results import print_results, save_results, tabulate_predictions
from logger.console import format_interval
from logger.figures import reliability_figure
from metrics.bootstrap import confidence_intervals
from metrics.calibration import calibrate, calibration_error
from metrics.classification import ClassificationMetrics, metrics_of_predictions, predictions_of
from metrics.protocol import scalar_results
from metrics.sample_values import SampleValues
from trainer.classifier import Classifier
from utils.errors import UserError

Command = Callable[..., int]
MakeTrainer = Callable[..., Any]
NAMES = ["a,b", 'say "yes"', "two\nlines", "cafe\u0301", "café", "배송", "\udcff"]


def read_rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def random_predictions(count: int, classes: int) -> dict[str, Tensor]:
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, classes, generator=rng)
    target = torch.randint(classes, (count,), generator=rng)
    losses = torch.rand(count, generator=rng)
    return predictions_of(losses, logits, target)


# predictions.csv


def test_predictions_agree_with_the_metrics_and_start_with_the_hardest(
    trained_run: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("evaluate", trained_run) == 0
    printed = capsys.readouterr().out
    folder = trained_run / "evaluation/test"
    rows = read_rows(folder / "predictions.csv")
    metrics = json.loads((folder / "metrics.json").read_text())
    assert list(rows[0]) == ["name", "true", "predicted", "probability", "loss"]
    assert {row["name"] for row in rows} == {f"sample {index}" for index in range(303)}
    losses = [float(row["loss"]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    assert np.mean(losses) == pytest.approx(metrics["loss"], rel=1e-4)
    correct = [row["true"] == row["predicted"] for row in rows]
    assert np.mean(correct) == pytest.approx(metrics["accuracy"], rel=1e-5)
    probability = torch.tensor([float(row["probability"]) for row in rows])
    error = calibration_error(probability, torch.tensor(correct).double())
    assert metrics["ece"] == pytest.approx(error.item(), rel=1e-4)
    assert (folder / "reliability.png").stat().st_size > 1000

    assert metrics["intervals"].keys() == {"loss", "accuracy", "f1", "ece"}
    for name in ("loss", "accuracy", "f1"):
        low, high = metrics["intervals"][name]
        assert low < metrics[name] < high
    low, high = metrics["intervals"]["accuracy"]
    (line,) = [line for line in printed.splitlines() if line.startswith("accuracy ")]
    assert line.split() == [
        "accuracy",
        f"{metrics['accuracy']:g}",
        *format_interval(low, high).split(),
    ]


@pytest.mark.parametrize("width", [25, 1000])
def test_tables_that_are_wider_than_the_terminal_are_only_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    monkeypatch.setattr("evaluation.results.output_width", lambda: width)
    tables = {"wide": [["header", "b" * 20], ["cell", "1"]], "narrow": [["name"], ["value"]]}
    summary: dict[str, Any] = {"data": "points", "samples": 3, "loss": 0.25, "accuracy": 1.0}
    summary["intervals"] = {"loss": (0.2, 0.3)}
    print_results(tmp_path, summary, tables)
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["data: points", "samples: 3"]
    assert (f"{tmp_path / 'wide'}.csv" in lines) == (width == 25)
    assert ("cell" in " ".join(lines)) == (width == 1000)
    assert lines.index("value") < lines.index("metric    value  95 % interval")
    assert lines[-5:-2] == [
        "-" * 30,
        "loss       0.25   0.20 to 0.30",
        "accuracy      1              -",
    ]


def test_results_that_cannot_be_written_leave_those_of_the_earlier_evaluation(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "evaluation/test"
    small = [["name"], ["a"]]
    large = [["name"], ["b" * 5000]]
    try:
        limit_files(2000)
        with pytest.raises(OSError, match="large") as raised:
            save_results(folder, {"samples": 1}, {"small": small, "large": large}, {})
        assert raised.value.filename == str(folder / "large.csv")
        assert not folder.parent.exists()
        save_results(folder, {"samples": 1}, {"small": small, "other": small}, {})
        files = {file.name: file.read_bytes() for file in folder.iterdir()}
        changed = {"small": [["name"], ["c"]], "large": large}
        with pytest.raises(OSError, match="large"):
            save_results(folder, {"samples": 2}, changed, {})
    finally:
        limit_files(NO_LIMIT)
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == files
    assert files.keys() == {"small.csv", "other.csv", "metrics.json"}


def test_names_of_samples_are_kept_whatever_they_contain(tmp_path: Path) -> None:
    losses = [0.5, math.nan, 2.0, 0.5, 1.0, 1e-9, math.inf]
    table = tabulate_predictions(NAMES, {"true": ["x,y"] * 7, "loss": losses})
    save_results(tmp_path, {}, {"predictions": table}, {})
    rows = read_rows(tmp_path / "predictions.csv")
    expected = [NAMES[index] for index in (1, 6, 2, 4, 0, 3, 5)]
    expected[1] = "\\udcff"  # UTF-8 does not have it
    assert [row["name"] for row in rows] == expected
    assert {row["true"] for row in rows} == {"x,y"}


class Segmenter(Minimal):
    """Records values of its own, and none that a classifier has."""

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        squares = model(batch["input"]).square()
        self.record_samples(overlap=squares.mean(1), sizes=batch["target"], parts=squares[:, :2])
        return {"loss": squares.mean(), "overlap": squares.mean()}


def test_a_trainer_can_record_any_values(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(kind=Segmenter)
    results = trainer.evaluate("validation")
    report = make_report(trainer, "validation", results)
    assert list(report.predictions) == ["overlap", "sizes", "parts_0", "parts_1"]
    assert report.predictions["sizes"] == trainer.loaders["validation"].dataset.targets.tolist()
    assert report.intervals.keys() == {"overlap"}
    low, high = report.intervals["overlap"]
    assert low < results["overlap"] < high
    header, *rows = tabulate_predictions(report.names, report.predictions)
    assert header[0] == "name"
    assert rows[0][0] == "sample 0"  # without a loss, in the order of the data set


def test_without_recorded_values_there_are_no_predictions_and_intervals(
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer(kind=Minimal)
    report = make_report(trainer, "validation", trainer.evaluate("validation"))
    assert list(report.metrics) == ["loss"]
    assert not report.predictions
    assert not report.intervals


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"score": torch.tensor(1.0)}, r"'score' of shape \(\)"),
        ({"score": 1.0}, r"'score' \(float\)"),
        ({"index": torch.zeros(50)}, "'index'"),
        ({"name": torch.zeros(50)}, "'name'"),
        ({"score": torch.zeros(50), "other": torch.zeros(49)}, r"\[49, 50\]"),
    ],
)
def test_values_that_are_not_those_of_samples_are_reported_before_training(
    make_trainer: MakeTrainer, values: dict[str, Any], problem: str
) -> None:
    trainer = make_trainer(kind=Minimal)
    with pytest.raises(UserError, match=problem) as raised:
        trainer.record_samples(**values)
    assert "Minimal.evaluation_step" in str(raised.value)


class Forgetful(Minimal):
    """Records the loss of a part of the samples only."""

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        losses = model(batch["input"]).square().mean(1)
        if len(losses) == 200:
            self.record_samples(loss=losses)
        else:
            self.record_samples(other=losses)
        return {"loss": losses.mean()}


def test_values_that_samples_lack_are_an_error(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(kind=Forgetful)
    trainer.evaluate("validation")
    with pytest.raises(UserError, match="'loss' for 200 of 210 samples"):
        trainer.samples("validation")


class Misreporting(Minimal):
    """Returns columns that are no columns of a table."""

    columns: ClassVar[dict[str, list[Any]]] = {}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        losses = model(batch["input"]).square().mean(1)
        self.record_samples(loss=losses)
        return {"loss": losses.mean()}

    def sample_columns(self, samples: Any) -> dict[str, list[Any]]:
        return self.columns


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"loss": [0.5] * 209}, "'loss' has 209 values for 210 samples"),
        ({"name": ["a"] * 210}, "'name'"),
        ({"loss": ["high"] * 210}, "'high'"),
    ],
)
def test_columns_that_do_not_fit_are_an_error_that_names_the_method(
    make_trainer: MakeTrainer, columns: dict[str, list[Any]], problem: str
) -> None:
    trainer = make_trainer(kind=Misreporting)
    trainer.columns = columns
    results = trainer.evaluate("validation")
    with pytest.raises(UserError, match=f"Misreporting.sample_columns fails: .*{problem}"):
        make_report(trainer, "validation", results)


def test_a_loss_of_whole_batches_is_not_that_of_samples(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.loss.per_sample = trainer.loss.mean
    report = make_report(trainer, "validation", trainer.evaluate("validation"))
    assert list(report.predictions) == ["true", "predicted", "probability"]
    assert report.intervals.keys() == {"accuracy", "f1", "ece"}
    assert math.isfinite(report.metrics["loss"])


# Confidence intervals


def test_intervals_agree_with_those_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    samples = random_predictions(400, 4)
    intervals = confidence_intervals(lambda drawn: metrics_of_predictions(drawn, 4), samples)
    correct = (samples["true"] == samples["predicted"]).double().numpy()
    for name, values in (("loss", samples["loss"].double().numpy()), ("accuracy", correct)):
        expected = stats.bootstrap(
            (values,), np.mean, n_resamples=5000, method="percentile", rng=0
        ).confidence_interval
        width = expected.high - expected.low
        assert intervals[name] == pytest.approx(expected, abs=0.1 * width)
    again = confidence_intervals(lambda drawn: metrics_of_predictions(drawn, 4), samples)
    assert again == intervals


def test_metrics_without_a_finite_value_in_each_draw_have_no_interval() -> None:
    values = {"value": torch.ones(3)}
    assert confidence_intervals(lambda drawn: {"r2": torch.tensor(math.nan)}, values) == {}
    same = {"correct": torch.ones(50)}
    assert confidence_intervals(lambda drawn: {"accuracy": drawn["correct"].mean()}, same) == {}
    one = {"value": torch.ones(1)}
    assert confidence_intervals(lambda drawn: {"mean": drawn["value"].mean()}, one) == {}


class Renamed(Classifier):
    """Computes something else under the name of a result."""

    def sample_metrics(self, samples: Any) -> dict[str, Tensor]:
        return {"accuracy": samples["probability"].mean(), "loss": samples["loss"].mean()}


def test_another_metric_of_the_same_name_gives_no_interval(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(kind=Renamed)
    report = make_report(trainer, "validation", trainer.evaluate("validation"))
    assert report.intervals.keys() == {"loss"}
    assert "Renamed.sample_metrics" in caplog.text


def test_metrics_of_samples_are_those_of_the_evaluation() -> None:
    samples = random_predictions(500, 6)
    metrics = ClassificationMetrics(7)  # one class has no samples
    logits = torch.eye(7)[samples["predicted"]]
    metrics.update(samples["loss"], logits, samples["true"])
    expected = scalar_results(metrics.compute())
    found = scalar_results(metrics_of_predictions(samples, 7))
    assert found.pop("ece") > 0
    assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.9271, 0.9371, "0.927 to 0.937"),
        (1.0, 1.0, "1 to 1"),
        (99000.0, 101000.0, "99000 to 101000"),
        (0.00012, 0.00018, "0.000120 to 0.000180"),
    ],
)
def test_an_interval_is_printed_with_two_digits_of_its_width(
    low: float, high: float, text: str
) -> None:
    assert format_interval(low, high) == text


# Calibration


def test_probabilities_at_the_limits_are_in_the_bins_below() -> None:
    probability = torch.tensor([0.0, 0.5, 0.75, 1.0])
    calibration = calibrate(probability, torch.tensor([1, 1, 0, 1]).double(), bins=2)
    assert calibration.counts.tolist() == [2, 2]
    assert calibration.confidence.tolist() == [0.25, 0.875]
    assert calibration.accuracy.tolist() == [1, 0.5]


def test_the_reliability_diagram_shows_each_bin_with_samples() -> None:
    probability = torch.tensor([0.55, 0.95, 0.9])
    calibration = calibrate(probability, torch.tensor([0.0, 1.0, 1.0]).double())
    figure: Any = reliability_figure(calibration, "two classes")
    upper, lower = figure.axes
    assert [bar.get_height() for bar in upper.patches] == calibration.accuracy.tolist()
    assert sum(bar.get_height() for bar in lower.patches) == 3
    points = upper.lines[1].get_xydata()
    assert np.asarray(points) == pytest.approx(np.array([[0.55, 0], [0.9, 1], [0.95, 1]]))


def test_values_of_samples_come_in_the_order_of_the_data_set() -> None:
    collected = SampleValues()
    assert collected.compute() == {}
    for indices in torch.tensor([[4, 1, 3], [0, 5, 2]]):
        collected.update(indices, {"double": 2 * indices})
    assert collected.compute()["double"].tolist() == [0, 2, 4, 6, 8, 10]
    collected.update(torch.tensor([6]), {"double": torch.tensor([12])})
    assert collected.compute()["index"].tolist() == list(range(7))
