"""trainer.max_minutes ends a run, over all its starts, and a schedule can span it."""
# ruff: noqa: D103  the names of the tests state what they test

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import launcher
import pytest
from conftest import TINY_MODEL
from launcher import run_processes
from stopped_runs import during_step, load, send_signal

end_started_processes = launcher.end_started_processes  # a fixture of all tests in this module

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
LONG = (*TINY_MODEL, "trainer.epochs=100000", "trainer.max_minutes=0.01")


def progress_of(run: Path) -> dict[str, Any]:
    return dict(load(run)["progress"])


def test_a_run_ends_with_a_validation_when_its_time_is_up(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, *LONG, "scheduler.span=minutes", "trainer.validate_every_epochs=999") == 0
    assert "trainer.max_minutes = 0.01 ends the run at step" in capsys.readouterr().out
    progress = progress_of(run)
    assert progress["step"] == progress["validated_step"] > 0
    result = json.loads((run / "result.json").read_text())
    assert (result["state"], result["exit_code"]) == ("finished", 0)
    assert result["best"]["step"] == result["step"] < result["total_steps"]
    assert result["minutes"] >= 0.01

    assert command("train", "--resume", run) == 0  # nothing is left of the time
    output = capsys.readouterr().out
    assert "trainer.max_minutes=N continues it" in output
    assert progress_of(run) == progress
    more = ("trainer.max_minutes=null", f"trainer.max_steps={progress['step'] + 3}")
    assert command("train", "--resume", run, "scheduler.span=steps", *more) == 0
    assert progress_of(run)["step"] == progress["step"] + 3


@pytest.mark.parametrize("seconds", [0.0, 3600.0])
def test_the_time_of_earlier_starts_counts(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        during_step(patch, 12, send_signal(signal.SIGTERM))
        options = (*TINY_MODEL, "trainer.max_minutes=30", "checkpoint.every_steps=5")
        assert train(run, *options) == 128 + signal.SIGTERM
    file = run / "training_time.json"
    times = json.loads(file.read_text())
    assert list(times) == ["0", "5", "10", "13"]
    assert list(times.values()) == sorted(times.values())
    (run / "checkpoints/step_00000013.pt").unlink()  # as after kill -9
    (run / "checkpoints/last.pt").unlink()
    file.write_text(json.dumps({**times, "10": seconds, "13": 0.0}))
    assert command("train", "--resume", run) == 0
    progress = progress_of(run)
    assert progress["validated_step"] == progress["step"] == (10 if seconds else 32)


def test_a_schedule_over_the_time_follows_it(make_trainer: Callable[..., Any]) -> None:
    options = ("scheduler.name=linear", "scheduler.span=minutes", "trainer.max_minutes=10")
    trainer = make_trainer(*TINY_MODEL, *options, "trainer.epochs=100")
    (group,) = trainer.optimizers[0].param_groups
    highest = group["lr"]
    trainer.set_learning_rates(800)  # before training, as in the preview
    assert group["lr"] == pytest.approx(highest / 2)
    with trainer.training_time.running(0):
        for seconds, factor in ((0, 1), (150, 0.75), (450, 0.25), (400, 0.25), (599, 1 / 600)):
            trainer.training_time.agree_on(seconds, step=3)
            trainer.set_learning_rates(3)
            assert group["lr"] == pytest.approx(factor * highest, abs=1e-3 * highest)
            assert not trainer.training_time.is_up
        trainer.training_time.agree_on(600, step=3)
        assert trainer.training_time.is_up
        trainer.set_learning_rates(3)
        assert group["lr"] >= 0


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (("scheduler.span=minutes",), ("scheduler.span", "trainer.max_minutes")),
        (
            ("scheduler={name: StepLR, step_size: 3, span: minutes}", "trainer.max_minutes=1"),
            ("scheduler.span", "StepLR", "optim/schedules.py"),
        ),
        (("scheduler.span=hours",), ("scheduler.span", "minutes")),
        (("trainer.max_minutes=0",), ("trainer.max_minutes",)),
    ],
)
def test_impossible_times_are_errors(
    refused: Callable[..., str], changes: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    message = refused(*changes)
    assert len(message.splitlines()) == 1
    for part in parts:
        assert part in message


def test_another_time_of_a_schedule_is_reported(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    timed = ("scheduler.span=minutes", "trainer.max_minutes=9", "trainer.max_steps=2")
    assert train(run, *TINY_MODEL, *timed) == 0
    more = ("trainer.max_minutes=8", "trainer.max_steps=3")
    assert command("train", "--resume", run, *more) == 0
    assert "trainer.max_minutes 9.0 -> 8.0" in capsys.readouterr().out


def test_distributed_processes_stop_at_the_same_step(tmp_path: Path) -> None:
    schedule = ("scheduler.name=linear", "scheduler.span=minutes")
    run_processes(2, "train", tmp_path, *LONG, *schedule)
    progress = progress_of(tmp_path)  # saved, so the weights of the processes are the same
    assert progress["step"] == progress["validated_step"] > 1
