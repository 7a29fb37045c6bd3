"""Regression: data, metrics, figures and trained curves."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import math
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT, needs
from exported import read_about, run_outside

from base.base_dataset import BaseDataset
from builders import (
    build_fitted_dataset,
    build_new_model,
    build_trainer,
    build_training_loaders,
    restore_trainer,
)
from config.loading import load_settings
from config.schema import LossSettings
from data_loader import points as points_module
from data_loader.example_points import EXAMPLES
from data_loader.points import Points
from data_loader.standardization import restore, standardize
from data_loader.tables import read_table, write_rows
from metrics.protocol import higher_is_better, scalar_results
from metrics.regression import RegressionMetrics
from model.curves import Polynomial
from trainer.regressor import restore_outputs
from utils.errors import UserError

Command = Callable[..., int]
LINE = ROOT / "config/regression.yaml"
SINE = ROOT / "config/sine.yaml"
QUICK = ("device=cpu", "logger.tensorboard=false")


def points(split: str, *changes: str) -> BaseDataset:
    return build_fitted_dataset(load_settings(LINE, changes), split)


@pytest.fixture(scope="module")
def line(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the default settings."""
    folder = tmp_path_factory.mktemp("line")
    changes = (f"data.root={folder / 'data'}", *QUICK)
    assert command("train", "--config", LINE, "--run-dir", folder / "run", *changes) == 0
    return folder / "run"


def model_of(run: Path) -> Any:
    return restore_trainer([run / "checkpoints/best.pt"], None, [])[0].model


def predicted_numbers(run: Path, *inputs: str) -> list[float]:
    """What predict.py prints for each input."""
    trainer, _ = restore_trainer([run / "checkpoints/best.pt"], None, [])
    samples = [trainer.dataset.read_inputs(text)[0][1] for text in inputs]
    answers = trainer.describe(trainer.predict(trainer.dataset.collate(samples)))
    return [number["value"] for (number,) in answers]


def test_the_example_files_are_reproducible(tmp_path: Path) -> None:
    for name, make in EXAMPLES.items():
        for folder in ("a", "b"):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            make(tmp_path / folder / name)
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        rows = read_table(tmp_path / "a" / name, ["x", "y"])
        x, y = (rows.cells(column).to_numpy(dtype=float) for column in "xy")
        expected = np.sin(x)
        if "line" in name:
            expected = 2 * x + 3
        assert np.std(y - expected) == pytest.approx(0.2, abs=0.02)


def test_training_finds_the_line(line: Path, command: Command, capsys: Any) -> None:
    model = model_of(line)
    offset, slope = model.powers()
    standard_error = 0.2 / 833**0.5  # noise, training points
    assert offset == pytest.approx(3, abs=standard_error)
    assert slope == pytest.approx(2, abs=standard_error / (10 / 12**0.5))  # x from -5 to 5
    values = predicted_numbers(line, "0", "2")
    assert values == pytest.approx([offset, offset + 2 * slope])
    capsys.readouterr()
    assert command("evaluate", line) == 0
    assert f"y = {offset:.6g} {slope:+.6g} x\n" in capsys.readouterr().out
    metrics = json.loads((line / "evaluation/test/metrics.json").read_text())
    assert metrics["samples"] == 200
    assert metrics["mse"] == pytest.approx(0.04, abs=0.01)  # of noise with deviation 0.2
    for name in ("predicted.png", "curve.png"):
        assert (line / "evaluation/test" / name).stat().st_size > 5000


@pytest.mark.parametrize("part", ["trainer.fraction=0.1", "trainer.overfit=1"])
def test_the_curve_of_a_part_of_the_data_pairs_each_input_with_its_prediction(
    tmp_path: Path, part: str
) -> None:
    settings = load_settings(LINE, [f"data.root={tmp_path}", *QUICK, part])
    loaders = build_training_loaders(settings)
    model = build_new_model(settings, loaders["train"].dataset)
    trainer: Any = build_trainer(settings, model, loaders, tmp_path)
    figures = trainer.figures("validation", trainer.evaluate("validation"))
    evaluated = loaders["validation"].sample_count
    dataset: Any = loaders["validation"].dataset
    assert evaluated < len(dataset)
    (axes,) = figures["curve"].axes
    points_of_figure = np.asarray(axes.collections[0].get_offsets())
    assert len(points_of_figure) == evaluated
    points_of_data = dataset.points.numpy()
    for point in points_of_figure:
        assert np.abs(points_of_data - point).max(1).min() < 1e-5
    (curve,) = axes.lines
    offset, slope = trainer.model.powers()
    x, y = np.asarray(curve.get_xydata()).T
    assert y == pytest.approx(offset + slope * x, rel=1e-4)


