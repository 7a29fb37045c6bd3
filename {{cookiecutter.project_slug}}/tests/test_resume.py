"""Resuming: a resumed run ends with the same bits as one that was never stopped."""
# ruff: noqa: D103  the names of the tests state what they test

import contextlib
import math
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import TINY_MODEL
from hypothesis import HealthCheck, Phase, given, settings, strategies
from stopped_runs import (
    STATEFUL_SETTINGS,
    assert_resumes_exactly,
    assert_same_run,
    differences,
    during_step,
    load,
    logged_rows,
    saved_step,
    send_signal,
)
from torch import Tensor, nn

from base.base_dataset import Batch
from data_loader import synthetic
from data_loader.synthetic import Synthetic
from trainer.classifier import Classifier
from utils.errors import LoadingError

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
SMALL_MODEL = "model.name=networks.MLP"


def crash() -> None:
    raise RuntimeError("power failure")


def add_noise(patch: pytest.MonkeyPatch) -> None:
    """Adds random noise to the inputs, so that runs agree only if their generators do."""
    original = Classifier.training_step

    def training_step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        scale = random.random() + float(np.random.rand())
        noise = scale * torch.randn_like(batch["input"])
        return original(trainer, model, {**batch, "input": batch["input"] + noise})

    patch.setattr(Classifier, "training_step", training_step)


