"""Each run leaves result.json, however it ends, and adds up the time of all its starts."""
# ruff: noqa: D103  the names of the tests state what they test

import json
import math
import os
import shutil
import signal
import subprocess
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_MODEL
from stopped_runs import during_step, fail_with, send_signal
from torch import Tensor, nn

from base.base_dataset import Batch
from base.validation import describe_early_stop
from config.schema import Settings
from run_description import describe_origin, summarize_result
from storage.progress import Progress
from storage.run_folder import read_manifest
from storage.training_time import TrainingTime
from trainer.classifier import Classifier
from utils.errors import UserError

Command = Callable[..., int]


def result_of(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "result.json").read_text()))


def test_a_finished_run_records_and_prints_its_result(
    tmp_path: Path, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(run, *TINY_MODEL, "checkpoint.monitor=accuracy") == 0
    result = result_of(run)
    assert result["state"] == "finished"
    assert result["exit_code"] == 0
    assert result["error"] is None
    assert (result["step"], result["total_steps"], result["epoch"]) == (32, 32, 2)
    best = result["best"]
    assert (best["metric"], best["direction"]) == ("accuracy", "highest")
    assert best["step"] in (16, 32)
    assert 0 < best["value"] <= 1
    samples = 2 * 790
    expected_speed = samples / (60 * result["minutes"])
    assert result["samples_per_second"] == pytest.approx(expected_speed, rel=0.1)
    assert result["peak_memory_gb"] > 0
    git = read_manifest(run)["git"]
    assert (result["commit"], result["dirty"]) == (git["commit"], git["dirty"])
    printed = capsys.readouterr().out
    assert f"synthetic data: best accuracy {best['value']:.6g} at step {best['step']}\n" in printed
    assert f"32 of 32 steps in {result['minutes']:.3g} minutes" in printed


def test_an_early_stop_is_a_finished_run(tmp_path: Path, train: Command) -> None:
    run = tmp_path / "run"
    changes = ("optimizer.lr=1e-30", "trainer.epochs=9", "trainer.early_stop=1")
    assert train(run, *TINY_MODEL, *changes) == 0
    result = result_of(run)
    assert (result["state"], result["step"], result["total_steps"]) == ("finished", 32, 144)


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP"])
def test_a_signal_is_recorded_as_a_stop(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number = signal.Signals[name]
    during_step(monkeypatch, 11, send_signal(number))
    run = tmp_path / "run"
    assert train(run, *TINY_MODEL) == 128 + number
    result = result_of(run)
    assert (result["state"], result["exit_code"]) == ("stopped", 128 + number)
    assert (result["error"], result["step"], result["best"]) == (None, 12, None)


@pytest.mark.parametrize(
    ("method", "step", "error", "exit_code"),
    [
        ("training_step", 11, ValueError("wrong\nsize"), 1),
        ("evaluation_step", 16, ZeroDivisionError("division"), 1),
        ("after_step", 11, UserError("this is wrong\ndo that"), 2),
        ("after_evaluation", 16, torch.OutOfMemoryError("out of memory"), 1),
        ("figures", 32, SystemExit(7), 7),
        ("after_step", 11, OSError(5, "broken disk"), 2),
        ("after_step", 11, KeyboardInterrupt(), 130),
    ],
)
def test_an_error_is_recorded_with_its_exit_code(
    tmp_path: Path,
    train: Command,
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    step: int,
    error: BaseException,
    exit_code: int,
) -> None:
    during_step(monkeypatch, step, fail_with(error), method)
    run = tmp_path / "run"
    try:
        assert train(run, *TINY_MODEL, "logger.tensorboard=true") == exit_code
    except type(error):  # with a traceback
        assert exit_code == 1
    result = result_of(run)
    assert (result["state"], result["exit_code"]) == ("failed", exit_code)
    message = result["error"]
    assert "\n" not in message
    if isinstance(error, UserError):
        assert message == "this is wrong"
    elif isinstance(error, Exception):
        assert type(error).__name__ in message
        assert "stopped_runs.py, line " in message


def test_a_non_finite_value_is_recorded(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Classifier.training_step

    def training_step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = original(trainer, model, batch)
        if trainer.progress.step == 20:
            outputs["loss"] = outputs["loss"] * math.nan
        return outputs

    monkeypatch.setattr(Classifier, "training_step", training_step)
    run = tmp_path / "run"
    assert train(run, *TINY_MODEL) == 1
    result = result_of(run)
    assert (result["state"], result["exit_code"]) == ("failed", 1)
    assert result["error"].startswith("step 21: loss is not finite")
    assert result["best"]["step"] == 16


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The folder of a file system of a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, check=False).returncode:
        pytest.skip("only root can mount a file system")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can mount")
def test_a_full_disk_is_recorded(
    small_disk: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill() -> None:
        with (small_disk / "filler").open("ab", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    continue

    run = small_disk / "run"
    during_step(monkeypatch, 11, fill, "after_step")
    assert train(run, *TINY_MODEL) == 1
    result = result_of(run)
    assert (result["state"], result["exit_code"]) == ("failed", 1)
    assert "No space left" in result["error"]


def test_a_resumed_run_has_no_result_until_it_ends_and_adds_up_its_time(
    tmp_path: Path, train: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        during_step(patch, 11, send_signal(signal.SIGTERM))
        assert train(run, *TINY_MODEL) == 128 + signal.SIGTERM
    first_minutes = result_of(run)["minutes"]
    seen: list[bool] = []
    during_step(monkeypatch, 12, lambda: seen.append((run / "result.json").exists()))
    assert command("train", "--resume", run) == 0
    assert seen == [False]
    result = result_of(run)
    assert result["state"] == "finished"
    assert result["minutes"] > first_minutes
    expected_speed = 2 * 790 / (60 * result["minutes"])
    assert result["samples_per_second"] == pytest.approx(expected_speed, rel=0.1)


def test_a_refused_resume_keeps_the_result(
    tmp_path: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    assert train(run, *TINY_MODEL, "trainer.max_steps=4") == 0
    before = result_of(run)
    assert command("train", "--resume", run, "trainer.max_steps=2") == 2
    assert command("train", "--resume", run, "seed=1") == 2
    assert result_of(run) == before


def test_a_run_without_a_checkpoint_leaves_nothing(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiling.profile_steps", fail_with(ValueError("no")))
    with pytest.raises(ValueError, match="no"):
        train(tmp_path / "run", *TINY_MODEL, "trainer.profile=1")
    assert not (tmp_path / "run").exists()


def test_time_continues_from_the_step_that_a_run_continues_from(tmp_path: Path) -> None:
    times = TrainingTime(tmp_path)
    with times.running(0):
        times.record(0)
        times.record(8)
        seconds_at_8 = times.seconds
        times.record(16)
    assert times.seconds >= seconds_at_8
    (tmp_path / "training_time.json").write_text('{"0": 1.5, "8": 60.0, "16": 90.0}')
    resumed = TrainingTime(tmp_path)
    with resumed.running(8):  # the run returns to an earlier checkpoint
        assert 60 <= resumed.seconds < 90
        resumed.record(12)
    assert list(json.loads((tmp_path / "training_time.json").read_text())) == ["0", "8", "12"]
    (tmp_path / "training_time.json").write_text("{")
    damaged = TrainingTime(tmp_path)
    with damaged.running(8):
        assert damaged.seconds < 60


# Notes and tags


def test_a_note_and_tags_are_kept_until_another_note_replaces_it(
    tmp_path: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    options = ("--note", "wider, 더 넓게", "--tag", "ablation", "--tag=width")
    assert train(run, *TINY_MODEL, "trainer.max_steps=1", *options) == 0
    manifest = read_manifest(run)
    assert (manifest["note"], manifest["tags"]) == ("wider, 더 넓게", ["ablation", "width"])
    assert command("train", "--resume", run, "trainer.max_steps=2") == 0
    assert read_manifest(run)["note"] == "wider, 더 넓게"
    new = ("--note=narrower", "--tag=width", "--tag=x")
    assert command("train", "--resume", run, "trainer.max_steps=3", *new) == 0
    manifest = read_manifest(run)
    assert (manifest["note"], manifest["tags"]) == ("narrower", ["ablation", "width", "x"])


@pytest.mark.parametrize("option", ["--note", "--tag"])
@pytest.mark.parametrize("text", ["", " ", "two\nlines"])
def test_an_empty_note_or_tag_is_an_error(
    refused: Callable[..., str], option: str, text: str
) -> None:
    assert option in refused(f"{option}={text}")


def test_a_tag_with_a_comma_is_an_error(refused: Callable[..., str]) -> None:
    message = refused("--tag=a,b")
    assert "'a,b'" in message
    assert "--tag" in message


def test_the_end_of_a_run_names_its_limit_and_where_its_curves_are(
    tmp_path: Path, train: Command, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert train(run, *TINY_MODEL, "trainer.max_steps=3", "logger.curves=true") == 0
    output = capsys.readouterr().out
    assert f"curves: {run / 'curves.png'}\n" in output
    assert "tensorboard" not in output.partition("curves: ")[2]
    assert command("train", "--resume", run) == 0
    assert "trainer.max_steps=N" in capsys.readouterr().out


def test_long_times_have_no_exponent() -> None:
    result = {"step": 9, "total_steps": 9, "minutes": 1440.0, "samples_per_second": None}
    (line,) = summarize_result(result, "data")
    assert "1,440 minutes" in line


def test_a_small_best_value_is_shown() -> None:
    progress = Progress(step=9, best=2e-5, best_step=3)
    assert "2e-05" in describe_early_stop(progress, "loss")


@pytest.mark.parametrize("content", [None, "[", ""])
def test_a_settings_file_that_has_changed_since_does_not_end_the_run(
    tmp_path: Path, make_settings: Callable[..., Settings], content: str | None
) -> None:
    file = tmp_path / "settings.yaml"
    if content is not None:
        file.write_text(content)
    arguments = Namespace(config=file, settings=["seed=3"])
    line = describe_origin(make_settings("seed=3"), arguments, None)
    assert str(file) in line
    assert "seed=3" in line