FULL_BATCH = ("data.batch_size=1000", "trainer.epochs=300", "optimizer.lr=5e-2")


@needs(SINE)
@pytest.mark.parametrize("batches", [(), FULL_BATCH])
def test_the_trained_polynomial_is_the_least_squares_fit(
    tmp_path: Path, command: Command, batches: tuple[str, ...]
) -> None:
    changes = (f"data.root={tmp_path}", *QUICK, *batches)
    assert command("train", "--config", SINE, "--run-dir", "run", *changes) == 0
    train: Any = build_fitted_dataset(load_settings(SINE, changes), "train")
    x, y = train.points.T.numpy()
    model: Any = restore_trainer([tmp_path / "run/checkpoints/last.pt"], None, [])[0].model
    assert model.count_parameters() == 4
    assert model.powers() == pytest.approx(np.polyfit(x, y, 3)[::-1].tolist(), abs=1e-3)
    found = restore(model(train.x).detach(), train.target_standardization)[:, 0].numpy()
    assert found == pytest.approx(np.polyval(model.powers()[::-1], x), abs=1e-5)


def test_a_polynomial_is_a_sum_of_powers() -> None:
    class Unscaled:
        x_mean_and_std = (0.0, 1.0)
        target_standardization = ((0.0, 1.0),)

    model = Polynomial(Unscaled(), degree=2)  # type: ignore[arg-type]
    model.coefficients.data = torch.tensor([1.0, -2.0, 0.5])
    assert model(torch.tensor([[0.0], [2.0], [-4.0]]))[:, 0].tolist() == [1.0, -1.0, 17.0]


@pytest.mark.parametrize("config", [LINE, pytest.param(SINE, marks=needs(SINE))])
def test_the_settings_suit_data_in_any_units(
    tmp_path: Path, command: Command, config: Path
) -> None:
    x = torch.rand(300, generator=torch.Generator().manual_seed(0)) * 8000 + 1000
    pairs = zip(x.tolist(), (1e5 + 0.03 * x).tolist(), strict=True)
    write_rows(tmp_path / "mine.csv", [("x", "y"), *pairs])
    own = (f"data.root={tmp_path}", "data.file=mine.csv", "trainer.epochs=60", *QUICK)
    assert command("train", "--config", config, "--run-dir", "run", *own) == 0
    assert command("evaluate", "run") == 0
    assert json.loads(Path("run/evaluation/test/metrics.json").read_text())["r2"] > 0.99


def test_metrics_cover_all_samples() -> None:
    metrics = RegressionMetrics()
    true = torch.randn(50, 1) + 1000
    predicted = torch.randn(50, 1) + 1000
    for part in (slice(0, 32), slice(32, 50)):
        metrics.update(predicted[part], true[part])
    found = metrics.compute()
    errors = (predicted - true).double()
    assert found["mse"].item() == pytest.approx(errors.square().mean().item(), rel=1e-4)
    assert found["mae"].item() == pytest.approx(errors.abs().mean().item(), rel=1e-4)
    r2 = 1 - (errors.square().mean() / true.double().var(correction=0)).item()
    assert found["r2"].item() == pytest.approx(r2, rel=1e-3)
    assert torch.equal(found["true"], true.double())
    assert torch.equal(found["predicted"], predicted.double())
    metrics.reset()
    metrics.update(true, true)
    assert metrics.compute()["mse"] == 0


@pytest.mark.parametrize("count", [1, 50])
@pytest.mark.parametrize("value", [1.0, 0.1])  # the mean of many times 0.1 is another number
def test_r2_is_undefined_for_constant_targets(count: int, value: float) -> None:
    metrics = RegressionMetrics()
    metrics.update(torch.randn(count, 1), torch.full((count, 1), value))
    found = metrics.compute()
    assert found["r2"].isnan()
    assert found["mse"] > 0