# Of function scope, so that `trained_run`, which other modules use as well, is never noisy.
@pytest.fixture(autouse=True)
def noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds noise in each test."""
    add_noise(monkeypatch)


@pytest.fixture(scope="module")
def uninterrupted_run(train: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with `STATEFUL_SETTINGS` that was never stopped."""
    run = tmp_path_factory.mktemp("uninterrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        add_noise(patch)
        assert train(run, *STATEFUL_SETTINGS) == 0
    return run


# Stopping and resuming


@pytest.mark.parametrize("stop", [1, 5, 8, 9, 15])  # epochs have 8 steps, log entries 3
def test_stopped_run_ends_as_if_it_had_not_been_stopped(
    tmp_path: Path, uninterrupted_run: Path, train: Command, command: Command, stop: int
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        # The step in which the signal arrives is completed.
        during_step(patch, stop - 1, send_signal(signal.SIGTERM))
        assert train(run, *STATEFUL_SETTINGS) == 128 + signal.SIGTERM
    assert saved_step(run) == stop
    assert command("train", "--resume", run) == 0
    assert saved_step(run) == saved_step(uninterrupted_run) == 16
    assert_same_run(run, uninterrupted_run)
    assert differences(load(run, "best"), load(uninterrupted_run, "best")) == []


@pytest.mark.parametrize(
    "choice",
    [
        "optimizer={name: LBFGS, lr: 0.1, max_iter: 3}",
        "optimizer={name: schedulefree.AdamWScheduleFree, warmup_steps: 3}",
        "optimizer={name: SGD, lr: 0.1, groups: {'*.bias': {lr: 0.2, momentum: 0.5}}}",
        "scheduler={name: OneCycleLR, max_lr: 0.1, interval: step}",
        "scheduler={name: ReduceLROnPlateau, mode: max, patience: 0, threshold: 10.0}",
    ],
)
def test_optimizers_and_schedulers_of_libraries_resume_exactly(
    tmp_path: Path, train: Command, command: Command, choice: str
) -> None:
    if "schedulefree" in choice:
        pytest.importorskip("schedulefree")
    optimizer = "optimizer={name: SGD, lr: 0.1, momentum: 0.9}"
    assert_resumes_exactly(tmp_path, train, command, *TINY_MODEL, optimizer, choice)


def test_signal_in_the_last_step_of_an_epoch_does_not_wait_for_the_validation(
    tmp_path: Path, train: Command
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        during_step(patch, 7, send_signal(signal.SIGTERM))
        assert train(run, *STATEFUL_SETTINGS) == 128 + signal.SIGTERM
    progress = load(run)["progress"]
    assert (progress["step"], progress["validated_step"]) == (8, 0)


def test_crashed_run_resumes_from_its_last_checkpoint(
    tmp_path: Path, uninterrupted_run: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="power failure"):
        during_step(patch, 13, crash)
        train(run, *STATEFUL_SETTINGS)
    assert saved_step(run) == 8  # the end of the first epoch
    last_logged_step = logged_rows(run)[-1][3]
    assert last_logged_step == "12"
    with (run / "metrics.csv").open("a", encoding="utf-8") as file:
        file.write("synthetic data,train,2")  # an incomplete row, as after SIGKILL
    assert command("train", "--resume", run) == 0
    assert_same_run(run, uninterrupted_run)


def test_run_that_failed_in_its_last_validation_resumes_with_it(
    tmp_path: Path, uninterrupted_run: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    original = Classifier.evaluation_step

    def evaluation_step(trainer: Classifier, model: nn.Module, batch: Batch) -> None:
        if trainer.progress.step == 16:
            raise LoadingError("a worker died", 1)
        original(trainer, model, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Classifier, "evaluation_step", evaluation_step)
        assert train(run, *STATEFUL_SETTINGS) == 1
    progress = load(run)["progress"]
    assert progress["step"] == 16
    assert progress["validated_step"] == 8
    assert command("train", "--resume", run) == 0
    assert_same_run(run, uninterrupted_run)


def test_resume_uses_the_newest_checkpoint_rather_than_the_best(
    tmp_path: Path, trained_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(trained_run, tmp_path / "run")
    assert saved_step(run, "best") == 16
    assert saved_step(run) == 32
    during_step(monkeypatch, 20, crash)  # fails if this step is made again
    assert command("train", "--resume", run, "trainer.epochs=3", "trainer.max_steps=33") == 0
    assert saved_step(run) == 33


def test_patience_of_early_stopping_is_resumed(
    tmp_path: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    # At such a learning rate no weight changes, so only the first validation is an improvement.
    changes = [SMALL_MODEL, "optimizer.lr=1e-30", "trainer.epochs=9", "trainer.early_stop=2"]
    with pytest.MonkeyPatch.context() as patch:
        during_step(patch, 2 * 16, send_signal(signal.SIGTERM))
        assert train(run, *changes) == 128 + signal.SIGTERM
    assert load(run)["progress"]["validations_without_improvement"] == 1
    assert command("train", "--resume", run) == 0
    assert saved_step(run) == 3 * 16


@pytest.mark.parametrize(
    ("change", "criterion"),
    [("checkpoint.monitor=accuracy", "highest accuracy"), ("checkpoint.mode=max", "highest loss")],
)
def test_another_criterion_starts_the_comparison_again(
    tmp_path: Path, train: Command, command: Command, capsys: Captured, change: str, criterion: str
) -> None:
    run = tmp_path / "run"
    # At such a learning rate no weight changes, so only the first validation is an improvement.
    changes = [SMALL_MODEL, "optimizer.lr=1e-30", "trainer.epochs=9", "trainer.early_stop=1"]
    assert train(run, *changes, "checkpoint.monitor=loss") == 0
    first = load(run)["progress"]
    assert (first["step"], first["best_step"]) == (2 * 16, 16)
    output = capsys.readouterr().out
    stops = [line for line in output.splitlines() if "trainer.early_stop" in line]
    assert f"{first['best']:.4g}" in stops[-1]
    assert command("train", "--resume", run) == 0
    assert "trainer.early_stop" in capsys.readouterr().out
    assert load(run)["progress"]["step"] == 2 * 16

    assert command("train", "--resume", run, change) == 0
    output = capsys.readouterr().out
    assert criterion in output
    assert "lowest loss" in output
    resumed = load(run)["progress"]
    assert resumed["step"] == 4 * 16
    assert resumed["best_step"] == 3 * 16
    assert saved_step(run, "best") == 3 * 16
    assert command("train", "--resume", run, "trainer.early_stop=2") == 0
    assert "lowest" not in capsys.readouterr().out
    assert load(run)["progress"]["step"] == 5 * 16


def test_other_validation_data_start_the_comparison_again(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, SMALL_MODEL, "optimizer.lr=1e-30", "trainer.epochs=1") == 0
    with pytest.MonkeyPatch.context() as patch:
        original = Synthetic.__getitem__

        def changed(dataset: Synthetic, index: int) -> Any:
            sample = original(dataset, index)
            if len(dataset) == synthetic.VALIDATION:
                sample = {**sample, "target": sample["target"] * 0}
            return sample

        patch.setattr(Synthetic, "__getitem__", changed)
        capsys.readouterr()
        assert command("train", "--resume", run, "trainer.epochs=2") == 0
    assert "trainer.early_stop" in capsys.readouterr().out
    assert load(run)["progress"]["best_step"] == 2 * 16


@FORKS
def test_number_of_workers_may_change_when_a_run_resumes(
    tmp_path: Path, uninterrupted_run: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        during_step(patch, 4, send_signal(signal.SIGINT))
        assert train(run, *STATEFUL_SETTINGS, "data.workers=1") == 128 + signal.SIGINT
        during_step(patch, 10, send_signal(signal.SIGUSR1))
        assert command("train", "--resume", run, "data.workers=0") == 128 + signal.SIGUSR1
    assert command("train", "--resume", run, "data.workers=2") == 0
    assert_same_run(run, uninterrupted_run, allowed=("/settings/data/workers",))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard itself
def test_tensorboard_has_each_step_once_after_a_crash(
    tmp_path: Path, train: Command, command: Command, logged: Callable[..., list[float]]
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    changes = [SMALL_MODEL, "logger.tensorboard=true", "logger.every_steps=3"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="power failure"):
        during_step(patch, 28, crash)  # after the log entries of steps 18 to 27
        train(run, *changes)
    assert command("train", "--resume", run) == 0
    events = EventAccumulator(str(run / "tensorboard")).Reload().Scalars("train/loss")
    steps = [event.step for event in events]
    assert steps == [3, 6, 9, 12, 15, 16, 18, 21, 24, 27, 30, 32]
    values = [event.value for event in events]
    assert values == pytest.approx(logged(run, "train", "loss"), rel=1e-6)


# Profiling


def test_profiled_steps_do_not_affect_a_run(
    tmp_path: Path, uninterrupted_run: Path, train: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, *STATEFUL_SETTINGS, "trainer.profile=3") == 0
    assert_same_run(run, uninterrupted_run, allowed=("/settings/trainer/profile",))

    output = capsys.readouterr().out
    header, _, *rows = output[output.index("part of a step") :].splitlines()[:7]
    assert header.split()[-2:] == ["ms", "%"]
    parts = ["waiting for data", "forward", "backward", "optimizer", "other"]
    assert [row[:16].strip() for row in rows] == parts
    percentages = [float(row.split()[-1]) for row in rows]
    assert sum(percentages) == pytest.approx(100, abs=0.3)

    file = run / "profile/trace.json"
    assert str(file) in output
    trace = file.read_text(encoding="utf-8")
    assert trace.count('"name": "forward"') == 3 * 2  # each step has two batches


# Changes of settings and data


def test_other_settings_are_rejected_without_force(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, "trainer.max_steps=1") == 0
    changes = ["data.batch_size=64", "seed=1", "trainer.accumulate=2", "model.width=8"]
    assert command("train", "--resume", run, *changes, "trainer.max_steps=2") == 2
    message = capsys.readouterr().err
    for part in ("data.batch_size: 50 -> 64", "seed: 0 -> 1", "model.width: 32 -> 8", "--force"):
        assert part in message
    assert "max_steps" not in message
    assert saved_step(run) == 1


def test_force_allows_other_settings(tmp_path: Path, train: Command, command: Command) -> None:
    run = tmp_path / "run"
    assert train(run, SMALL_MODEL, "trainer.max_steps=1") == 0
    changes = ["data.batch_size=64", "seed=1", "trainer.accumulate=2", "trainer.max_steps=2"]
    assert command("train", "--resume", run, *changes, "--force") == 0
    assert saved_step(run) == 2
    assert "data.batch_size: 50 -> 64" in (run / "train.log").read_text(encoding="utf-8")
    assert load(run)["settings"]["data"]["batch_size"] == 64


def test_other_data_are_rejected_without_force(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    run = tmp_path / "run"
    assert train(run, SMALL_MODEL, "trainer.max_steps=1") == 0
    monkeypatch.setattr(synthetic, "ANGLE_STD", 0.3)
    assert command("train", "--resume", run, "trainer.max_steps=2") == 2
    message = capsys.readouterr().err
    assert "data: " in message
    assert "--force" in message
    assert saved_step(run) == 1
    assert command("train", "--resume", run, "trainer.max_steps=2", "--force") == 0
    assert saved_step(run) == 2


def test_a_run_that_returns_to_an_earlier_step_has_a_new_best_checkpoint(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    saving = ("trainer.validate_every_steps=8", "checkpoint.keep=9", "checkpoint.monitor=loss")
    assert train(run, SMALL_MODEL, *saving) == 0
    assert load(run, "best")["progress"]["step"] > 8
    first = run / "checkpoints/step_00000008.pt"
    capsys.readouterr()
    assert command("train", "--resume", first, "optimizer.lr=1e-9", "--force") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "best.pt, " in line]
    assert "step 8;" in line
    assert load(run, "best")["settings"]["optimizer"]["lr"] == 1e-9


def test_finished_run_can_be_extended(tmp_path: Path, train: Command, command: Command) -> None:
    constant = "scheduler={name: constant}"  # other schedules depend on the number of steps
    long = tmp_path / "long"
    extended = tmp_path / "extended"
    assert train(long, SMALL_MODEL, constant) == 0
    assert train(extended, SMALL_MODEL, constant, "trainer.max_steps=16") == 0
    assert saved_step(extended) == 16
    assert command("train", "--resume", extended, "trainer.max_steps=null") == 0
    assert_same_run(extended, long)


def learning_rate_warning(output: str) -> str:
    """The line about the learning rate in the output of train.py; empty if there is none."""
    lines = [line for line in output.splitlines() if "learning rate of step" in line]
    assert len(lines) <= 1
    return "".join(lines)


@pytest.mark.parametrize(
    ("epochs", "rates"),
    [  # cosine of 0.05 at step 8: before with 32 steps, now with 48 and with 16
        (3, (0.05 * (1 + math.cos(math.pi / 6)) / 2, 0.05 * (1 + math.cos(math.pi / 4)) / 2)),
        (1, (0.05 / 2, 0.05 * (1 + math.cos(math.pi / 4)) / 2)),
    ],
)
def test_another_number_of_epochs_is_reported_with_its_effect_on_the_rate(
    tmp_path: Path,
    train: Command,
    command: Command,
    logged: Callable[..., list[float]],
    capsys: Captured,
    epochs: int,
    rates: tuple[float, float],
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        during_step(patch, 7, lambda: os.kill(os.getpid(), signal.SIGINT))
        changes = [SMALL_MODEL, "scheduler.name=cosine", "logger.every_steps=1"]
        assert train(run, *changes) == 130
    assert saved_step(run) == 8
    capsys.readouterr()
    assert command("train", "--resume", run, f"trainer.epochs={epochs}") == 0
    warning = learning_rate_warning(capsys.readouterr().out)
    new_rate, old_rate = rates
    for part in (
        f"trainer.epochs 2 -> {epochs}: ",
        f"of step 9 becomes {new_rate:.3g} instead of {old_rate:.3g}, ",
        "the schedule cosine",
        f" {16 * epochs} steps instead of 32",
    ):
        assert part in warning
    assert logged(run, "train", "lr")[8] == pytest.approx(new_rate)


def test_the_rate_after_the_end_of_a_run_is_compared_with_that_of_its_last_step(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    changes = [SMALL_MODEL, "scheduler.name=linear", "trainer.max_steps=4"]
    assert train(run, *changes) == 0
    capsys.readouterr()
    assert command("train", "--resume", run, "trainer.max_steps=8") == 0
    warning = learning_rate_warning(capsys.readouterr().out)
    assert "trainer.max_steps 4 -> 8: " in warning
    assert "of step 5 becomes 0.025 instead of 0.0125 as in step 4, " in warning


@pytest.mark.parametrize(
    ("schedule", "old_steps", "new_steps", "part"),
    [
        ("scheduler.name=constant", 4, 8, ""),
        ("scheduler={name: exponential, factor: 0.5}", 4, 8, ""),
        ("scheduler={name: StepLR, step_size: 1}", 4, 8, ""),
        # the same length
        ("scheduler={name: OneCycleLR, max_lr: 0.1, interval: step}", 8, 8, ""),
        ("scheduler.name=constant", 8, 6, "the run ends at step 6 instead of 8"),
        ("scheduler={name: StepLR, step_size: 1}", 8, 6, "the run ends at step 6 instead of 8"),
        (
            "scheduler={name: OneCycleLR, max_lr: 0.1, interval: step}",
            8,
            6,
            "OneCycleLR remains one of 8 steps",
        ),
    ],
)
def test_another_length_without_effect_on_the_rate_is_reported_if_it_is_shorter(
    tmp_path: Path,
    train: Command,
    command: Command,
    capsys: Captured,
    schedule: str,
    old_steps: int,
    new_steps: int,
    part: str,
) -> None:
    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        during_step(patch, 3, lambda: os.kill(os.getpid(), signal.SIGINT))
        train(run, SMALL_MODEL, schedule, f"trainer.max_steps={old_steps}")
    assert saved_step(run) == 4
    capsys.readouterr()
    assert command("train", "--resume", run, f"trainer.max_steps={new_steps}") == 0
    output = capsys.readouterr().out
    assert not learning_rate_warning(output)
    warnings = [line for line in output.splitlines() if "the run ends" in line]
    assert len(warnings) == (1 if part else 0)
    assert part in output


def test_a_scheduler_that_cannot_be_extended_is_an_error(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    schedule = "scheduler={name: OneCycleLR, max_lr: 0.1, interval: step}"
    assert train(run, SMALL_MODEL, schedule, "trainer.max_steps=4") == 0
    assert command("train", "--resume", run) == 0  # nothing left to do
    capsys.readouterr()
    assert command("train", "--resume", run, "trainer.max_steps=6") == 2
    message = capsys.readouterr().err
    for part in ("OneCycleLR", "4 steps", "6", "trainer.max_steps", "model.init_from"):
        assert part in message
    assert saved_step(run) == 4

    by_epoch = tmp_path / "by_epoch"  # it is called once in each epoch, of 4 times at most
    schedule = "scheduler={name: OneCycleLR, max_lr: 0.1}"
    assert train(by_epoch, SMALL_MODEL, schedule, "trainer.max_steps=4") == 0
    assert command("train", "--resume", by_epoch, "trainer.max_steps=20") == 0


@pytest.mark.parametrize(
    ("change", "key"),
    [("scheduler.step_size=3", "step_size"), ("scheduler={name: ConstantLR}", "name")],
)
def test_a_scheduler_of_torch_continues_as_it_was(
    tmp_path: Path, train: Command, command: Command, capsys: Captured, change: str, key: str
) -> None:
    run = tmp_path / "run"
    schedule = "scheduler={name: StepLR, step_size: 1}"
    assert train(run, SMALL_MODEL, schedule, "trainer.max_steps=2") == 0
    capsys.readouterr()
    longer = ("train", "--resume", run, "--force", "trainer.max_steps=4")
    assert command(*longer, change) == 2
    assert f"scheduler.{key} = " in capsys.readouterr().err
    assert command(*longer, "scheduler.name=constant") == 0


def test_run_cannot_end_before_its_current_step(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, SMALL_MODEL, "trainer.max_steps=16") == 0
    settings = (run / "settings.yaml").read_text()
    capsys.readouterr()
    assert command("train", "--resume", run, "trainer.max_steps=8") == 2
    message = capsys.readouterr().err
    for part in ("trainer.max_steps", "step 8,", "step 16"):
        assert part in message
    assert (run / "settings.yaml").read_text() == settings


def test_finished_run_makes_no_more_steps(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, SMALL_MODEL, "trainer.max_steps=16") == 0
    before = load(run)
    capsys.readouterr()
    assert command("train", "--resume", run) == 0
    output = capsys.readouterr().out
    for part in (f"run folder: {run}\n", "resuming from step 16\n", "all 16 steps are done"):
        assert part in output
    assert differences(load(run), before) == []


def test_settings_file_of_a_run_reproduces_it(
    tmp_path: Path, uninterrupted_run: Path, command: Command
) -> None:
    file = uninterrupted_run / "settings.yaml"
    same = tmp_path / "same"
    assert command("train", "--config", file, "--run-dir", same) == 0
    assert_same_run(same, uninterrupted_run)
    other = tmp_path / "other"
    assert command("train", "--config", file, "--run-dir", other, "seed=1") == 0
    assert "/model/head.weight" in differences(load(other), load(uninterrupted_run))


# Finding the run


def test_last_is_the_run_that_ran_most_recently_whatever_the_times_of_the_files(
    tmp_path: Path, train: Command, command: Command
) -> None:
    folder = tmp_path / "runs/x"
    file_times = {"a": 1_000_000, "b": 3_000_000, "c": 2_000_000}
    for name in file_times:
        assert train(folder / name, SMALL_MODEL, "trainer.max_steps=1") == 0
    for name, time in file_times.items():  # as if the folders had been copied
        for file in (folder / name).rglob("*"):
            os.utime(file, (time, time))
    assert command("train", "--resume", "last", "trainer.max_steps=2") == 0
    assert {name: saved_step(folder / name) for name in file_times} == {"a": 1, "b": 1, "c": 2}
    assert command("train", "--resume", folder / "a", "trainer.max_steps=3") == 0
    assert command("train", "--resume", "last", "trainer.max_steps=4") == 0
    assert {name: saved_step(folder / name) for name in file_times} == {"a": 4, "b": 1, "c": 2}
    logged_starts = (folder / "a/train.log").read_text(encoding="utf-8")
    assert '"command": "train.py --resume last trainer.max_steps=4"' in logged_starts
    assert command("evaluate", "last") == 0
    (metrics,) = folder.glob("*/evaluation/test/metrics.json")
    assert metrics.is_relative_to(folder / "a")


@pytest.mark.parametrize("run", ["last", "missing", "empty"])
def test_resuming_without_a_run_is_rejected(
    tmp_path: Path, command: Command, capsys: Captured, run: str
) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("train --resume", "evaluate"):
        assert command(*name.split(), run) == 2
        assert "error: " in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"]


def test_config_and_resume_cannot_be_combined(
    trained_run: Path, command: Command, capsys: Captured
) -> None:
    assert command("train", "--resume", trained_run, "--config", "some.yaml") == 2
    message = capsys.readouterr().err
    assert "--config" in message
    assert "--resume" in message


def test_new_run_does_not_use_a_folder_with_other_files(
    tmp_path: Path, train: Command, capsys: Captured
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("mine")
    assert train(tmp_path) == 2
    assert f"{tmp_path} is not empty" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [notes]


# Any run, stopped anywhere


class FewImages(Synthetic):
    """So few images that an epoch has a handful of steps."""

    def __init__(self, split: str) -> None:
        super().__init__(Path(), split, 0)
        self.images = self.images[:31]
        self.targets = self.targets[:31]


class Interrupted(Classifier):
    """Ends after a step, by a signal or by an error."""

    last_step = 0
    interrupt: Callable[[], None] = staticmethod(crash)

    def after_step(self, outputs: object) -> None:
        if self.progress.step == self.last_step:
            self.interrupt()


def setting(key: str, *values: object) -> strategies.SearchStrategy[str]:
    """``KEY=VALUE`` with one of the values."""
    return strategies.sampled_from([f"{key}={value}" for value in values])


ANY_RUN = strategies.tuples(
    setting("data.batch_size", 3, 7, 16),
    setting("trainer.accumulate", 1, 2, 3),
    setting("trainer.epochs", 1, 2, 3),
    setting("trainer.max_steps", "null", 5, 9),
    setting("trainer.ema", "null", 0.5, 0.999),
    setting("trainer.early_stop", "null", 1, 2),
    setting("trainer.clip_norm", "null", 0.1),
    setting("trainer.validate_every_steps", "null", 1, 3, 4),
    setting("checkpoint.every_steps", "null", 1, 2, 5),
    setting("checkpoint.monitor", "loss", "accuracy"),
    setting("logger.every_steps", 1, 3, 50),
    setting("optimizer.name", "SGD", "AdamW", "RMSprop"),
    setting(
        "scheduler",
        "{name: cosine, warmup: 0.2}",
        "{name: StepLR, step_size: 2, interval: step}",
        "{name: StepLR, step_size: 1, interval: epoch}",
    ),
)


@given(
    changes=ANY_RUN,
    last_step=strategies.integers(1, 12),
    interrupt=strategies.sampled_from([crash, send_signal(signal.SIGTERM)]),
)
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking a failure would take minutes
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_any_run_resumes_exactly_after_any_step(
    make_trainer: Callable[..., Any],
    changes: tuple[str, ...],
    last_step: int,
    interrupt: Callable[[], None],
) -> None:
    few_images = FewImages("train")
    few_images.fit()

    def make() -> Any:
        arguments = (SMALL_MODEL, "model.width=4", *changes)
        return make_trainer(*arguments, kind=Interrupted, train=few_images)

    trainer = make()
    shutil.rmtree(trainer.run)
    trainer = make()
    trainer.fit()
    expected = load(trainer.run)
    expected_rows = logged_rows(trainer.run)
    shutil.rmtree(trainer.run)

    trainer = make()
    trainer.last_step = last_step
    trainer.interrupt = interrupt
    with contextlib.suppress(RuntimeError):
        trainer.fit()
    trainer = make()
    trainer.load_state_dict(load(trainer.run))
    trainer.fit()
    assert differences(load(trainer.run), expected) == []
    assert logged_rows(trainer.run) == expected_rows
