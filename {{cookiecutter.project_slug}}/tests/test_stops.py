"""What ends a run: signals, data that cannot be loaded, non-finite values."""
# ruff: noqa: D103  the names of the tests state what they test

import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_runs import differences, load, logged_rows, saved_step
from torch import Tensor, nn

from base.base_dataset import Batch, Sample
from data_loader import synthetic
from data_loader.synthetic import Synthetic
from logger.figures import Figure
from metrics.classification import ClassificationMetrics
from storage.checkpoint_file import load_checkpoint
from storage.run_result import read_result
from trainer import classifier
from trainer.classifier import Classifier
from utils.command import run_command

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
SMALL_MODEL = "model.name=networks.MLP"


# Signals


@contextmanager
def training_process(run: Path, *settings: str) -> "Iterator[subprocess.Popen[str]]":
    """A process that trains for a long time, in its own process group."""
    options = ["--config", "config/synthetic.yaml", "--run-dir", str(run), "device=cpu"]
    options += [
        SMALL_MODEL,
        "trainer.epochs=1000",
        "logger.tensorboard=false",
        "logger.curves=false",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "UV": "/bin/uv"}  # as under `uv run`
    with subprocess.Popen(
        [sys.executable, "-u", "train.py", *options, *settings],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    ) as process:
        yield process
        process.kill()


def wait_for_output(process: "subprocess.Popen[str]", text: str) -> None:
    assert process.stdout is not None
    assert any(text in line for line in process.stdout), process.communicate()


def wait_for_file(file: Path) -> None:
    while not file.exists():
        time.sleep(0.001)


@pytest.mark.parametrize(
    ("number", "to_group", "workers", "awaited_output", "min_steps"),
    [
        (signal.SIGINT, False, 0, "epoch 1/1000", 36),
        (signal.SIGTERM, True, 2, "epoch 1/1000", 36),
        (signal.SIGHUP, True, 0, "run folder", 0),
        (signal.SIGUSR1, True, 2, "run folder", 0),
    ],
)
def test_signal_saves_and_ends_the_run(
    tmp_path: Path,
    number: signal.Signals,
    to_group: bool,
    workers: int,
    awaited_output: str,
    min_steps: int,
) -> None:
    run = tmp_path / "run"
    with training_process(run, f"data.workers={workers}") as process:
        wait_for_output(process, awaited_output)
        wait_for_file(run / "checkpoints/last.pt")  # the loop has started
        for _ in range(2):  # `uv run` forwards what `timeout` sends to the whole group
            if to_group:
                os.killpg(process.pid, number)
            else:
                os.kill(process.pid, number)
            time.sleep(0.001)
        output, errors = process.communicate(timeout=30)
        with pytest.raises(ProcessLookupError):  # no worker is left
            os.killpg(process.pid, 0)
    assert errors == ""
    assert process.returncode == 128 + number
    assert output.endswith(f": uv run python train.py --resume {run}\n")
    assert saved_step(run) >= min_steps


SIGNAL_AFTER_THE_LOOP = """
import signal
from utils.signals import StopSignals

with StopSignals():
    signal.raise_signal(signal.SIGTERM)
signal.raise_signal(signal.SIGTERM)
print("still running")
"""


def test_repeated_signal_does_not_end_a_process_that_is_about_to_exit() -> None:
    result = subprocess.run(
        [sys.executable, "-c", SIGNAL_AFTER_THE_LOOP],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout == "still running\n"


HANGUP_UNDER_NOHUP = """
import signal
from utils.signals import StopSignals

signal.signal(signal.SIGHUP, signal.SIG_IGN)
with StopSignals() as signals:
    signal.raise_signal(signal.SIGHUP)
    assert signals.received == 0
    signal.raise_signal(signal.SIGTERM)
    assert signals.received == signal.SIGTERM
print("still running")
"""

SECOND_HANGUP = """
import signal, time
from utils.signals import StopSignals

with StopSignals() as signals:
    signal.raise_signal(signal.SIGTERM)
    time.sleep(1.2)
    signal.raise_signal(signal.SIGHUP)
print("still running")
"""

IN_A_THREAD = """
import signal, threading
from utils.signals import StopSignals

before = signal.getsignal(signal.SIGTERM)

def enter():
    with StopSignals() as signals:
        assert signals.received == 0
        assert signal.getsignal(signal.SIGTERM) == before
        print("still running")

thread = threading.Thread(target=enter)
thread.start()
thread.join()
"""


@pytest.mark.parametrize("script", [HANGUP_UNDER_NOHUP, SECOND_HANGUP, IN_A_THREAD])
def test_signals_that_do_not_stop_a_run(script: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.stderr == ""
    assert result.stdout == "still running\n"


WAITING_WITH_A_WORKER = """
import multiprocessing, time
from utils.signals import StopSignals

with StopSignals():
    multiprocessing.Process(target=time.sleep, args=(60,)).start()
    print("ready", flush=True)
    time.sleep(60)
"""


def test_second_ctrl_c_ends_the_process_and_its_workers() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", WAITING_WITH_A_WORKER],
        cwd=ROOT,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        wait_for_output(process, "ready")
        process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1.5)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)  # until the worker has closed the pipes, too
    assert errors == ""
    assert process.returncode == -signal.SIGINT  # a shell reports 130