@pytest.mark.parametrize("offset", [0.0, -3.5, 1e6])
@pytest.mark.parametrize("units", [(1.0, 1e3), (1e-30, 1e30), (7e29, 0.2), (1e-9, 1e-12)])
def test_r2_does_not_depend_on_offset_and_units(offset: float, units: tuple[float, ...]) -> None:
    true = torch.randn(50, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    predicted = true + 0.1 * true.flip(0)
    expected = RegressionMetrics()
    expected.update(predicted, true)
    in_units = RegressionMetrics()
    scale = torch.tensor(units, dtype=torch.float64)
    in_units.update(scale * (predicted + offset), scale * (true + offset))
    standardized = RegressionMetrics([(offset, unit) for unit in units])
    standardized.update(predicted, true)
    r2 = expected.compute()["r2"].item()
    assert 0.5 < r2 < 0.999
    for metrics in (in_units, standardized):
        assert metrics.compute()["r2"].item() == pytest.approx(r2, abs=1e-8)


def test_metrics_of_standardized_numbers_are_in_the_units_of_the_data() -> None:
    metrics = RegressionMetrics([(1.7e9, 0.2), (-3.0, 1e30)])
    true = torch.tensor([[0.0, 1.0], [1.0, -1.0]])
    metrics.update(true + 0.5, true)
    found = metrics.compute()
    assert found["mse"].item() == pytest.approx((0.1**2 + 0.5e30**2) / 2)
    assert found["mae"].item() == pytest.approx((0.1 + 0.5e30) / 2)
    assert found["true"][:, 0].tolist() == pytest.approx([1.7e9, 1.7e9 + 0.2], abs=1e-6)
    assert found["predicted"][:, 0].tolist() == pytest.approx([1.7e9 + 0.1, 1.7e9 + 0.3], abs=1e-6)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("mse", [12.0, 103.0]),
        ("quantile", [12.0, 103.0, 16.0, 106.0]),
        ("gaussian", [12.0, 103.0, 3 + 2 * math.log(2), 2 + 2 * math.log(3)]),
        ("HuberLoss", [12.0, 103.0, 3.0, 2.0]),
    ],
)
def test_outputs_of_a_loss_are_restored_to_the_units_of_the_data(
    loss: str, expected: list[float]
) -> None:
    outputs = torch.tensor([[1.0, 1.0, 3.0, 2.0]])[:, : len(expected)]
    units = [(10.0, 2.0), (100.0, 3.0)]
    found = restore_outputs(outputs, units, LossSettings(name=loss))
    assert found.dtype == torch.float64
    assert found[0].tolist() == pytest.approx(expected)


def test_metrics_of_integers_are_exact() -> None:
    metrics = RegressionMetrics()
    true = torch.tensor([[2**30], [2**30 + 1], [2**30 + 3]])  # float32 has steps of 128
    metrics.update(true + 1, true)
    found = metrics.compute()
    assert found["mse"] == 1
    assert found["mae"] == 1
    assert found["r2"].item() == pytest.approx(1 - 3 / (14 / 3))


SMALL = [((37 * k % 101) / 10, (53 * k % 97) / 10) for k in range(90)]


@pytest.mark.parametrize(
    ("offset", "unit"),
    [("1.7e9", "0.02"), ("1e15", "1000"), ("0", "1e30"), ("0", "1e-30"), ("1", "1e-9")],
)
def test_points_do_not_depend_on_offset_and_unit(tmp_path: Path, offset: str, unit: str) -> None:
    def in_other_units(number: float) -> str:
        return str(Decimal(offset) + Decimal(unit) * Decimal(str(number)))

    write_rows(tmp_path / "small.csv", [("x", "y"), *SMALL])
    others = [(in_other_units(x), in_other_units(y)) for x, y in SMALL]
    write_rows(tmp_path / "other.csv", [("x", "y"), *others])
    root = f"data.root={tmp_path}"
    small: Any = points("train", root, "data.file=small.csv")
    other: Any = points("train", root, "data.file=other.csv")
    assert other.y.dtype == torch.float32
    assert other.y.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert torch.allclose(other.x, small.x, atol=1e-4)
    assert torch.allclose(other.y, small.y, atol=1e-4)
    ((mean, std),) = other.target_standardization
    restored = restore(other.y, [(mean, std)])
    assert (restored - other.points[:, 1:]).abs().max() < 1e-5 * std


