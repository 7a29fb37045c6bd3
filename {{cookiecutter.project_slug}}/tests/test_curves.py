"""The figure of a run's curves: when it is drawn, and what it shows."""
# ruff: noqa: D103  the names of the tests say what they test

import math
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY_MODEL
from PIL import Image
from stopped_runs import assert_same_run, during_step, fail_with, send_signal

from logger.curves import BestValue, Series, curves_figure, order_panels, read_panels
from run_record import drawing_curves
from storage.run_result import read_result

Command = Callable[..., int]
HEADER = "data,split,epoch,step,metric,value\n"


def size_of_curves(run: Path) -> tuple[int, int]:
    with Image.open(run / "curves.png") as image:
        image.load()
        return image.size


def points(line: Any) -> np.ndarray:
    """Steps and values of a line, shape (N, 2)."""
    return np.asarray(line.get_xydata())


def test_a_run_draws_its_curves_at_its_end_and_again_when_it_is_resumed(
    tmp_path: Path, train: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        during_step(patch, 11, send_signal(signal.SIGTERM))
        assert train(run, *TINY_MODEL, "logger.curves=true", "logger.every_steps=5") == 143
    stopped = (run / "curves.png").read_bytes()
    stopped_size = size_of_curves(run)
    assert "validation" not in (run / "metrics.csv").read_text()
    assert command("train", "--resume", run) == 0
    assert (run / "curves.png").read_bytes() != stopped
    assert size_of_curves(run) > stopped_size  # there are metrics of validations


def test_a_run_that_fails_draws_its_curves(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    during_step(monkeypatch, 20, fail_with(ZeroDivisionError("division")))
    run = tmp_path / "run"
    with pytest.raises(ZeroDivisionError, match="division"):
        train(run, *TINY_MODEL, "logger.curves=true")
    assert size_of_curves(run)
    assert read_result(run)["state"] == "failed"


@pytest.mark.parametrize("setting", ["logger.curves=false", "logger.curves=true"])
def test_there_are_no_curves_without_the_setting_or_without_a_value(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    run = tmp_path / "run"
    if setting == "logger.curves=true":
        during_step(monkeypatch, 3, send_signal(signal.SIGTERM))
    assert train(run, *TINY_MODEL, "trainer.epochs=1", setting) in (0, 143)
    assert not (run / "curves.png").exists()
    assert "curves.png" not in (run / "train.log").read_text()


def test_curves_that_cannot_be_drawn_are_a_warning(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    during_step(monkeypatch, 3, (run / "curves.png").mkdir)
    assert train(run, *TINY_MODEL, "trainer.epochs=1", "logger.curves=true") == 0
    assert read_result(run)["state"] == "finished"
    lines = (run / "train.log").read_text().splitlines()
    (warning,) = [line for line in lines if "WARNING" in line]
    assert "curves.png was not drawn" in warning


@pytest.mark.parametrize("fails", [False, True])
def test_sigterm_is_ignored_only_while_an_error_is_yet_to_be_printed(
    make_trainer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    trainer = make_trainer(*TINY_MODEL, "logger.curves=true")
    monkeypatch.setattr("run_record.world_size", lambda: 2)
    previous = signal.getsignal(signal.SIGTERM)
    try:
        with suppress(ValueError), drawing_curves(trainer):
            if fails:
                raise ValueError
        assert (signal.getsignal(signal.SIGTERM) == signal.SIG_IGN) == fails
    finally:
        signal.signal(signal.SIGTERM, previous)


def test_an_error_while_drawing_does_not_hide_that_of_the_run(
    make_trainer: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(*TINY_MODEL, "logger.curves=true")
    with trainer.run_log.open(0):
        trainer.run_log.scalars("train", 1, 1, {"loss": 1.0})
    trainer.progress.best_step = 1
    trainer.settings = trainer.settings.model_copy(update={"checkpoint": None})
    with pytest.raises(ValueError, match="error of the run"), drawing_curves(trainer):
        raise ValueError("error of the run")
    assert "curves.png was not drawn" in caplog.text


def test_drawing_curves_changes_nothing_of_a_run(tmp_path: Path, train: Command) -> None:
    assert train(tmp_path / "with", *TINY_MODEL, "logger.curves=true") == 0
    assert train(tmp_path / "without", *TINY_MODEL) == 0
    allowed = ("/settings/logger/curves",)
    assert_same_run(tmp_path / "with", tmp_path / "without", allowed)


def test_panels_have_the_values_of_the_file_without_damaged_rows(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    rows = [
        "data,train,1,5,loss,2.5",
        "data,train,1,5,lr,0.1",
        "data,train,1,5,lr of head,0.01",
        "data,train,1,5,samples_per_second,100",
        "data,train,1,1",
        "data,train,1,x,loss,7",
        "data,validation,1,10,loss,nan",
        "\0\0data,train,1,10,loss,1.5",
        "data,train,1,15,lo",
    ]
    file.write_text(HEADER + "\n".join(rows))
    expected = {
        "loss": {"train": Series([5, 10], [2.5, 1.5]), "validation": Series([10], [math.nan])},
        "lr": {"lr": Series([5], [0.1]), "lr of head": Series([5], [0.01])},
    }
    assert repr(read_panels(file)) == repr(expected)  # NaN is not equal to itself


def test_the_loss_is_first_and_the_rate_and_the_gradient_are_last() -> None:
    series = Series([1], [1.0])
    names = ["a", "lr", "grad_norm", "loss", *map(str, range(20)), "monitored"]
    panels = {name: {"train": series} for name in names}
    panels["validated"] = {"validation": series}
    best = BestValue("monitored", "validation", 1, 1.0)
    ordered = order_panels(panels, best)
    assert ordered[:4] == ["loss", "monitored", "validated", "a"]
    assert ordered[-2:] == ["lr", "grad_norm"]
    assert len(ordered) == 12
    heading = curves_figure(panels, "data", 10, best).get_suptitle()
    assert "metrics.csv has 14 more metrics" in " ".join(heading.split())


def test_a_million_values_are_thinned_and_their_extremes_remain_visible() -> None:
    count = 1_000_000
    values = np.ones(count)
    values[123_456] = 40.0
    panels = {"grad_norm": {"train": Series(list(range(1, count + 1)), values.tolist())}}
    (axes,) = curves_figure(panels, "data", 10, None).axes
    (line,) = axes.lines
    assert len(points(line)) == 500
    assert points(line)[:, 1].max() == pytest.approx(1 + 39 / 2000)
    (band,) = axes.collections
    assert band.get_datalim(axes.transData).ymax == 40


def test_values_that_cannot_be_drawn_are_counted() -> None:
    values = [3.0, math.nan, 1.0, math.inf, 1e305]
    panels = {
        "loss": {
            "train": Series([1, 2, 3, 4, 5], values),
            "validation": Series([1, 5], [math.nan, math.nan]),
        }
    }
    (axes,) = curves_figure(panels, "data", 10, None).axes
    train_line, validation_line = axes.lines
    assert points(train_line).tolist() == [[1, 3], [3, 1]]
    assert train_line.get_label() == "train: 1e+305 (3 of 5 values not drawn)"
    assert validation_line.get_label() == "validation: nan (2 of 2 values not drawn)"
    assert axes.get_ylim()[1] < 4


def test_few_values_are_marked_and_the_best_one_is_named() -> None:
    panels = {"accuracy": {"validation": Series([100], [0.75])}}
    best = BestValue("accuracy", "validation", 100, 0.75)
    (axes,) = curves_figure(panels, "data", 10, best).axes
    line, ring = axes.lines
    assert line.get_marker() == "o"
    assert points(ring).tolist() == [[100, 0.75]]
    assert axes.get_legend() is not None
    assert [line.get_label(), ring.get_label()] == ["validation: 0.75", "best: 0.75 at step 100"]


@pytest.mark.parametrize(
    ("metric", "values", "scale"),
    [
        ("loss", [10.0, 0.1], "log"),
        ("loss", [10.0, 1.0], "linear"),
        ("loss", [10.0, -0.1], "linear"),
        ("loss", [10.0, 0.0], "linear"),
        ("lr", [10.0, 0.1], "linear"),
        ("accuracy", [0.01, 0.9], "linear"),
    ],
)
def test_axes_are_logarithmic_over_orders_of_magnitude(
    metric: str, values: list[float], scale: str
) -> None:
    (axes,) = curves_figure({metric: {"train": Series([1, 2], values)}}, "data", 10, None).axes
    assert axes.get_yscale() == scale
