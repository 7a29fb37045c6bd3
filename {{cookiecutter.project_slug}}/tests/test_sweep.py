"""The command sweep.py: its errors, and sweeps that are stopped, killed and continued."""
# ruff: noqa: D103  the names of the tests say what they test

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import filelock
import pytest
from conftest import CONFIG, ROOT

from config.loading import load_settings
from data_loader import synthetic
from experiments.objective import find_objective
from experiments.run_files import read_settings
from experiments.sweep_plan import load_plan, make_plan
from sweep import check_plan, open_folder, run_sweep

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
TRIAL = (
    *("device=cpu", "model.name=networks.MLP", "model.width=64", "data.batch_size=200"),
    *("trainer.precision=fp32", "logger.tensorboard=false", "logger.curves=false"),
    "checkpoint.every_steps=10",
)
needs_optuna = pytest.mark.skipif(
    find_spec("optuna") is None, reason="Optuna is not installed; pip install -e '.[sweep]'"
)


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the trials compute as this process does, bit for bit."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def test_without_optuna_the_extra_is_named(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr("sweep.find_spec", lambda name: None)
    assert command("sweep", "--config", CONFIG, "model.width=[4,8]") == 2
    assert ".[sweep]" in capsys.readouterr().err


@needs_optuna
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("model.widht=[4,8]",), "did you mean model.width"),
        (("model.width=[4,-8]", "optimizer.lr=log(0.1,1)", "--trials=3"), "model.width = -8"),
        (("model.width=[]",), "no values"),
        (("model.width=[4", "--trials=1"), "model.width"),
        (("model.width=[4,8]", "--trails=3"), "did you mean --trials"),
        (("model.width=[4,8]", "--trials=0"), "--trials"),
        (("model.width=[4,8]", "--trials=x"), "--trials"),
        (("model.width=[4,8]", "--storage=sqlite:////nowhere/x.db"), "sqlite:///FILE"),
        (("model.width=[4,8]", "--storage=sqlite://"), "sqlite:///FILE"),
        (("model.width=[4,8]", "--storage=no+driver://me:secret@h/d"), "no+driver://me:***@h/d"),
        (("model.width=[4,8]", "checkpoint.monitor=my_score"), "checkpoint.mode"),
        (("--name=width",), "runs/width/sweep.yaml"),
        (("--clean=failed",), "--name NAME"),
        (("--name=../width", "model.width=[4,8]"), "does not begin with a dot"),
        (("--name=" + 300 * "x", "model.width=[4,8]"), "--name"),
        (("--config=nowhere.yaml", "model.width=[4,8]"), "nowhere.yaml"),
    ],
)
def test_a_sweep_that_cannot_run_is_an_error_and_starts_nothing(
    command: Command, capsys: Captured, arguments: tuple[str, ...], words: str
) -> None:
    if not any(
        argument.startswith(("--config", "--name=width", "--clean")) for argument in arguments
    ):
        arguments = (*arguments, f"--config={CONFIG}")
    assert command("sweep", *arguments) == 2
    message = capsys.readouterr().err
    assert words in message
    assert len(message.splitlines()) <= 2
    assert not Path("runs").exists()


@needs_optuna
def test_a_folder_of_something_else_is_not_used(command: Command, capsys: Captured) -> None:
    Path("runs/a").mkdir(parents=True)
    Path("runs/a/notes.txt").write_text("mine")
    assert command("sweep", "--config", CONFIG, "--name=a", "model.width=[4,8]") == 2
    assert "runs/a is not the folder of a sweep" in capsys.readouterr().err


@needs_optuna
def test_the_time_is_limited_and_losses_that_differ_are_reported(
    command: Command, capsys: Captured
) -> None:
    arguments = ("--config", CONFIG, "loss.label_smoothing=uniform(0,0.5)", "--minutes=1e-9")
    assert command("sweep", *arguments, "checkpoint.monitor=loss") == 0
    captured = capsys.readouterr()
    assert "loss.label_smoothing cannot be compared" in captured.err
    assert "--minutes 1e-09" in captured.out
    assert "sweep.py --name sweep_label_smoothing" in captured.out
    assert command("sweep", *arguments, "checkpoint.monitor=loss", "--trials=7", "--jobs=1") == 0
    assert "--name sweep_label_smoothing --trials 7\n" in capsys.readouterr().out
    assert not Path("runs/sweep_label_smoothing/output").exists()