@pytest.mark.parametrize(
    "cells",
    [
        [10**17 + k for k in range(60)],
        [f"1.{k:020}" for k in range(60)],
        [f"{k}e-60" for k in range(60)],
        ["0.1"] * 60,
    ],
)
@pytest.mark.parametrize("column", ["x", "y"])
def test_values_that_float64_cannot_distinguish_are_an_error(
    tmp_path: Path, cells: list[object], column: str
) -> None:
    rows = [(cell, k) if column == "x" else (k, cell) for k, cell in enumerate(cells)]
    write_rows(tmp_path / "mine.csv", [("x", "y"), *rows])
    with pytest.raises(UserError) as error:
        points("train", f"data.root={tmp_path}", "data.file=mine.csv")
    for part in (f"column '{column}'", "float64", "offset"):
        assert part in str(error.value)


def test_a_number_far_from_the_training_points_is_an_error(
    line: Path, command: Command, capsys: Any
) -> None:
    capsys.readouterr()
    assert command("predict", line, "1e30", "1") == 2
    printed = capsys.readouterr()
    for part in ("'x'", "1e+30", "standard deviations"):
        assert part in printed.err
    assert any(line.split()[:1] == ["1"] for line in printed.out.splitlines())


def test_timestamps_are_learned_predicted_and_exported(
    tmp_path: Path, command: Command, capsys: Any
) -> None:
    start = 1_700_000_000
    pairs = [(start + x, f"{start + 2 * x + 3:.1f}") for x, _ in SMALL]
    write_rows(tmp_path / "times.csv", [("x", "y"), *pairs])
    full_batch = ("data.batch_size=90", "trainer.epochs=150", "trainer.validate_every_epochs=50")
    constant = "scheduler={name: constant}"
    changes = (f"data.root={tmp_path}", "data.file=times.csv", *full_batch, constant, *QUICK)
    assert command("train", "--config", LINE, "--run-dir", "run", *changes) == 0
    capsys.readouterr()
    assert command("evaluate", "run") == 0
    (formula,) = (row for row in capsys.readouterr().out.splitlines() if row.startswith("y = "))
    constant, slope, shifted = formula.removeprefix("y = ").split(" ", 2)
    origin = int(shifted.removeprefix("(x -").removesuffix(")"))
    assert float(slope) == pytest.approx(2, abs=0.01)
    assert float(constant) == pytest.approx(start + 2 * (origin - start) + 3, abs=0.05)
    metrics = json.loads(Path("run/evaluation/test/metrics.json").read_text())
    assert metrics["r2"] > 0.99
    assert 0 < metrics["mae"] < 0.3

    assert command("predict", "run", str(start + 2), "--json") == 0
    (entry,) = json.loads(capsys.readouterr().out)["inputs"]
    assert entry["input"] == str(start + 2)
    value = entry["predictions"][0]["value"]
    assert value == pytest.approx(start + 7, abs=0.3)
    assert command("export", "run") == 0
    about = read_about(Path("run"))
    assert about["outputs"][0]["dtype"] == "float64"
    rules = about["preparation"]
    array = (np.array([[start + 2.0]]) - rules["mean"]) / rules["std"]
    outputs = run_outside(
        Path("run/export/model.pt2"), array.astype(rules["dtype"]), tmp_path / "outside"
    )
    assert outputs.item() == pytest.approx(value, abs=1e-5)


class RawPoints(Points):
    """Points whose targets are in the units of the file, as in a data set of one's own."""

    fitted: Sequence[str] = ("x_mean_and_std",)
    dtype = torch.float32
    columns = 1

    def fit(self) -> None:
        self.x_mean_and_std = (5.0, 3.0)

    def load_state_dict(self, state: Any) -> None:
        BaseDataset.load_state_dict(self, state)
        self.x = standardize(self.points[:, :1], self.x_mean_and_std, "x")
        self.y = self.points[:, 1:].to(self.dtype).repeat(1, self.columns)


