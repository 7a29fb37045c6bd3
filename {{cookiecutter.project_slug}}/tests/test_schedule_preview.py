"""preview.py --schedule: the learning rates of a run, without training."""
# ruff: noqa: D103  the names of the tests say what they test

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import CONFIG
from PIL import Image
from torch import Tensor

from base.batch_loader import Step
from logger.figures import schedule_figure
from schedule_preview import labelled_groups, momentum_of, record_schedule
from trainer.classifier import Classifier

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
MakeTrainer = Callable[..., Any]
TINY_MODEL = ("model.name=networks.MLP", "model.width=4")


class Recorder(Classifier):
    """Records what the optimizers use in each step."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rates: list[list[float]] = []
        self.momenta: list[list[float]] = []

    def update(self, step: Step) -> dict[str, Tensor]:
        groups = labelled_groups(self.optimizers).values()
        self.rates.append([group["lr"] for group in groups])
        self.momenta.append([momentum_of(group) for group in groups])
        return super().update(step)


CASES = {  # settings, number of different rates, whether the momentum changes
    "warm-up": (["scheduler={name: cosine, warmup: 0.3}"], 1, False),
    "constant": (["scheduler.name=constant"], 1, False),
    "groups": (["optimizer.groups={'*.bias': {lr: 0.01}}", "scheduler.name=linear"], 2, False),
    "layers": (["optimizer={name: AdamW, lr: 0.01}", "model.layer_decay=0.5"], 3, False),
    "class of torch": (["scheduler={name: StepLR, step_size: 1}"], 1, False),
    "momentum": (["scheduler={name: OneCycleLR, interval: step, max_lr: 0.1}"], 1, True),
    "betas": (
        [
            "optimizer={name: Adam, lr: 0.1}",
            "scheduler={name: OneCycleLR, interval: step, max_lr: 0.1}",
        ],
        1,
        True,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_the_previewed_rates_are_those_of_training(make_trainer: MakeTrainer, case: str) -> None:
    changes, different_rates, momentum_changes = CASES[case]
    trained = make_trainer(*TINY_MODEL, *changes, kind=Recorder)
    trained.fit()
    record = record_schedule(make_trainer(*TINY_MODEL, *changes))

    used = {tuple(column) for column in np.array(trained.rates).T}
    assert {tuple(values) for values in record.rates.values()} == used
    assert len(record.rates) == different_rates
    assert all(len(values) == 32 for values in record.rates.values())
    assert len(record.momenta) == int(momentum_changes)
    for values in record.momenta.values():
        assert list(values) == [momenta[0] for momenta in trained.momenta]


def test_rates_of_several_optimizers_are_told_apart(make_trainer: MakeTrainer) -> None:
    class TwoOptimizers(Classifier):
        def configure_optimizers(self) -> Any:
            (first,) = super().configure_optimizers()
            (second,) = super().configure_optimizers()
            second.param_groups[0]["lr"] = 0.5
            return [first, second]

    record = record_schedule(make_trainer(*TINY_MODEL, kind=TwoOptimizers))
    labels = list(record.rates)
    assert labels[0].startswith("optimizer 0")
    assert labels[1].startswith("optimizer 1")
    assert record.rates[labels[1]].max() == pytest.approx(0.5)


def test_the_figure_has_a_curve_for_each_rate_and_a_panel_for_the_momentum() -> None:
    steps = np.arange(5.0)
    figure = schedule_figure({"stem": steps, "head": 2 * steps}, {"all": -steps}, "heading")
    rates, momenta = figure.axes
    drawn = {line.get_label(): line.get_xydata() for line in rates.lines}
    assert drawn.keys() == {"stem", "head"}
    assert np.array(drawn["head"]).tolist() == [[1, 0], [2, 2], [3, 4], [4, 6], [5, 8]]
    assert len(momenta.lines) == 1
    assert len(schedule_figure({"all": steps}, {}, "heading").axes) == 1


def test_the_command_draws_the_schedule_and_prints_its_numbers(
    tmp_path: Path, command: Command, capsys: Captured
) -> None:
    changes = ["trainer.epochs=20", "data.batch_size=50", "optimizer.lr=0.3"]
    schedule = "scheduler={name: linear, warmup: 0.1, final: 0.5}"
    arguments = ["--config", CONFIG, "--schedule", *TINY_MODEL, *changes, schedule]
    assert command("preview", *arguments, "--output", tmp_path / "new") == 0
    printed = capsys.readouterr().out
    assert "synthetic data" in printed
    row = printed.splitlines()[-1]
    first = 0.3 / 33  # there are 20 * 16 steps, of which 32 warm up
    last = 0.3 * (1 - 0.5 * 287 / 288)
    assert row.split()[-8:-2] == [f"{first:.4g}", "0.3", "33", "of", "320", f"{last:.4g}"]
    assert row.endswith(" 32 steps")

    assert [path.name for path in tmp_path.iterdir()] == ["new"]
    file = tmp_path / "new/schedule.png"
    assert f"{file}\n" in printed
    with Image.open(file) as image:
        assert image.width > 300


def test_a_rate_without_warm_up_has_none(command: Command, capsys: Captured) -> None:
    assert command("preview", "--config", CONFIG, "--schedule", "scheduler.name=cosine") == 0
    assert re.search(r" none$", capsys.readouterr().out.strip())


def test_the_range_of_the_momentum_is_printed(command: Command, capsys: Captured) -> None:
    schedule = "scheduler={name: OneCycleLR, interval: step, max_lr: 0.1}"
    assert command("preview", "--config", CONFIG, "--schedule", schedule) == 0
    assert re.search(r"momentum .* 0\.85\d* .* 0\.95\n", capsys.readouterr().out)


def test_a_schedule_that_depends_on_training_is_named(command: Command, capsys: Captured) -> None:
    for arguments, is_unpredictable in (
        ("name: ReduceLROnPlateau, mode: max, factor: 0.5", True),
        ("name: ExponentialLR, gamma: 0.5", False),
    ):
        schedule = f"scheduler={{{arguments}}}"
        assert command("preview", "--config", CONFIG, "--schedule", schedule) == 0
        printed = capsys.readouterr().out
        assert ("cannot be predicted" in printed) == is_unpredictable
        assert ("checkpoint.monitor = accuracy" in printed) == is_unpredictable


def test_invalid_settings_of_a_schedule_write_no_files(
    tmp_path: Path, command: Command, capsys: Captured
) -> None:
    schedule = "scheduler={name: OneCycleLR, max_lr: 0.1, warmup: 0.1}"
    assert command("preview", "--config", CONFIG, "--schedule", schedule) == 2
    assert "scheduler.warmup" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
