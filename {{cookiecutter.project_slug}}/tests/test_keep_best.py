"""checkpoint.keep_best keeps the checkpoints of the best validations."""
# ruff: noqa: D103  the names of the tests state what they test

import math
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_MODEL
from stopped_runs import during_step, send_signal
from test_checkpoint import fail_on_full_disk
from torch import Tensor, nn

from base.base_dataset import Batch
from storage.checkpoint_file import load_checkpoint, save_checkpoint
from storage.checkpointer import best_checkpoints
from storage.progress import Progress
from storage.run_folder import find_checkpoints
from trainer.classifier import Classifier

Command = Callable[..., int]
# The rate is so high that the validation loss rises and falls.
OPTIONS = (
    *TINY_MODEL,
    "optimizer.lr=0.5",
    "trainer.validate_every_steps=3",
    "checkpoint.keep=1",
    "checkpoint.keep_best=3",
    "checkpoint.monitor=loss",
)


def steps_of(run: Path) -> list[int]:
    return sorted(int(file.stem[5:]) for file in run.glob("checkpoints/step_*.pt"))


def test_the_best_checkpoints_are_kept_over_all_starts(
    tmp_path: Path,
    train: Command,
    command: Command,
    logged: Callable[..., list[float]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        during_step(patch, 13, send_signal(signal.SIGTERM))
        assert train(run, *OPTIONS) == 128 + signal.SIGTERM
    assert command("train", "--resume", run) == 0
    losses = logged(run, "validation", "loss")
    steps = [*range(3, 32, 3), 32]
    best_steps = sorted(steps, key=dict(zip(steps, losses, strict=True)).__getitem__)[:3]
    assert steps_of(run) == sorted({*best_steps, 32})

    best = best_checkpoints(run)
    assert [load_checkpoint(file)["progress"]["step"] for file in best] == best_steps
    assert list(best.values()) == pytest.approx(sorted(losses)[:3])
    best_file, *_ = find_checkpoints(run)
    assert best_file.name == "best.pt"
    assert load_checkpoint(best_file)["progress"]["step"] == best_steps[0]


@pytest.mark.usefixtures("without_figures")
def test_a_run_from_before_the_setting_is_evaluated_and_resumed(
    tmp_path: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    assert train(run, *TINY_MODEL, "trainer.max_steps=1") == 0
    for file in run.glob("checkpoints/*.pt"):
        state = load_checkpoint(file)
        del state["progress"]["best_values"]
        file.unlink()  # the files are hard links to each other
        save_checkpoint(file, state)
    assert best_checkpoints(run) == {}
    assert command("evaluate", run) == 0
    more = ("trainer.max_steps=2", "checkpoint.keep_best=2")
    assert command("train", "--resume", run, *more) == 0
    assert len(best_checkpoints(run)) == 1


class Rated(Classifier):
    """Its ratings are given, and the disk is full when it saves the second one, the best."""

    ratings = (3.0, 1.0, 2.0, 4.0)
    disk = pytest.MonkeyPatch()

    def after_evaluation(self, split: str, results: Mapping[str, Tensor]) -> None:
        self.disk.undo()
        if results["rating"] == min(self.ratings):
            self.disk.setattr(os, "fsync", fail_on_full_disk)

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        super().evaluation_step(model, batch)
        return {"rating": torch.tensor(self.ratings[self.progress.step // 3 - 1])}


@pytest.mark.parametrize(
    "saving",
    ["checkpoint.background=false", "checkpoint.background=true", "checkpoint.every_steps=1"],
)
def test_a_best_checkpoint_that_was_not_written_is_not_the_best(
    make_trainer: Callable[..., Any], saving: str
) -> None:
    changes = (
        *TINY_MODEL,
        "trainer.validate_every_steps=3",
        "trainer.max_steps=12",
        "checkpoint.monitor=rating",
        "checkpoint.mode=min",
        saving,
    )
    trainer = make_trainer(*changes, kind=Rated)
    trainer.fit()
    assert load_checkpoint(trainer.run / "checkpoints/best.pt")["progress"]["step"] == 9
    progress = trainer.progress
    assert (progress.best, progress.best_step) == (2, 9)
    assert progress.validations_without_improvement == 1


def test_of_equal_values_the_first_are_kept_and_others_never() -> None:
    progress = Progress()
    for step, value in enumerate([2.0, math.nan, 3.0, 3.0, 1.0, math.inf, 2.0], start=1):
        progress.step = step
        progress.record_validation(value, higher_is_better=True, keep_best=3)
    assert list(progress.best_values.items()) == [(3, 3.0), (4, 3.0), (1, 2.0)]
    progress.compare_by("another criterion")
    assert progress.best_values == {}


def test_without_the_setting_only_the_last_are_kept(tmp_path: Path, train: Command) -> None:
    run = tmp_path / "run"
    assert train(run, *OPTIONS, "checkpoint.keep_best=1") == 0
    assert steps_of(run) == [32]