def train_raw(
    folder: Path, command: Command, monkeypatch: Any, scale: float, offset: float, *changes: str
) -> int:
    """The exit code of train.py for raw targets with a standard deviation of about `scale`."""
    monkeypatch.setattr(points_module, "RawPoints", RawPoints, raising=False)
    pairs = [(x, repr(offset + scale * (x + y / 10 - 5) / 3)) for x, y in SMALL]
    write_rows(folder / "raw.csv", [("x", "y"), *pairs])
    own = (f"data.root={folder}", "data.file=raw.csv", "data.name=points.RawPoints", *QUICK)
    model = ("model={name: networks.MLP, width: 16}", "optimizer={name: Adam, lr: 1e-2}")
    classes = f"model.classes={RawPoints.columns}"
    options = (*own, *model, classes, *changes)
    return command("train", "--config", LINE, "--run-dir", "run", *options)


@pytest.mark.parametrize(
    ("dtype", "scale", "offset"),
    [
        (torch.float32, 40.0, 1.7e9),
        (torch.float64, 40.0, 1.7e9),
        (torch.int64, 40.0, 1.7e9),
        (torch.float64, 1e-6, 1.0),
        (torch.float32, 1e30, 0.0),
        (torch.float64, 1e-30, 0.0),
    ],
)
def test_targets_that_float32_cannot_distinguish_or_square_are_an_error(
    tmp_path: Path,
    command: Command,
    monkeypatch: Any,
    capsys: Any,
    dtype: torch.dtype,
    scale: float,
    offset: float,
) -> None:
    monkeypatch.setattr(RawPoints, "dtype", dtype)
    assert train_raw(tmp_path, command, monkeypatch, scale, offset) == 2
    message = capsys.readouterr().err
    for part in ("raw", "target 0", "float32", "data_loader/standardization.py"):
        assert part in message
    assert not Path("run/checkpoints/best.pt").exists()