# Data that cannot be loaded


class Unreadable(Synthetic):
    """Training data of which sample 77 cannot be loaded."""

    kills_worker = False

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        super().__init__(root, split, seed)
        self.split = split

    def __getitem__(self, index: int) -> Sample:
        return self.__getitems__(torch.tensor([index]))

    def __getitems__(self, indices: Tensor) -> Batch:
        if 77 in indices and self.split == "train":
            if self.kills_worker:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyError("no such file")
        return super().__getitems__(indices)


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_sample_that_cannot_be_loaded_is_named_and_the_state_saved(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured, workers: int
) -> None:
    monkeypatch.setattr(synthetic, "Synthetic", Unreadable)
    run = tmp_path / "run"
    assert train(run, SMALL_MODEL, "seed=3", f"data.workers={workers}") == 1
    message = capsys.readouterr().err
    expected = r"error: synthetic data: sample 77: KeyError: 'no such file' \(.*test_stops"
    assert re.match(expected, message)
    assert len(message.splitlines()) == 1
    assert 0 < saved_step(run) < 16


@pytest.mark.parametrize("index", [0, 400, 789], ids=["first", "probed", "last"])
def test_unreadable_sample_is_named_before_training(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured, index: int
) -> None:
    original = Synthetic.__getitems__

    def fail(dataset: Synthetic, indices: Tensor) -> Batch:
        if len(dataset) == 790 and index in indices:
            raise ValueError("broken")
        return original(dataset, indices)

    monkeypatch.setattr(Synthetic, "__getitems__", fail)
    assert train(tmp_path / "run") == 1
    assert f"error: synthetic data: sample {index}: ValueError: broken (" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@FORKS
