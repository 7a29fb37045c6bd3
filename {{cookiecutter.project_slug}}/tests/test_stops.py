"""What ends a run: signals, data that cannot be loaded, numbers that are none."""
# ruff: noqa: D103  the names of the tests say what they test

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from base.base_dataset import Batch, Sample
from data_loader import synthetic
from data_loader.synthetic import Synthetic
from metrics.classification import ClassificationMetrics
from storage.checkpoint_file import load_checkpoint
from trainer.classifier import Classifier

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def last(run: Path) -> dict[str, Any]:
    return load_checkpoint(run / "checkpoints/last.pt")


# Signals


@contextmanager
def training(run: Path, *settings: str) -> "Iterator[subprocess.Popen[str]]":
    """A process that trains for a long time, in a group of its own."""
    options = ["--config", "config/synthetic.yaml", "--run-dir", str(run), "device=cpu"]
    options += ["model.name=networks.MLP", "trainer.epochs=1000", "logger.tensorboard=false"]
    with subprocess.Popen(
        [sys.executable, "-u", "train.py", *options, *settings],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COMMAND_PREFIX": "/bin/uv"},  # as in uv run
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def wait_for(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    assert any(text in line for line in process.stdout), process.communicate()


@pytest.mark.parametrize(
    ("number", "whole_group", "workers", "moment"),
    [
        (signal.SIGINT, False, 0, "epoch 1/1000"),
        (signal.SIGTERM, True, 2, "epoch 1/1000"),
        (signal.SIGUSR1, True, 2, "run folder"),
    ],
)
def test_a_signal_saves_and_ends_the_run(
    tmp_path: Path, number: signal.Signals, whole_group: bool, workers: int, moment: str
) -> None:
    run = tmp_path / "run"
    with training(run, f"data.workers={workers}") as process:
        wait_for(process, moment)
        while not (run / "checkpoints/last.pt").exists():  # so that the loop has begun
            time.sleep(0.001)
        for _ in range(2):  # as `uv run` passes on what `timeout` sends to all
            (os.killpg if whole_group else os.kill)(process.pid, number)
            time.sleep(0.001)
        output, errors = process.communicate(timeout=30)
        with pytest.raises(ProcessLookupError):  # no worker is left
            os.killpg(process.pid, 0)
    assert (process.returncode, errors) == (128 + number, "")
    assert output.endswith(f"; go on with: uv run python train.py --resume {run}\n")
    assert last(run)["step"] >= (36 if "epoch" in moment else 0)


ENDING = """
import signal
from utils.signals import StopSignals

with StopSignals():
    signal.raise_signal(signal.SIGTERM)
signal.raise_signal(signal.SIGTERM)
print("still there")
"""


def test_a_signal_that_comes_twice_does_not_end_a_process_that_is_about_to_leave() -> None:
    command = [sys.executable, "-c", ENDING]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "still there\n")


WAITING = """
import multiprocessing, time
from utils.signals import StopSignals

with StopSignals():
    multiprocessing.Process(target=time.sleep, args=(60,)).start()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_ctrl_c_that_comes_later_ends_the_process_and_its_workers_at_once() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING], cwd=ROOT, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for(process, "ready")
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)  # until workers, too, have closed the pipes
    assert (process.returncode, errors) == (-signal.SIGINT, "")  # to a shell that is 130


# Data that cannot be loaded


class Failing(Synthetic):
    """Has a sample that cannot be loaded."""

    fatal = False

    def __getitems__(self, indices: Tensor) -> Batch:
        if 77 in indices and self.split == "train":
            if self.fatal:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyError("the file of this sample")
        return super().__getitems__(indices)

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor([index]))

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        super().__init__(root, split, seed)
        self.split = split

    fingerprint = ""


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_that_cannot_be_loaded_is_named(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured, workers: int
) -> None:
    monkeypatch.setattr(synthetic, "Synthetic", Failing)
    assert train(tmp_path / "run", "seed=3", f"data.workers={workers}") == 1
    message = capsys.readouterr().err
    text = r"error: synthetic data: sample 77: KeyError: 'the file of this sample' \(.*test_stops"
    assert re.match(text, message)
    assert len(message.splitlines()) == 1
    assert 0 < last(tmp_path / "run")["step"] < 16


def test_a_sample_that_is_broken_from_the_start_is_named_before_training(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    whole = Synthetic.__getitems__

    def fail(dataset: Synthetic, indices: Tensor) -> Batch:
        if 789 in indices:  # the last one, which is part of the fingerprint
            raise ValueError("broken")
        return whole(dataset, indices)

    monkeypatch.setattr(Synthetic, "__getitems__", fail)
    assert train(tmp_path / "run") == 1
    assert "error: synthetic data: sample 789: ValueError: broken (" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@FORKS
def test_a_worker_that_dies_is_told(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(synthetic, "Synthetic", Failing)
    monkeypatch.setattr(Failing, "fatal", True)
    assert train(tmp_path / "run", "seed=3", "data.workers=1", "trainer.max_steps=15") == 1
    message = capsys.readouterr().err
    assert re.match(r"error: synthetic data: a worker died ", message)
    assert len(message.splitlines()) == 1
    assert last(tmp_path / "run")["step"] < 16


@FORKS
@pytest.mark.parametrize("signalled", [False, True])
def test_a_validation_that_fails_is_made_up_for(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    signalled: bool,
) -> None:
    """Whether the data was to blame or a signal that ended the workers too."""
    assert train(tmp_path / "whole") == 0
    run, whole, sent = tmp_path / "run", Synthetic.__getitems__, list[int]()

    def fail(dataset: Synthetic, indices: Tensor) -> Batch:
        if len(dataset) == 210 and 200 in indices:
            if signalled and not sent:
                sent.append(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)
            raise OSError("the disk is gone")
        return whole(dataset, indices)

    monkeypatch.setattr(Synthetic, "__getitems__", fail)
    assert train(run) == (143 if signalled else 1)
    assert ("sample 200: OSError: the disk is gone" in capsys.readouterr().err) == (not signalled)
    assert last(run)["step"] == 16
    monkeypatch.undo()
    assert command("train", "--resume", run) == 0
    rows = [(folder / "metrics.csv").read_text().split() for folder in (tmp_path / "whole", run)]
    wanted, found = (
        [row for row in part if not re.search("per_second|waiting", row)] for part in rows
    )
    assert found == wanted


# Numbers that are none


def spoil(patch: pytest.MonkeyPatch, steps: set[int], part: str) -> None:
    """Lets the loss of some steps, or the gradient alone, or the input be no number."""
    original = Classifier.training_step

    def step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        bad = torch.tensor(float("nan") if trainer.progress.step in steps else 1.0)
        if part == "input":
            return original(trainer, model, {**batch, "input": batch["input"] * bad})
        scalars = original(trainer, model, batch)
        if part == "gradient" and trainer.progress.step in steps:
            scalars["loss"].register_hook(lambda gradient: gradient * bad)
        elif part == "loss":
            scalars["loss"] = scalars["loss"] * bad
        return scalars

    patch.setattr(Classifier, "training_step", step)


@pytest.mark.parametrize("part", ["loss", "gradient", "input"])
def test_a_step_that_is_not_finite_is_named_and_can_be_repeated(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    part: str,
) -> None:
    run = tmp_path / "run"
    spoil(monkeypatch, {11}, part)
    options = ("checkpoint.every_steps=4", "logger.every_steps=7", "checkpoint.keep=9")
    assert train(run, *options) == 1
    file = run / "non_finite_00000011.pt"
    message = capsys.readouterr().err
    found = re.match(r"error: step 11: (.*) is not finite \(learning rate ([\d.]+)\)", message)
    assert found
    assert found[1].startswith("model" if part == "gradient" else "loss")
    assert float(found[2]) == pytest.approx(last(run)["settings"]["optimizer"]["lr"], rel=0.3)
    assert "in the batch" not in message  # which was good
    assert f"python train.py --resume {file} repeats it" in message
    for saved in run.rglob("*.pt"):
        state = load_checkpoint(saved)
        assert all(weight.isfinite().all() for weight in state["model"].values()), saved
        assert state["step"] <= 10
    assert load_checkpoint(file)["progress"]["step"] == 10
    assert load_checkpoint(file)["batches"][0]["input"].shape == (50, 1, 28, 28)

    capsys.readouterr()
    assert command("train", "--resume", file) == 1
    output = capsys.readouterr()
    assert "step 11: " in output.err
    assert "repeated one by one" not in output.out  # as it is looked at from the start
    monkeypatch.undo()
    assert command("train", "--resume", file) == 0


@pytest.mark.parametrize("part", ["loss", "gradient", "input"])
def test_steps_that_are_not_finite_can_be_skipped(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    run = tmp_path / "run"
    spoil(monkeypatch, {3, 20, 32}, part)
    assert train(run, "trainer.non_finite=skip", "trainer.ema=0.9", "optimizer.name=AdamW") == 0
    state = last(run)
    assert (state["step"], state["skipped"]) == (32, 3)
    assert state["optimizer0"]["state"][0]["step"] == 32 - 3
    assert all(weight.isfinite().all() for weight in state["average"].values())
    assert (run / "train.log").read_text(encoding="utf-8").count("skipped (3 so far)") == 1


def test_data_that_are_not_finite_are_named(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    original = Synthetic.transform

    def transform(dataset: Synthetic, batch: Batch, generator: torch.Generator | None) -> Batch:
        bad = math.nan if generator is not None else 1.0  # in training
        return {**batch, "input": original(dataset, batch, generator)["input"] * bad}

    monkeypatch.setattr(Synthetic, "transform", transform)
    assert train(tmp_path / "run") == 1
    said = capsys.readouterr()
    assert re.search(r"loss is not finite in some step after step 0; the steps", said.out)
    assert re.search(r"step 1: loss .*; nor is input in the batch that the data gave; ", said.err)


def test_a_run_whose_first_steps_are_all_skipped_has_failed(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    spoil(monkeypatch, set(range(99)), "loss")
    assert train(tmp_path / "run", "trainer.non_finite=skip") == 1
    (file,) = (tmp_path / "run").glob("non_finite_00000010.pt")
    assert f"--resume {file} repeats it" in capsys.readouterr().err


def test_a_run_that_skips_most_steps_keeps_few_batches_and_has_no_best_epoch(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, set(range(2, 99)), "loss")
    nothing, counted = {"loss": torch.tensor(math.nan)}, ClassificationMetrics.compute
    monkeypatch.setattr(ClassificationMetrics, "compute", lambda self: counted(self) | nothing)
    options = ("trainer.non_finite=skip", "trainer.epochs=1", "checkpoint.monitor=loss")
    assert train(tmp_path / "run", *options) == 0
    assert last(tmp_path / "run")["skipped"] == 15
    assert last(tmp_path / "run")["validations_without_improvement"] == 1
    assert len(list((tmp_path / "run").glob("non_finite_*.pt"))) == 10
    assert not (tmp_path / "run/checkpoints/best.pt").exists()


def test_what_is_skipped_changes_nothing_else(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A skipped step leaves the weights as if its gradient had not been there."""
    constant = ["scheduler={name: constant}", "optimizer.nesterov=false", "trainer.max_steps=3"]
    weights = []
    for part in ("input", "loss"):
        with pytest.MonkeyPatch.context() as patch:
            spoil(patch, {2}, part)
            assert train(tmp_path / part, *constant, "trainer.non_finite=skip") == 0
        weights.append(last(tmp_path / part)["model"])
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