@pytest.mark.parametrize("columns", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_targets_of_any_dtype_are_used_as_they_are(
    tmp_path: Path, command: Command, monkeypatch: Any, dtype: torch.dtype, columns: int
) -> None:
    monkeypatch.setattr(RawPoints, "dtype", dtype)
    monkeypatch.setattr(RawPoints, "columns", columns)
    assert train_raw(tmp_path, command, monkeypatch, 30.0, 7.0, "trainer.max_steps=4") == 0
    trainer, _ = restore_trainer([Path("run/checkpoints/last.pt")], "test", [])
    results = trainer.evaluate("test")
    dataset: Any = trainer.dataset
    assert torch.equal(results["true"], dataset.y.double())
    outputs = trainer.predict({"input": dataset.x}).double()
    error = outputs - dataset.y
    assert results["mse"].item() == pytest.approx(error.square().mean().item(), rel=1e-6)
    assert results["loss"].item() == pytest.approx(results["mse"].item(), rel=1e-5)
    explained = 1 - error.square().mean(0) / dataset.y.double().var(0, correction=0)
    assert results["r2"].item() == pytest.approx(explained.mean().item(), rel=1e-6)


def test_regression_metrics_state_a_direction_for_each_scalar() -> None:
    metrics = RegressionMetrics()
    metrics.update(torch.randn(50, 1), torch.randn(50, 1))
    scalars = scalar_results(metrics.compute())
    directions = {name: higher_is_better(metrics, name) for name in scalars}
    assert directions == {"mse": False, "mae": False, "r2": True}


def test_predict_takes_numbers_and_files(
    line: Path, tmp_path: Path, command: Command, capsys: Any
) -> None:
    (tmp_path / "x.csv").write_text("name,x\na,1.5\nb,-2\n")
    (tmp_path / "y.csv").write_text("y\n1\n")
    assert command("predict", line, "0.25", "x.csv", "--json") == 0
    entries = json.loads(capsys.readouterr().out)["inputs"]
    assert [entry["input"] for entry in entries] == ["0.25", "1.5", "-2"]
    offset, slope = model_of(line).powers()
    for entry, x in zip(entries, (0.25, 1.5, -2.0), strict=True):
        assert entry["predictions"][0]["value"] == pytest.approx(offset + slope * x, abs=1e-5)
    assert command("predict", line, "one", "y.csv", "inf", "1") == 2
    printed = capsys.readouterr()
    errors = printed.err.splitlines()
    for parts in (("'one'",), ("y.csv", "'x'"), ("'inf'",)):
        assert any(all(part in line for part in parts) for line in errors), parts
    assert any(line.split()[:1] == ["1"] for line in printed.out.splitlines())


def test_a_cell_that_is_not_a_number_is_reported_with_its_position(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("a,b\n" + "1,2\n" * 30 + "3,four\n")
    changes = (f"data.root={tmp_path}", "data.file=mine.csv", "data.x=a", "data.y=b")
    with pytest.raises(UserError) as error:
        points("train", *changes)
    for part in ("mine.csv, line 32,", "'b'", "'four'"):
        assert part in str(error.value)


def test_results_for_another_file_do_not_replace_those_of_the_run(
    line: Path, tmp_path: Path, command: Command, capsys: Any
) -> None:
    assert command("evaluate", line) == 0
    own = (line / "evaluation/test/metrics.json").read_bytes()
    pairs = [(k / 10, 1e-3 * (2 * k / 10 + 3)) for k in range(60)]
    write_rows(tmp_path / "other.csv", [("time s", "length"), *pairs])
    changes = (f"data.root={tmp_path}", "data.file=other.csv", "data.x=time s", "data.y=length")
    assert command("evaluate", line, *changes) == 0
    assert "length = 3.0" in capsys.readouterr().out
    assert (line / "evaluation/test/metrics.json").read_bytes() == own
    other = json.loads((line / "evaluation/other test/metrics.json").read_text())
    assert (other["data"], other["samples"]) == ("other", 10)
    assert command("train", "--config", LINE, *changes, "trainer.epochs=3", *QUICK) == 0
    (run,) = Path("runs/regression").iterdir()
    assert command("evaluate", run) == 0
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert 0 < metrics["mse"] < 1e-4  # small values are not rounded to zero


def test_settings_for_classes_are_an_error_in_regression(
    tmp_path: Path, command: Command, capsys: Any
) -> None:
    changes = (f"data.root={tmp_path}", "loss.balanced=true", *QUICK)
    assert command("train", "--config", LINE, *changes) == 2
    message = capsys.readouterr().err
    assert "loss.name = 'mse'" in message
    assert "class weights" in message


def test_a_model_with_another_number_of_outputs_is_an_error(
    tmp_path: Path, command: Command, capsys: Any
) -> None:
    changes = (f"data.root={tmp_path}", "model.name=networks.MLP", "model.classes=2", *QUICK)
    assert command("train", "--config", LINE, *changes) == 2
    message = capsys.readouterr().err
    for part in ("model", "(2,)", "(1,)"):
        assert part in message


@pytest.mark.parametrize(
    ("loss", "outputs"), [("gaussian", 2), ("quantile", 3), ("huber", 1), ("L1Loss", 1)]
)
def test_a_regressor_learns_with_any_loss(
    tmp_path: Path, command: Command, logged: Callable[..., list[float]], loss: str, outputs: int
) -> None:
    run = tmp_path / "run"
    changes = ["model={name: networks.MLP, width: 32}", f"model.classes={outputs}"]
    changes += [f"data.root={tmp_path}", "device=cpu", "logger.tensorboard=false"]
    changes += ["optimizer={name: Adam, lr: 3e-3}", f"loss.name={loss}", "data.batch_size=50"]
    assert command("train", "--config", LINE, "--run-dir", run, *changes) == 0
    assert logged(run, "validation", "r2")[-1] > 0.9
    assert command("evaluate", run) == 0


def test_a_metric_of_constant_targets_is_null_in_metrics_json(
    line: Path, tmp_path: Path, command: Command
) -> None:
    write_rows(tmp_path / "same.csv", [("time s", "length"), *((k / 10, 5) for k in range(60))])
    changes = (f"data.root={tmp_path}", "data.file=same.csv", "data.x=time s", "data.y=length")
    assert command("evaluate", line, *changes) == 0
    text = (line / "evaluation/same test/metrics.json").read_text()
    assert "NaN" not in text
    metrics = json.loads(text)
    assert metrics["r2"] is None
    assert metrics["mse"] > 0
