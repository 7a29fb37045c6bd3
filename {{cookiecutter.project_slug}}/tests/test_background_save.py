"""Checkpoints that are written while training continues."""
# ruff: noqa: D103  the names of the tests state what they test

import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_runs import assert_resumes_exactly, assert_same_run, saved_step
from torch import Tensor

from config.schema import CheckpointSettings
from logger.console import log
from storage.background_save import BackgroundSave
from storage.checkpoint_file import load_checkpoint
from storage.checkpointer import Checkpointer
from storage.state import copy_to_host
from trainer.classifier import Classifier
from utils.errors import UserError

Command = Callable[..., int]
BACKGROUND = ("checkpoint.background=true", "checkpoint.every_steps=3")
SMALL_MODEL = ("model.name=networks.MLP", "model.width=16")


class FailingTrainer(Classifier):
    """Fails in a step after a checkpoint, which a thread may still be writing."""

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        if self.progress.step == 7:
            raise RuntimeError("in step 7")


def flush_nothing() -> None:
    """Stands for the log, which these tests do not write."""


def test_a_checkpoint_has_the_state_of_its_step_whatever_changes_afterwards() -> None:
    may_write = threading.Event()
    written: list[Mapping[str, Any]] = []

    def publish(state: Mapping[str, Any]) -> None:
        may_write.wait(timeout=5)
        written.append(state)

    state: dict[str, Any] = {"weights": torch.ones(3), "progress": {"steps": [1]}}
    save = BackgroundSave(state, 1, publish)
    state["weights"].zero_()
    state["progress"]["steps"].append(2)
    assert not written
    may_write.set()
    save.wait()
    assert written[0]["weights"].tolist() == [1, 1, 1]
    assert written[0]["progress"] == {"steps": [1]}


def test_tied_weights_are_copied_once() -> None:
    weights = torch.randn(4, 3)
    copies = copy_to_host({"first": weights, "tied": weights.detach(), "part": weights[:2]})
    assert copies["first"] is copies["tied"]
    assert copies["first"].data_ptr() != weights.data_ptr()
    assert torch.equal(copies["part"], weights[:2])


def test_a_run_writes_the_same_checkpoints_and_log(tmp_path: Path, train: Command) -> None:
    assert train(tmp_path / "usual", *SMALL_MODEL, "checkpoint.every_steps=3") == 0
    assert train(tmp_path / "run", *SMALL_MODEL, *BACKGROUND) == 0
    assert_same_run(tmp_path / "run", tmp_path / "usual", ("/settings/checkpoint/background",))
    names = {file.name for file in (tmp_path / "usual/checkpoints").iterdir()}
    assert {file.name for file in (tmp_path / "run/checkpoints").iterdir()} == names
    assert saved_step(tmp_path / "run", "best") == saved_step(tmp_path / "usual", "best")


def test_a_stopped_run_resumes_exactly(tmp_path: Path, train: Command, command: Command) -> None:
    assert_resumes_exactly(tmp_path, train, command, *SMALL_MODEL, *BACKGROUND)


def test_training_continues_and_the_next_save_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_write = threading.Event()
    flush_to_disk = os.fsync

    def wait_and_flush(file: int) -> None:
        may_write.wait(timeout=5)
        flush_to_disk(file)

    monkeypatch.setattr(os, "fsync", wait_and_flush)
    checkpointer = Checkpointer(tmp_path, CheckpointSettings(background=True), sharded=False)
    large = torch.randn(2_000_000)
    state = {"progress": {"step": 1}, "weights": large}
    checkpointer.save(state, 1, is_best=False, flush_logs=flush_nothing)
    assert checkpointer.saved_steps() == []
    may_write.set()
    for step in (2, 3):
        state = {"progress": {"step": step}, "weights": large * step}
        checkpointer.save(state, step, is_best=False, flush_logs=flush_nothing)
    checkpointer.finish()
    assert sorted(checkpointer.saved_steps()) == [2, 3]
    assert torch.equal(load_checkpoint(tmp_path / "last.pt")["weights"], large * 3)


def test_a_failure_to_write_ends_the_run_only_if_the_last_save_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "the disk is full")

    checkpointer = Checkpointer(tmp_path, CheckpointSettings(background=True), sharded=False)
    with monkeypatch.context() as full_disk:
        full_disk.setattr(os, "fsync", fail)
        checkpointer.save({"progress": {"step": 1}}, 1, False, flush_nothing)
        checkpointer.finish()
    assert "step 1" in caplog.text
    assert "full" in caplog.text
    with pytest.raises(UserError, match=r"step 1 .*full"):
        checkpointer.raise_failure()
    checkpointer.save({"progress": {"step": 2}}, 2, False, flush_nothing)
    checkpointer.finish()
    checkpointer.raise_failure()
    assert checkpointer.saved_steps() == [2]


def test_an_error_in_training_waits_for_the_checkpoint(
    make_trainer: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", logger=log.name)
    flush_to_disk = os.fsync

    def slow_fsync(file: int) -> None:
        time.sleep(0.2)
        flush_to_disk(file)

    monkeypatch.setattr(os, "fsync", slow_fsync)
    trainer = make_trainer(*SMALL_MODEL, *BACKGROUND, kind=FailingTrainer)
    with pytest.raises(RuntimeError, match="in step 7"):
        trainer.fit()
    assert "checkpoint is that of step 6" in caplog.text
    assert saved_step(trainer.run) == 6
    assert not any(thread.name.startswith("checkpoint") for thread in threading.enumerate())
