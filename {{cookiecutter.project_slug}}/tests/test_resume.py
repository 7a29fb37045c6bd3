"""Stopping, going on, and ending with the same bits as a run that was never stopped."""
# ruff: noqa: D103  the names of the tests say what they test

import csv
import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from data_loader import synthetic
from storage.checkpoint_file import load_checkpoint
from trainer.classifier import Classifier
from utils.errors import LoadingError

Command = Callable[..., int]
# All that has a state: an average, momentum, a schedule, patience, sums of what is logged next.
STATEFUL = (
    "logger.every_steps=3",
    "optimizer.name=AdamW",
    "optimizer.lr=0.01",
    "trainer.accumulate=2",
    "trainer.clip_norm=1",
    "trainer.early_stop=5",
    "trainer.ema=0.9",
)


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two nested values differ, to the last bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return [] if one.dtype == other.dtype and torch.equal(one, other) else [place]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [place]
    found = []
    for key in one.keys() | other.keys():
        found += differences(one.get(key), other.get(key), f"{place}/{key}")
    return found


def checkpoint(run: Path, name: str = "last") -> dict[str, Any]:
    return load_checkpoint(run / f"checkpoints/{name}.pt")


def measured(run: Path) -> list[list[str]]:
    """The rows of metrics.csv, but for the speed."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [
            row
            for row in csv.reader(file)
            if not {"samples_per_second", "waiting_for_data"} & {*row}
        ]


def in_step(patch: pytest.MonkeyPatch, number: int, action: Callable[[], None]) -> None:
    """Lets something happen once, while step `number` is being computed."""
    original = Classifier.training_step
    done: list[int] = []

    def step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        if trainer.progress.step == number and not done:
            done.append(number)
            action()
        return original(trainer, model, batch)

    patch.setattr(Classifier, "training_step", step)


def crash() -> None:
    raise RuntimeError("the machine went down")


@pytest.fixture(scope="module", autouse=True)
def noise() -> Iterator[None]:
    """Adds random noise to inputs, so that runs are the same only if the generators are too."""
    original = Classifier.training_step

    def step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        scale = random.random() + float(np.random.rand())
        noisy = batch["input"] + scale * torch.randn_like(batch["input"])
        return original(trainer, model, {**batch, "input": noisy})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "training_step", step)
        yield


@pytest.fixture(scope="module")
def whole_run(noise: None, train: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert train(run, *STATEFUL) == 0
    return run


# Going on


@pytest.mark.parametrize("stop", [1, 5, 8, 9, 15])  # epochs have 8 steps, log entries 3
def test_a_stopped_run_ends_as_if_it_had_never_stopped(
    tmp_path: Path, whole_run: Path, train: Command, command: Command, stop: int
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:  # in the first of the step's two batches
        in_step(patch, stop, lambda: signal.raise_signal(signal.SIGTERM))
        assert train(run, *STATEFUL) == 128 + signal.SIGTERM
    assert checkpoint(run)["step"] == stop
    assert command("train", "--resume", run) == 0
    assert checkpoint(run)["step"] == checkpoint(whole_run)["step"] == 16
    assert differences(checkpoint(run), checkpoint(whole_run)) == []
    assert differences(checkpoint(run, "best"), checkpoint(whole_run, "best")) == []
    assert measured(run) == measured(whole_run)


def test_steps_that_are_profiled_are_taken_back(
    tmp_path: Path, whole_run: Path, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(run, *STATEFUL, "trainer.profile=3") == 0
    changed = ["/settings/trainer/profile"]
    assert differences(checkpoint(run), checkpoint(whole_run)) == changed
    assert measured(run) == measured(whole_run)
    lines = capsys.readouterr().out.partition("part of a step")[2].splitlines()[2:8]
    assert lines.pop().endswith(f"shows {run / 'profile/trace.json'}")
    parts = ["waiting for data", "forward", "backward", "optimizer", "rest"]
    assert [line[:16].strip() for line in lines] == parts
    assert sum(float(line.split()[-1].rstrip("%")) for line in lines) == pytest.approx(100, abs=0.3)
    trace = (run / "profile/trace.json").read_text(encoding="utf-8")
    assert trace.count('"name": "forward"') == 6  # two batches a step


def test_a_crashed_run_goes_on_from_its_last_checkpoint(
    tmp_path: Path, whole_run: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="went down"):
        in_step(patch, 14, crash)
        train(run, *STATEFUL)
    assert checkpoint(run)["step"] == 8  # the end of the first epoch
    assert measured(run)[-1][3] == "12"  # what was logged later is done and logged again
    with (run / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("synthetic data,train,2")  # half a row, as a kill may leave it
    assert command("train", "--resume", run) == 0
    assert differences(checkpoint(run), checkpoint(whole_run)) == []
    assert measured(run) == measured(whole_run)


def test_a_run_that_fails_in_its_last_validation_ends_with_the_same_bits(
    tmp_path: Path, whole_run: Path, train: Command, command: Command
) -> None:
    original = Classifier.evaluation_step

    def fail(trainer: Classifier, model: nn.Module, batch: Batch) -> None:
        if trainer.progress.step == 16:
            raise LoadingError("a worker died", 1)
        original(trainer, model, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "evaluation_step", fail)
        assert train(tmp_path / "run", *STATEFUL) == 1
    assert command("train", "--resume", tmp_path / "run") == 0
    assert differences(checkpoint(tmp_path / "run"), checkpoint(whole_run)) == []


def test_a_run_goes_on_from_its_newest_checkpoint_and_not_from_its_best(
    tmp_path: Path, trained_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    assert checkpoint(run, "best")["step"] == 16
    in_step(monkeypatch, 20, crash)  # done already, and not to be done again
    assert command("train", "--resume", run, "trainer.epochs=3", "trainer.max_steps=33") == 0
    assert checkpoint(run)["step"] == 33


def test_patience_goes_on_where_it_stopped(
    tmp_path: Path, train: Command, command: Command
) -> None:
    # At such a rate no weight changes, so only the first of these epochs of 16 steps is a gain.
    changes = ["model.name=networks.MLP", "optimizer.lr=1e-30", "trainer.epochs=9"]
    with pytest.MonkeyPatch.context() as patch:
        in_step(patch, 2 * 16 + 1, lambda: signal.raise_signal(signal.SIGTERM))
        assert train(tmp_path / "run", *changes, "trainer.early_stop=2") == 143
    assert command("train", "--resume", tmp_path / "run") == 0
    assert checkpoint(tmp_path / "run")["step"] == 3 * 16


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_may_change_when_a_run_goes_on(
    tmp_path: Path, whole_run: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        in_step(patch, 5, lambda: signal.raise_signal(signal.SIGINT))
        assert train(run, *STATEFUL, "data.workers=1") == 130
        in_step(patch, 11, lambda: signal.raise_signal(signal.SIGUSR1))
        assert command("train", "--resume", run, "data.workers=0") == 138
    assert command("train", "--resume", run, "data.workers=2") == 0
    changed = ["/settings/data/workers"]
    assert differences(checkpoint(run), checkpoint(whole_run)) == changed
    assert measured(run) == measured(whole_run)


def test_what_would_make_it_another_run_is_refused_unless_forced(
    tmp_path: Path, train: Command, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(run, "trainer.max_steps=1") == 0
    changes = ["data.batch_size=64", "seed=1", "trainer.accumulate=2", "model.width=8"]
    assert command("train", "--resume", run, *changes, "trainer.max_steps=2") == 2
    message = capsys.readouterr().err
    for change in ("data.batch_size: 50 -> 64", "seed: 0 -> 1", "model.width: 32 -> 8", "--force"):
        assert change in message
    assert "max_steps" not in message
    assert checkpoint(run)["step"] == 1
    assert command("train", "--resume", run, *changes[:3], "trainer.max_steps=2", "--force") == 0
    assert "data.batch_size: 50 -> 64" in (run / "train.log").read_text(encoding="utf-8")
    assert checkpoint(run)["settings"]["data"]["batch_size"] == 64


def test_other_data_is_refused_unless_forced(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "run"
    assert train(run, "trainer.max_steps=1") == 0
    monkeypatch.setattr(synthetic, "ANGLE_STD", 0.3)
    assert command("train", "--resume", run, "trainer.max_steps=2") == 2
    assert "data: " in capsys.readouterr().err
    assert command("train", "--resume", run, "trainer.max_steps=2", "--force") == 0
    assert checkpoint(run)["step"] == 2


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard itself
def test_tensorboard_shows_each_step_once(
    tmp_path: Path, train: Command, command: Command, logged: Callable[..., list[float]]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run, options = tmp_path / "run", ["logger.tensorboard=true", "logger.every_steps=3"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="went down"):
        in_step(patch, 29, crash)  # after the log entries of steps 18 to 27
        train(run, *options)
    assert command("train", "--resume", run) == 0
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    losses = board.Scalars("train/loss")
    assert [event.step for event in losses] == [3, 6, 9, 12, 15, 16, 18, 21, 24, 27, 30, 32]
    values = [event.value for event in losses]
    assert values == pytest.approx(logged(run, "train", "loss"), rel=1e-6)


def test_a_finished_run_can_be_made_longer(
    tmp_path: Path, train: Command, command: Command
) -> None:
    constant = "scheduler={name: constant}"  # any other depends on the number of steps
    assert train(tmp_path / "long", constant) == 0
    assert train(tmp_path / "short", constant, "trainer.max_steps=16") == 0
    assert checkpoint(tmp_path / "short")["step"] == 16
    assert command("train", "--resume", tmp_path / "short", "trainer.max_steps=null") == 0
    assert differences(checkpoint(tmp_path / "short"), checkpoint(tmp_path / "long")) == []
    assert measured(tmp_path / "short") == measured(tmp_path / "long")


def test_a_run_cannot_end_before_it_is(
    tmp_path: Path, train: Command, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", "trainer.max_steps=16") == 0
    settings = (tmp_path / "run/settings.yaml").read_text()
    capsys.readouterr()
    assert command("train", "--resume", tmp_path / "run", "trainer.max_steps=8") == 2
    assert "ends at step 8, but the run is at 16\n" in capsys.readouterr().err
    assert (tmp_path / "run/settings.yaml").read_text() == settings
    assert command("train", "--resume", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert f"run folder: {tmp_path / 'run'}, from step 16 on\n" in said
    assert "all is done at step 16" in said


def test_the_settings_of_a_run_repeat_it(tmp_path: Path, whole_run: Path, command: Command) -> None:
    again = tmp_path / "again"
    assert command("train", "--config", whole_run / "settings.yaml", "--run-dir", again) == 0
    assert differences(checkpoint(again), checkpoint(whole_run)) == []
    other = ["train", "--config", whole_run / "settings.yaml", "--run-dir", tmp_path / "other"]
    assert command(*other, "seed=1") == 0
    assert "/model/head.weight" in differences(
        checkpoint(tmp_path / "other"), checkpoint(whole_run)
    )


def test_resume_last_takes_the_run_that_saved_most_recently(
    tmp_path: Path, train: Command, command: Command
) -> None:
    for name, time in (("a", 1_000_000), ("b", 3_000_000), ("c", 2_000_000)):
        assert train(tmp_path / "runs/x" / name, "trainer.max_steps=1") == 0
        for file in (tmp_path / "runs/x" / name / "checkpoints").iterdir():
            os.utime(file, (time, time))
    assert command("train", "--resume", "last", "trainer.max_steps=2") == 0
    steps = {name: checkpoint(tmp_path / "runs/x" / name)["step"] for name in "abc"}
    assert steps == {"a": 1, "b": 2, "c": 1}
    starts = (tmp_path / "runs/x/b/train.log").read_text(encoding="utf-8")
    assert '"command": "train.py --resume last trainer.max_steps=2"' in starts
    assert command("evaluate", "last") == 0
    (metrics,) = tmp_path.glob("runs/x/*/evaluation/test/metrics.json")
    assert metrics.parts[-4] == "b"


def test_there_must_be_a_run_to_resume(
    tmp_path: Path, trained_run: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    for run in ("last", "missing", "empty"):
        assert command("train", "--resume", run) == 2
        assert "error: " in capsys.readouterr().err
    assert command("evaluate", "last") == 2
    assert command("train", "--resume", trained_run, "--config", "some.yaml") == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_a_new_run_never_goes_into_a_folder_in_use(
    tmp_path: Path, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert train(tmp_path) == 2
    assert f"{tmp_path} is not empty" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
