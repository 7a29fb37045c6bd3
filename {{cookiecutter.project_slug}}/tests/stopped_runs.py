"""Runs that are stopped in the middle and resumed, and their comparison bit by bit."""

import csv
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from storage.checkpoint_file import load_checkpoint
from trainer.classifier import Classifier

# Everything that has a state: moving average, moments, schedule, patience, sums to be logged.
# Epochs have 8 steps.
STATEFUL_SETTINGS = (
    "logger.every_steps=3",
    "optimizer.name=AdamW",
    "optimizer.lr=0.01",
    "trainer.accumulate=2",
    "trainer.clip_norm=1",
    "trainer.early_stop=5",
    "trainer.ema=0.9",
)
TIMED_METRICS = {"samples_per_second", "waiting_for_data"}


def differences(first: Any, second: Any, path: str = "") -> list[str]:
    """The paths at which two nested values differ in any bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        is_equal = first.dtype == second.dtype and torch.equal(first, second)
        return [] if is_equal else [path]
    if isinstance(first, list | tuple) and isinstance(second, list | tuple):
        first = dict(enumerate(first))
        second = dict(enumerate(second))
    if not (isinstance(first, dict) and isinstance(second, dict)):
        return [] if first == second else [path]
    found = []
    for key in first.keys() | second.keys():
        found += differences(first.get(key), second.get(key), f"{path}/{key}")
    return found


def load(run: Path, name: str = "last") -> dict[str, Any]:
    """The state in a checkpoint of a run."""
    return load_checkpoint(run / f"checkpoints/{name}.pt")


def saved_step(run: Path, name: str = "last") -> int:
    """The number of steps made before a checkpoint of a run was saved."""
    return int(load(run, name)["progress"]["step"])


def logged_rows(run: Path) -> list[list[str]]:
    """The rows of metrics.csv, without measured times."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [row for row in csv.reader(file) if TIMED_METRICS.isdisjoint(row)]


def assert_same_run(run: Path, expected: Path, allowed: tuple[str, ...] = ()) -> None:
    """Asserts that two runs have the same last state, except `allowed` paths, and the same log."""
    assert differences(load(run), load(expected)) == list(allowed)
    assert logged_rows(run) == logged_rows(expected)


def assert_resumes_exactly(
    folder: Path, train: Callable[..., int], command: Callable[..., int], *changes: str
) -> None:
    """Asserts that a run that is stopped twice ends as one that is not.

    Args:
        folder: where both runs are written.
        train: the fixture.
        command: the fixture.
        *changes: settings, apart from STATEFUL_SETTINGS.
    """
    expected = folder / "expected"
    run = folder / "run"
    assert train(expected, *STATEFUL_SETTINGS, *changes) == 0
    with pytest.MonkeyPatch.context() as patch:
        during_step(patch, 4, send_signal(signal.SIGTERM))
        assert train(run, *STATEFUL_SETTINGS, *changes) == 128 + signal.SIGTERM
    with pytest.MonkeyPatch.context() as patch:
        during_step(patch, 9, send_signal(signal.SIGTERM))
        assert command("train", "--resume", run) == 128 + signal.SIGTERM
    assert command("train", "--resume", run) == 0
    assert_same_run(run, expected)


def during_step(
    patch: pytest.MonkeyPatch, step: int, action: Callable[[], None], method: str = "training_step"
) -> None:
    """Calls `action` once, in a method of the trainer after `step` completed steps."""
    original = getattr(Classifier, method)
    calls: list[int] = []

    def patched(trainer: Classifier, *arguments: Any, **options: Any) -> Any:
        is_training = trainer.training_time.is_running  # and not in the sanity check
        if trainer.progress.step == step and not calls and is_training:
            calls.append(step)
            action()
        return original(trainer, *arguments, **options)

    patch.setattr(Classifier, method, patched)


def send_signal(number: signal.Signals) -> Callable[[], None]:
    """A function that sends a signal to this process."""

    def send() -> None:
        signal.raise_signal(number)

    return send


def fail_with(error: BaseException) -> Callable[..., None]:
    """A function that raises an error, whatever its arguments."""

    def fail(*_: object) -> None:
        raise error

    return fail
