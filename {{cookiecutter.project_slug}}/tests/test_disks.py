"""Disks that are full, vanish or may not be written; nothing saved is lost."""
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

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


def steps_in(folder: Path) -> list[int]:
    return sorted(load_checkpoint(file)["progress"]["step"] for file in folder.glob("step_*.pt"))


def at_step(patch: pytest.MonkeyPatch, actions: dict[int, Callable[[], object]]) -> None:
    """Lets things happen while steps are being computed."""
    original = Classifier.training_step

    def step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        actions.pop(trainer.progress.step, lambda: None)()
        return original(trainer, model, batch)

    patch.setattr(Classifier, "training_step", step)


def limit_files(size: int) -> None:
    """Lets no file grow beyond `size` bytes, as a quota or a full disk would."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def fail(*_: object) -> None:
    """Stands for a method that finds the disk full."""
    raise OSError("no space")


EVERY_4 = ("checkpoint.every_steps=4", "checkpoint.keep=100", "trainer.epochs=1")


def test_training_goes_on_while_the_disk_is_full(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    at_step(monkeypatch, {6: lambda: limit_files(2000), 14: lambda: limit_files(-1)})
    try:
        assert train(tmp_path / "run", *EVERY_4, "logger.every_steps=1") == 0
    finally:
        limit_files(-1)
    output = capsys.readouterr()
    assert "step 8 could not be saved: [Errno 27] File too large" in output.out
    assert "Traceback" not in output.out + output.err
    assert steps_in(tmp_path / "run/checkpoints") == [0, 4, 16]
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    logged = [row.split(",")[3] for row in rows if ",train," in row and ",loss," in row]
    assert logged == [str(step) for step in range(1, 17)]


def test_no_checkpoint_is_ahead_of_the_log(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or rows would be missing if the process were killed and the run went on."""
    original = RunLog.sync
    at_step(
        monkeypatch,
        {
            6: lambda: monkeypatch.setattr(RunLog, "sync", fail),
            14: lambda: monkeypatch.setattr(RunLog, "sync", original),
        },
    )
    assert train(tmp_path / "run", *EVERY_4) == 0
    assert steps_in(tmp_path / "run/checkpoints") == [0, 4, 16]


def test_log_entries_are_written_after_a_while_or_when_it_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_settings: Callable[..., Settings]
) -> None:
    def written() -> list[str]:
        return [line.split(",")[3] for line in (tmp_path / "metrics.csv").read_text().split()[1:]]

    with RunLog(tmp_path, "data", 0, make_settings()) as record:
        record.scalars("train", 1, 1, {"loss": 1.0})
        assert written() == []
        record.sync()
        assert written() == ["1"]
        record.scalars("train", 1, 2, {"loss": 1.0})
        monkeypatch.setattr(run_log, "PAUSE", 0.0)
        record.scalars("train", 1, 3, {"loss": 1.0})
        assert written() == ["1", "2", "3"]
        monkeypatch.setattr(run_log, "PAUSE", 10.0)
        record.scalars("train", 1, 4, {"loss": 1.0})
    assert written() == ["1", "2", "3", "4"]


def test_a_last_state_that_cannot_be_saved_is_a_failure(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    at_step(monkeypatch, {6: lambda: limit_files(2000)})
    try:
        assert train(tmp_path / "run", *EVERY_4) == 1
    finally:
        limit_files(-1)
    assert "error: step 16 could not be saved: [Errno 27]" in capsys.readouterr().err
    assert steps_in(tmp_path / "run/checkpoints") == [0, 4]
    assert not list(tmp_path.rglob(".unfinished"))


def test_a_disk_that_is_full_is_found_before_training(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    limit_files(5000)  # enough for the settings
    try:
        assert train(tmp_path / "run") == 2
    finally:
        limit_files(-1)
    assert "error: step 0 could not be saved: [Errno 27]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_vanishes_while_training_is_told(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    at_step(monkeypatch, {6: lambda: shutil.rmtree(tmp_path / "run")})
    assert train(tmp_path / "run", *EVERY_4) == 1
    message = capsys.readouterr().err
    assert "error: step 16 could not be saved" in message
    assert "Traceback" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_error(
    tmp_path: Path, train: Command, capsys: Captured
) -> None:
    tmp_path.chmod(0o500)
    assert train(tmp_path / "run") == 2
    assert "Permission denied" in capsys.readouterr().err