@needs_optuna
def test_failed_trials_are_reported_removed_and_repeated(
    command: Command, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("--config", CONFIG, *TRIAL, "--name=넓이 a", "seed=[3]")
    rates = "optimizer.lr=[0.1,0.2]"
    assert command("sweep", *arguments, rates, "--minutes=1e-9") == 0
    folder = Path("runs/넓이 a")
    again = ("--name=넓이 a", "--minutes=9")
    for index in ("0000", "0001"):
        (folder / index).write_text("in the way of the run folder")
    assert command("sweep", *again, "--jobs=2") == 1
    output = capsys.readouterr().out
    failures = [line for line in output.splitlines() if "optimizer.lr=0.2: " in line]
    assert len(failures) == 1
    assert "runs/넓이 a/0001 is a file" in failures[0]
    assert command("sweep", *arguments, "optimizer.lr=[0.1,0.3]") == 2
    assert "optimizer.lr: [0.1, 0.2] -> [0.1, 0.3]" in capsys.readouterr().err

    logs = {file: file.read_text() for file in (folder / "output").iterdir()}
    assert len(logs) == 2
    assert command("sweep", *again) == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert command("sweep", *again, "--clean=failed") == 2
    assert "--yes" in capsys.readouterr().err
    assert {file: file.read_text() for file in (folder / "output").iterdir()} == logs

    for index in ("0000", "0001"):
        (folder / index).unlink()
        (folder / index).mkdir()
    assert command("sweep", *again, "--clean=failed", "--yes") == 0
    assert not list(folder.glob("0*"))
    assert not list((folder / "output").iterdir())
    for index in ("0000", "0001"):
        (folder / index).write_text("in the way of the run folder")
    with monkeypatch.context() as patch:
        patch.setattr("experiments.scheduler.MIN_FREE_BYTES", 2**60)
        assert command("sweep", *again) == 2
    assert "free some space" in capsys.readouterr().err
    shutil.rmtree(folder / "output")
    assert command("sweep", *again, "--max-failures=1") == 1
    assert "--max-failures 1: " in capsys.readouterr().out
    assert len(list((folder / "output").iterdir())) == 1


@needs_optuna
def test_failed_trials_that_another_worker_repeats_are_not_removed(
    command: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    """The other worker removes and claims one of them while the question waits."""
    from experiments.study import SweepStudy

    arguments = ("--config", CONFIG, *TRIAL, "--name=a", "optimizer.lr=[0.1,0.2]")
    assert command("sweep", *arguments, "--minutes=1e-9") == 0
    study = SweepStudy(load_plan(Path("runs/a")), find_objective(load_settings(CONFIG)))
    folders = [Path("runs/a/0000"), Path("runs/a/0001")]
    for folder in folders:
        claimed = study.claim()
        assert claimed is not None
        study.fail(claimed, "no memory")
        folder.mkdir()
        (folder / ".lock").touch()

    repeated = []

    def repeat(question: str) -> bool:
        study.remove({0: study.failed_trials()[0]})
        repeated.append(study.claim())
        return True

    monkeypatch.setattr("sweep.is_confirmed", repeat)
    assert command("sweep", "--name=a", "--clean=failed") == 0
    assert [folder.exists() for folder in folders] == [True, False]
    assert "removed: 1;" in capsys.readouterr().out

    claimed = study.claim()
    assert claimed is not None
    study.fail(claimed, "no memory")
    folders[1].mkdir()
    with filelock.FileLock(folders[1] / ".lock"):
        assert command("sweep", "--name=a", "--clean=failed", "--yes") == 2
    assert "runs/a/0001 is in use" in capsys.readouterr().err
    assert list(study.failed_trials()) == [1]


def find_states(folder: Path) -> set[str]:
    """The states in which the runs of a folder have ended."""
    states = set()
    for file in folder.rglob("result.json"):
        states.add(json.loads(file.read_bytes())["state"])
    return states


@needs_optuna
def test_a_seed_that_fails_stops_the_other_seeds_of_its_trial(command: Command) -> None:
    arguments = ("--config", CONFIG, *TRIAL, "--name=seeds", "seed=[0,1]", "trainer.epochs=150")
    assert command("sweep", *arguments, "--minutes=1e-9") == 0
    trial = Path("runs/seeds/0000")
    trial.mkdir()
    (trial / "seed=1").write_text("in the way of the run folder")
    assert command("sweep", "--name=seeds", "--minutes=9", "--jobs=2") == 1
    assert not find_states(trial) - {"stopped"}


@needs_optuna
def test_a_signal_stops_the_trials_with_their_state_saved(
    command: Command, capsys: Captured
) -> None:
    run = Path("runs/a/0000")

    def interrupt() -> None:
        wait_for(lambda: last_step(run) > 0)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    options = ("--config", CONFIG, "--name=a", "optimizer.lr=[0.01]")
    assert command("sweep", *options, *TRIAL, "trainer.epochs=999") == 128 + signal.SIGINT
    thread.join()
    assert capsys.readouterr().out.splitlines()[-1].endswith(" --name a")
    assert "stopped; resume" in Path("runs/a/output/0000.log").read_text()


@needs_optuna
def test_a_trial_that_is_promoted_and_killed_ends_with_the_same_bits(
    command: Command, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two trials has a bad value already, so that one run is enough."""
    from experiments.study import SweepStudy

    steps = ("trainer.max_steps=100", "trainer.validate_every_steps=20")
    options = ("--config", CONFIG, *TRIAL, *steps, "--name=a", "--halving=2")
    arguments = [str(argument) for argument in (*options, "optimizer.lr=[1e-6,0.1]", "seed=[3]")]
    assert command("sweep", *arguments, "--minutes=1e-9") == 0
    study = SweepStudy(load_plan(Path("runs/a")), find_objective(load_settings(CONFIG)))
    first = study.claim()
    assert first is not None
    study.release(first, 0.01)

    run = Path("runs/a/0001/seed=3")
    log = run / "train.log"
    with subprocess.Popen([sys.executable, str(ROOT / "sweep.py"), *arguments]) as sweep:
        wait_for(lambda: log.exists() and "resuming from step" in log.read_text())
        sweep.kill()
    os.kill(int((run / ".pid").read_text()), signal.SIGKILL)
    assert last_step(run) < 100
    capsys.readouterr()
    assert command("sweep", *arguments) == 0
    output = capsys.readouterr().out
    assert log.read_text().count("resuming from step") == 2
    assert "resuming from step 0" not in log.read_text()

    # As in the processes of the trials, which the fixture `small_data` does not reach.
    monkeypatch.setattr(synthetic, "TRAINING", 10_000)
    monkeypatch.setattr(synthetic, "VALIDATION", 1_000)
    again = ("--run-dir=b", *TRIAL, *steps, "optimizer.lr=0.1", "seed=3")
    assert command("train", "--config", CONFIG, *again) == 0
    assert metric_rows(run) == metric_rows(Path("b"))
    objective = find_objective(load_settings(CONFIG))
    accuracy = objective.best(objective.validations(run))
    assert f"best: trial 0001, accuracy {accuracy:.6g}" in output
    assert "optimizer.lr=0.1 seed=3" in output


@needs_optuna
def test_all_trials_use_the_settings_file_as_it_was_at_the_start(
    command: Command, capsys: Captured
) -> None:
    config = Path("my.yaml")
    config.write_text(f"{CONFIG.read_text()}\nseed: 4\n")
    settings = [str(setting) for setting in (*TRIAL, "trainer.max_steps=2")]
    plan = make_plan({"config": config, "name": "a"}, [*settings, "optimizer.lr=[0.1]"])
    checked = check_plan(plan)
    plan = open_folder(plan)
    config.write_text(f"{CONFIG.read_text()}\nseed: 5\n")  # while the sweep runs
    assert run_sweep(plan, checked) == 0
    run = Path("runs/a/0000")
    used = read_settings(run / "settings.yaml")
    assert (used["seed"], used["name"]) == (4, "my")
    assert "train.py --config runs/a/config.yaml " in capsys.readouterr().out
    config.unlink()
    assert command("sweep", "--name=a") == 0


def metric_rows(run: Path) -> list[list[str]]:
    """The rows of metrics.csv without those of the speed."""
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    return [row for row in rows if row[4] in ("loss", "accuracy", "f1")]


def last_step(run: Path) -> int:
    """The step of the newest checkpoint; 0 if there is none."""
    steps = [int(file.stem.removeprefix("step_")) for file in run.glob("checkpoints/step_*.pt")]
    return max(steps, default=0)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(6000):
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError("the sweep does not get that far")