def test_death_of_a_worker_is_reported_and_the_state_saved(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(synthetic, "Synthetic", Unreadable)
    monkeypatch.setattr(Unreadable, "kills_worker", True)
    # The fingerprint is computed in this process, and does not read sample 77.
    run = tmp_path / "run"
    changes = [SMALL_MODEL, "seed=3", "data.workers=1", "trainer.max_steps=15"]
    assert train(run, *changes) == 1
    message = capsys.readouterr().err
    assert re.match(r"error: synthetic data: a worker process died .*data\.workers=0", message)
    assert len(message.splitlines()) == 1
    assert saved_step(run) < 16


@pytest.mark.parametrize("with_signal", [False, True])
def test_run_repeats_a_failed_validation_when_it_resumes(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    with_signal: bool,
) -> None:
    """The cause is either the data, or a signal that ended the workers as well."""
    expected = tmp_path / "expected"
    assert train(expected, SMALL_MODEL) == 0
    run = tmp_path / "run"
    original = Synthetic.__getitems__
    sent_signals: list[int] = []

    def fail(dataset: Synthetic, indices: Tensor) -> Batch:
        if len(dataset) == 210 and 200 in indices:
            if with_signal and not sent_signals:
                sent_signals.append(signal.SIGTERM)
                signal.raise_signal(signal.SIGTERM)
            raise OSError("disk removed")
        return original(dataset, indices)

    monkeypatch.setattr(Synthetic, "__getitems__", fail)
    exit_code = train(run, SMALL_MODEL)
    message = capsys.readouterr().err
    if with_signal:
        assert exit_code == 128 + signal.SIGTERM
        assert message == ""
    else:
        assert exit_code == 1
        assert "sample 200: OSError: disk removed" in message
    assert saved_step(run) == 16
    monkeypatch.undo()
    assert command("train", "--resume", run) == 0
    assert logged_rows(run) == logged_rows(expected)


# Errors in code of the project


class Counting(Classifier):
    """Changes a weight and a number after each validation, and fails at one place of a step."""

    saved_attributes = ("validations",)
    failure: tuple[str, int, type[BaseException]] = ("", 0, ValueError)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.validations = 0

    def fail(self, place: str) -> None:
        failing_place, step, error_type = self.failure
        if place == failing_place and self.progress.step == step:
            raise error_type(f"error in {place}")

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = super().training_step(model, batch)
        self.fail("training_step")
        return outputs

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        super().evaluation_step(model, batch)
        self.fail("evaluation_step")

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        self.fail("after_step")

    def after_evaluation(self, split: str, results: Mapping[str, Tensor]) -> None:
        self.validations += 1
        next(self.model.parameters()).data.mul_(0.9)
        self.fail("after_evaluation")

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        self.fail("figures")
        return {}


COUNTING = (
    SMALL_MODEL,
    "model.width=16",
    "optimizer.momentum=0.9",
    "trainer.name=classifier.Counting",
)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    """The class, where settings find it."""
    monkeypatch.setattr(Counting, "__module__", classifier.__name__)
    monkeypatch.setattr(classifier, "Counting", Counting, raising=False)
    return Counting


@pytest.mark.parametrize(
    ("place", "step", "error_type", "last_step"),
    [
        ("evaluation_step", 16, MemoryError, 16),
        ("after_evaluation", 16, ValueError, 16),
        ("after_evaluation", 32, KeyboardInterrupt, 32),
        ("figures", 32, KeyboardInterrupt, 32),
        ("training_step", 20, RuntimeError, 18),
        ("after_step", 20, ValueError, 18),
    ],
)
def test_error_loses_no_completed_step_and_keeps_no_half_one(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    counting: type[Counting],
    place: str,
    step: int,
    error_type: type[BaseException],
    last_step: int,
) -> None:
    options = (*COUNTING, "checkpoint.every_steps=9", "logger.tensorboard=true")
    expected = tmp_path / "expected"
    assert train(expected, *options) == 0
    run = tmp_path / "run"
    monkeypatch.setattr(counting, "failure", (place, step, error_type))
    if error_type is KeyboardInterrupt:
        assert train(run, *options) == 130
    else:
        with pytest.raises(error_type, match=f"error in {place}"):
            train(run, *options)
    output = capsys.readouterr().out
    assert re.search(rf"step {last_step}\b", output.splitlines()[-1])
    assert output.endswith(f"python train.py --resume {run}\n")
    assert saved_step(run) == last_step

    monkeypatch.setattr(counting, "failure", ("", 0, ValueError))
    assert command("train", "--resume", run) == 0
    assert not differences(load(run), load(expected))
    assert logged_rows(run) == logged_rows(expected)


def images_in_tensorboard(run: Path) -> set[str]:
    from tensorboard.backend.event_processing import event_accumulator

    events = event_accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    return set(events.Tags()["images"])


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard itself
@pytest.mark.parametrize("error_type", [ValueError, KeyboardInterrupt])
def test_figures_that_a_finished_run_lacks_are_drawn_when_it_is_resumed(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    counting: type[Counting],
    error_type: type[BaseException],
) -> None:
    run = tmp_path / "run"
    calls = []

    def figures(
        trainer: Counting, split: str, results: Mapping[str, Tensor]
    ) -> Mapping[str, Figure]:
        calls.append(split)
        if len(calls) == 1:
            raise error_type("error in figures")
        return Classifier.figures(trainer, split, results)

    monkeypatch.setattr(counting, "figures", figures)
    exit_code = train(run, *COUNTING, "logger.tensorboard=true")
    output = capsys.readouterr().out
    if error_type is ValueError:
        assert exit_code == 0
        for part in ("Counting.figures", "ValueError: error in figures", f"{__file__}, line "):
            assert part in output
        assert read_result(run)["state"] == "finished"
    else:  # as after a kill
        assert exit_code == 130
    assert f"python train.py --resume {run}\n" in output
    assert images_in_tensorboard(run) == {"visuals/inputs"}
    before = load(run)
    rows = logged_rows(run)

    for _ in range(2):
        assert command("train", "--resume", run) == 0
        assert calls == ["validation"] * 2
        assert {"visuals/inputs", "visuals/confusion_matrix"} <= images_in_tensorboard(run)
    assert not differences(load(run), before)
    assert logged_rows(run) == rows

    # The steps after an earlier checkpoint are repeated, and so are their figures.
    assert command("train", "--resume", run / "checkpoints/step_00000016.pt") == 0
    assert calls == ["validation"] * 3


def test_training_continues_if_the_inputs_cannot_be_drawn(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def draw(dataset: Synthetic, batch: Batch, heading: str, titles: Sequence[str] = ()) -> None:
        if heading.endswith("inputs"):
            raise ValueError("error in draw")

    monkeypatch.setattr(Synthetic, "draw", draw)
    assert train(tmp_path / "run", SMALL_MODEL, "logger.tensorboard=true") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "error in draw" in line]
    assert "ValueError" in line
    assert f"{__file__}, line " in line
    assert saved_step(tmp_path / "run") == 32


@pytest.mark.parametrize(("value", "exit_code"), [(0, 1), (None, 1), (3, 3), ("no licence", 1)])
def test_sys_exit_in_code_of_the_project_is_an_error(
    capsys: Captured, value: Any, exit_code: int
) -> None:
    def main() -> None:
        sys.exit(value)

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == exit_code
    message = capsys.readouterr().err
    assert message.startswith(f"error: sys.exit({value!r}) ")
    assert __file__ in message
    assert len(message.splitlines()) == 1


def test_run_that_sys_exit_ends_can_be_resumed(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    counting: type[Counting],
) -> None:
    def after_step(trainer: Counting, outputs: Mapping[str, Tensor]) -> None:
        if trainer.progress.step == 20:
            sys.exit()

    run = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(counting, "after_step", after_step)
        assert train(run, *COUNTING) == 1
    captured = capsys.readouterr()
    assert __file__ in captured.err
    assert f"--resume {run}" in captured.out
    assert saved_step(run) == 16
    assert command("train", "--resume", run) == 0
    assert saved_step(run) == 32


class HiddenLabels(Synthetic):
    """The validation set has a label that is not a class, and no attribute `targets`."""

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        super().__init__(root, split, seed)
        self.labels = self.targets.clone()
        del self.targets
        if split == "validation":
            self.labels[205] = 10

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Tensor) -> Batch:
        return {"input": self.images[indices], "target": self.labels[indices]}


