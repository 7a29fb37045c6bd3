"""Disks that are full, disappear or are read-only: nothing that was saved is lost."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor, nn

from base.base_dataset import Batch
from config.schema import Settings
from logger import run_log
from logger.run_log import RunLog
from storage.checkpoint_file import load_checkpoint
from trainer.classifier import Classifier

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
NO_LIMIT = -1
# A checkpoint after each 4 of the 16 steps of an epoch.
EVERY_4_STEPS = ("checkpoint.every_steps=4", "checkpoint.keep=100", "trainer.epochs=1")


def saved_steps(run: Path) -> list[int]:
    steps = []
    for file in (run / "checkpoints").glob("step_*.pt"):
        steps.append(load_checkpoint(file)["progress"]["step"])
    return sorted(steps)


def at_step(patch: pytest.MonkeyPatch, actions: dict[int, Callable[[], object]]) -> None:
    """Runs each action once, in the step after that number of steps."""
    original = Classifier.training_step

    def training_step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        action = actions.pop(trainer.progress.step, None)
        if action is not None:
            action()
        return original(trainer, model, batch)

    patch.setattr(Classifier, "training_step", training_step)


def limit_files(size: int) -> None:
    """Limits the size of files in bytes, as a quota or a full disk does; -1 removes the limit."""
    _, hard_limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard_limit))


def fail(*_: object) -> None:
    """Replaces a method that would write to a full disk."""
    raise OSError("no space")


def test_training_continues_while_the_disk_is_full(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    run = tmp_path / "run"
    at_step(monkeypatch, {6: lambda: limit_files(2000), 14: lambda: limit_files(NO_LIMIT)})
    try:
        assert train(run, *EVERY_4_STEPS, "logger.every_steps=1") == 0
    finally:
        limit_files(NO_LIMIT)
    output = capsys.readouterr()
    assert "step 8 could not be saved: [Errno 27] File too large" in output.out
    assert "Traceback" not in output.out + output.err
    assert saved_steps(run) == [0, 4, 16]
    logged_steps = []
    for line in (run / "metrics.csv").read_text().splitlines():
        _, split, _, step, metric, _ = line.split(",")
        if split == "train" and metric == "loss":
            logged_steps.append(int(step))
    assert logged_steps == list(range(1, 17))


def test_a_checkpoint_is_saved_only_after_its_log_entries(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise rows would be missing after the process is killed and the run resumes."""
    original = RunLog.flush
    actions: dict[int, Callable[[], object]] = {
        6: lambda: monkeypatch.setattr(RunLog, "flush", fail),
        14: lambda: monkeypatch.setattr(RunLog, "flush", original),
    }
    at_step(monkeypatch, actions)
    assert train(tmp_path / "run", *EVERY_4_STEPS) == 0
    assert saved_steps(tmp_path / "run") == [0, 4, 16]


def test_log_entries_are_written_at_intervals_and_when_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_settings: Callable[..., Settings]
) -> None:
    def written_steps() -> list[str]:
        rows = (tmp_path / "metrics.csv").read_text().split()[1:]
        return [row.split(",")[3] for row in rows]

    entries = RunLog(tmp_path, "data", make_settings())
    with entries.open(0):
        entries.scalars("train", 1, 1, {"loss": 1.0})
        assert written_steps() == []
        entries.flush()
        assert written_steps() == ["1"]
        entries.scalars("train", 1, 2, {"loss": 1.0})
        monkeypatch.setattr(run_log, "WRITE_INTERVAL_SECONDS", 0.0)
        entries.scalars("train", 1, 3, {"loss": 1.0})
        assert written_steps() == ["1", "2", "3"]
        monkeypatch.setattr(run_log, "WRITE_INTERVAL_SECONDS", 10.0)
        entries.scalars("train", 1, 4, {"loss": 1.0})
    assert written_steps() == ["1", "2", "3", "4"]


def test_a_final_state_that_cannot_be_saved_is_a_failure(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    at_step(monkeypatch, {6: lambda: limit_files(2000)})
    try:
        assert train(tmp_path / "run", *EVERY_4_STEPS) == 1
    finally:
        limit_files(NO_LIMIT)
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "step 16 could not be saved: [Errno 27]" in message
    assert message.endswith(f"python train.py --resume {tmp_path / 'run'}\n")
    assert saved_steps(tmp_path / "run") == [0, 4]
    assert not list(tmp_path.rglob(".unfinished*"))


def test_a_full_disk_is_detected_before_training(
    tmp_path: Path, train: Command, capsys: Captured
) -> None:
    limit_files(50_000)  # enough for the settings and the manifest
    try:
        assert train(tmp_path / "run") == 2
    finally:
        limit_files(NO_LIMIT)
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "step 0 could not be saved: [Errno 27]" in message
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_deleted_during_training_is_reported(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    at_step(monkeypatch, {6: lambda: shutil.rmtree(tmp_path / "run")})
    assert train(tmp_path / "run", *EVERY_4_STEPS) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert "step 16 could not be saved" in message
    assert "Traceback" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_an_error(tmp_path: Path, train: Command, capsys: Captured) -> None:
    tmp_path.chmod(0o500)
    assert train(tmp_path / "run") == 2
    assert "Permission denied" in capsys.readouterr().err
