"""Regression: data, metrics, figures and trained curves."""
# ruff: noqa: D103  the names of the tests say what they test

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from exported import read_about, run_outside

from base.base_dataset import BaseDataset
from builders import build_fitted_dataset, restore_trainer
from config.loading import load_settings
from data_loader.example_points import EXAMPLES
from data_loader.tables import read_table, write_rows
from metrics.protocol import higher_is_better, scalar_results
from metrics.regression import RegressionMetrics
from model.curves import Polynomial
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
    values = model(torch.tensor([[0.0], [2.0]]))[:, 0].tolist()
    assert values == pytest.approx([offset, offset + 2 * slope])
    capsys.readouterr()
    assert command("evaluate", line) == 0
    assert f"y = {offset:.6g} {slope:+.6g} x\n" in capsys.readouterr().out
    metrics = json.loads((line / "evaluation/test/metrics.json").read_text())
    assert metrics["samples"] == 200
    assert metrics["mse"] == pytest.approx(0.04, abs=0.01)  # of noise with deviation 0.2
    for name in ("predicted.png", "curve.png"):
        assert (line / "evaluation/test" / name).stat().st_size > 5000


FULL_BATCH = ("data.batch_size=1000", "trainer.epochs=300", "optimizer.lr=5e-2")


@pytest.mark.parametrize("batches", [(), FULL_BATCH])
def test_the_trained_polynomial_is_the_least_squares_fit(
    tmp_path: Path, command: Command, batches: tuple[str, ...]
) -> None:
    changes = (f"data.root={tmp_path}", *QUICK, *batches)
    assert command("train", "--config", SINE, "--run-dir", "run", *changes) == 0
    train = build_fitted_dataset(load_settings(SINE, changes), "train")
    batch = train.__getitems__(torch.arange(len(train)))
    x, y = (batch[name][:, 0].double().numpy() for name in ("input", "target"))
    model: Any = restore_trainer([tmp_path / "run/checkpoints/last.pt"], None, [])[0].model
    assert model.count_parameters() == 4
    assert model.powers() == pytest.approx(np.polyfit(x, y, 3)[::-1].tolist(), abs=1e-3)
    found = model(batch["input"])[:, 0].detach().numpy()
    assert found == pytest.approx(np.polyval(model.powers()[::-1], x), abs=1e-5)


def test_a_polynomial_is_a_sum_of_powers() -> None:
    class Unscaled:
        x_mean_and_std = target_mean_and_std = (0.0, 1.0)

    model = Polynomial(Unscaled(), degree=2)  # type: ignore[arg-type]
    model.coefficients.data = torch.tensor([1.0, -2.0, 0.5])
    assert model(torch.tensor([[0.0], [2.0], [-4.0]]))[:, 0].tolist() == [1.0, -1.0, 17.0]


@pytest.mark.parametrize("config", [LINE, SINE])
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
    assert torch.equal(found["true"], true)
    assert torch.equal(found["predicted"], predicted)
    metrics.reset()
    metrics.update(true, true)
    assert metrics.compute()["mse"] == 0


def test_r2_is_zero_for_constant_targets() -> None:
    metrics = RegressionMetrics()
    metrics.update(torch.randn(50, 1), torch.ones(50, 1))
    assert metrics.compute()["r2"] == 0


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
    model = model_of(line)
    for entry, x in zip(entries, (0.25, 1.5, -2.0), strict=True):
        assert entry["predictions"][0]["value"] == pytest.approx(model(torch.tensor([[x]])).item())
    assert command("predict", line, "one", "y.csv", "inf", "1") == 2
    printed = capsys.readouterr()
    errors = printed.err.splitlines()
    for parts in (("'one'",), ("y.csv", "'x'"), ("'inf'",)):
        assert any(all(part in line for part in parts) for line in errors), parts
    assert printed.out.splitlines()[-1].split()[0] == "1"


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


def test_an_exported_line_takes_numbers_as_they_are(
    line: Path, tmp_path: Path, command: Command, capsys: Any
) -> None:
    assert command("export", line) == 0
    rules = read_about(line)["preparation"]
    assert rules["columns"] == ["x"]
    array = np.array([[0.5], [-3.0]], rules["dtype"])
    outputs = run_outside(line / "export/model.pt2", array, tmp_path / "outside")
    capsys.readouterr()
    assert command("predict", line, "--json", "--", "0.5", "-3") == 0
    for entry, output in zip(json.loads(capsys.readouterr().out)["inputs"], outputs, strict=True):
        assert entry["predictions"] == [{"value": pytest.approx(output.item(), abs=1e-4)}]


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