def test_label_that_is_not_a_class_is_named_and_the_state_saved(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(synthetic, "Synthetic", HiddenLabels)
    run = tmp_path / "run"
    assert train(run, SMALL_MODEL) == 2
    message = capsys.readouterr().err
    assert re.match("error: synthetic data, validation: the target 10 of sample 205 ", message)
    assert len(message.splitlines()) == 1
    assert saved_step(run) == 16


# Non-finite values


def make_non_finite(patch: pytest.MonkeyPatch, steps: set[int], part: str) -> None:
    """Sets the input, the loss or the gradient of some steps, counted from 1, to NaN."""
    original = Classifier.training_step

    def training_step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        is_bad = trainer.progress.step + 1 in steps
        if is_bad and part == "input":
            batch = {**batch, "input": batch["input"] * math.nan}
        outputs = original(trainer, model, batch)
        if is_bad and part == "loss":
            outputs["loss"] = outputs["loss"] * math.nan
        if is_bad and part == "gradient":
            outputs["loss"].register_hook(lambda gradient: gradient * math.nan)
        return outputs

    patch.setattr(Classifier, "training_step", training_step)


@pytest.mark.parametrize(
    ("part", "named_value"), [("loss", "loss"), ("gradient", "model"), ("input", "loss")]
)
def test_non_finite_step_is_named_and_can_be_repeated(
    tmp_path: Path,
    train: Command,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    part: str,
    named_value: str,
) -> None:
    run = tmp_path / "run"
    make_non_finite(monkeypatch, {11}, part)
    changes = ("checkpoint.every_steps=4", "logger.every_steps=7", "checkpoint.keep=9")
    assert train(run, SMALL_MODEL, *changes) == 1
    file = run / "non_finite_00000011.pt"
    message = capsys.readouterr().err
    found = re.match(r"error: step 11: (.*) is not finite \(learning rate ([\d.]+)\)", message)
    assert found is not None
    assert found[1].startswith(named_value)
    rate = load(run)["settings"]["optimizer"]["lr"]
    assert float(found[2]) == pytest.approx(rate, rel=0.3)
    assert "the batch from the data set" not in message  # its values are finite
    assert f"python train.py --resume {file}" in message

    for saved_file in run.rglob("*.pt"):
        state = load_checkpoint(saved_file)
        assert state["progress"]["step"] <= 10
        for name, weight in state["model"].items():
            assert weight.isfinite().all(), (saved_file, name)
    state = load_checkpoint(file)
    assert state["progress"]["step"] == 10
    assert state["batches"][0]["input"].shape == (50, 1, 28, 28)

    capsys.readouterr()
    assert command("train", "--resume", file) == 1
    captured = capsys.readouterr()
    assert "step 11: " in captured.err
    assert "repeating the steps" not in captured.out  # the step is checked at once
    monkeypatch.undo()
    assert command("train", "--resume", file) == 0
    assert saved_step(run) == 32


@pytest.mark.parametrize("part", ["loss", "gradient", "input"])
def test_non_finite_steps_can_be_skipped(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    run = tmp_path / "run"
    make_non_finite(monkeypatch, {3, 20, 32}, part)
    changes = ("trainer.non_finite=skip", "trainer.ema=0.9", "optimizer.name=AdamW")
    assert train(run, SMALL_MODEL, *changes) == 0
    state = load(run)
    assert state["progress"]["step"] == 32
    assert state["progress"]["skipped_steps"] == 3
    assert state["optimizers.0"]["state"][0]["step"] == 32 - 3
    for name, weight in state["moving_average"].items():
        assert weight.isfinite().all(), name
    assert (run / "train.log").read_text(encoding="utf-8").count("skipped (3 so far)") == 1


def test_non_finite_data_are_named(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    original = Synthetic.transform

    def transform(dataset: Synthetic, batch: Batch, rng: torch.Generator | None) -> Batch:
        transformed = original(dataset, batch, rng)
        if rng is None:
            return transformed
        return {**transformed, "input": transformed["input"] * math.nan}  # in training only

    monkeypatch.setattr(Synthetic, "transform", transform)
    assert train(tmp_path / "run", SMALL_MODEL) == 1
    captured = capsys.readouterr()
    assert re.search("loss is not finite .*; repeating the steps", captured.out)
    expected = "step 1: loss is not finite .*; the batch from the data set .* in input; "
    assert re.search(expected, captured.err)


def test_signal_before_a_non_finite_value_is_not_lost(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Classifier.training_step

    def training_step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = original(trainer, model, batch)
        if trainer.progress.step == 2:
            signal.raise_signal(signal.SIGTERM)
            outputs["loss"] = outputs["loss"] * math.nan
        return outputs

    monkeypatch.setattr(Classifier, "training_step", training_step)
    run = tmp_path / "run"
    assert train(run, SMALL_MODEL, "logger.every_steps=1") == 128 + signal.SIGTERM
    assert saved_step(run) == 0  # a resumed run repeats the steps
    assert not list(run.glob("non_finite_*.pt"))


def test_run_whose_first_steps_are_all_skipped_fails(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    make_non_finite(monkeypatch, set(range(1, 99)), "loss")
    assert train(tmp_path / "run", SMALL_MODEL, "trainer.non_finite=skip") == 1
    file = tmp_path / "run/non_finite_00000010.pt"
    assert file.exists()
    assert f"--resume {file}" in capsys.readouterr().err


def test_number_of_saved_non_finite_batches_is_limited(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_non_finite(monkeypatch, set(range(2, 99)), "loss")
    run = tmp_path / "run"
    assert train(run, SMALL_MODEL, "trainer.non_finite=skip", "trainer.epochs=1") == 0
    assert load(run)["progress"]["skipped_steps"] == 15
    assert len(list(run.glob("non_finite_*.pt"))) == 10


def test_non_finite_metric_is_never_the_best(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ClassificationMetrics.compute

    def compute(metrics: ClassificationMetrics) -> dict[str, Tensor]:
        return {**original(metrics), "loss": torch.tensor(math.nan)}

    monkeypatch.setattr(ClassificationMetrics, "compute", compute)
    run = tmp_path / "run"
    assert train(run, SMALL_MODEL, "trainer.epochs=1", "checkpoint.monitor=loss") == 0
    progress = load(run)["progress"]
    assert math.isnan(progress["best"])
    assert progress["validations_without_improvement"] == 1
    assert not (run / "checkpoints/best.pt").exists()


def test_skipped_step_leaves_no_trace_in_the_weights(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights do not depend on which part of the skipped step was not finite."""
    constant = ["scheduler={name: constant}", "optimizer.nesterov=false", "trainer.max_steps=3"]
    weights = {}
    for part in ("input", "loss"):
        with pytest.MonkeyPatch.context() as patch:
            make_non_finite(patch, {2}, part)
            assert train(tmp_path / part, *constant, "trainer.non_finite=skip") == 0
        weights[part] = load(tmp_path / part)["model"]
    for name, weight in weights["input"].items():
        assert torch.equal(weight, weights["loss"][name]), name
