"""Several machines, each with a torchrun: the same training when machines leave or return."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import launcher
import pytest
from conftest import CONFIG, QUICK_SETTINGS, ROOT, SPLIT_SIZES
from launcher import free_port, start, wait_for_end, wait_for_step, worker_pids
from stopped_runs import load
from test_distributed import logged_values, weight_difference

end_started_processes = launcher.end_started_processes  # a fixture of all tests in this module
# A model that does not amplify rounding errors, but changes much in a few steps.
STABLE_MODEL = ("model={name: networks.MLP, width: 64}", "data.batch_size=200", "optimizer.lr=0.02")
CHANGES = (
    *STABLE_MODEL,
    "scheduler.name=constant",
    "checkpoint.every_steps=5",
    "trainer.epochs=9999",
)
OPTIONS = ("--config", str(CONFIG), *QUICK_SETTINGS, *CHANGES)
SLOW_TRAINING = f"""
# train.py on a small data set, with steps that are slow enough to interrupt them
import runpy
import time

from data_loader import synthetic
from trainer.classifier import Classifier

vars(synthetic).update({SPLIT_SIZES})
original = Classifier.training_step


def slow_step(*arguments):
    time.sleep(0.05)
    return original(*arguments)


Classifier.training_step = slow_step
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""
# A machine that does not answer for 5 s is dropped (default: 15 s), and torchrun waits 1 s for
# more machines (default: 30 s).
SHORT_TIMEOUTS = "last_call_timeout=1,keep_alive_interval=1,keep_alive_max_attempt=5"


@pytest.fixture
def port() -> int:
    return free_port()


def start_node(
    nodes: str, port: int, *arguments: object, restarts: int = 3
) -> subprocess.Popen[str]:
    """Starts torchrun as on one of several machines; the first one has the store of all.

    Args:
        nodes: number of machines, or the smallest and the largest number, such as ``1:2``.
        port: port of the store.
        arguments: the script and its arguments.
        restarts: how often torchrun starts the script again after a failure.
    """
    options = (
        f"--nnodes={nodes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint=127.0.0.1:{port}",
        "--rdzv-id=job 7",
        f"--rdzv-conf={SHORT_TIMEOUTS}",
        f"--max-restarts={restarts}",
    )
    node = start(1, *arguments, options=options)
    while node.poll() is None:  # the store must exist before the next machine starts
        with socket.socket() as connection:
            if connection.connect_ex(("127.0.0.1", port)) == 0:
                break
        time.sleep(0.05)
    return node


def write_slow_training(file: Path) -> Path:
    file.write_text(SLOW_TRAINING)
    return file


def only_run(folder: Path) -> Path:
    (run,) = (folder / "runs/synthetic").iterdir()
    return run


def wait_for_processes(folder: Path, count: int) -> None:
    """Waits until that many processes have continued and saved the run in `folder`."""
    wait_for_step(folder, 0)
    first_step = load(only_run(folder))["progress"]["step"]
    for _ in range(600):
        state = load(only_run(folder))
        if len(state["ranks"]) == count and state["progress"]["step"] > first_step:
            return
        time.sleep(0.1)
    raise AssertionError(f"{count} processes do not continue from step {first_step}")


@pytest.fixture
def check_run(tmp_path: Path, train: Callable[..., int]) -> Callable[[], None]:
    """Compares the run with one of a single process that was never interrupted."""

    def check() -> None:
        run = only_run(tmp_path)
        uninterrupted = tmp_path / "uninterrupted"
        last_step = load(run)["progress"]["step"]
        assert train(uninterrupted, *CHANGES, f"trainer.max_steps={last_step}") == 0
        assert weight_difference(run, uninterrupted) < 5e-3
        found = values_before(run, last_step)
        assert len(found) > 10
        expected = values_before(uninterrupted, last_step)
        # One of 210 samples changes the accuracy by 0.0048.
        assert found == pytest.approx(expected, rel=2e-3, abs=5e-3)

    return check


def values_before(run: Path, last_step: int) -> dict[tuple[str, ...], float]:
    """The logged values except those of the last step, which ends one of the runs."""
    values = {}
    for key, value in logged_values(run).items():
        step = key[2]
        if step != str(last_step):
            values[key] = value
    return values


def test_two_machines_that_lose_a_process_resume_to_the_same_weights(
    tmp_path: Path, port: int, check_run: Callable[[], None]
) -> None:
    script = write_slow_training(tmp_path / "slow_training.py")
    arguments = (script, *OPTIONS, "trainer.max_steps=40")
    nodes = [start_node("2", port, *arguments), start_node("2", port, *arguments)]
    wait_for_step(tmp_path, 10)
    os.kill(worker_pids(nodes[1])[0], signal.SIGKILL)
    output = ""
    for node in nodes:
        output += wait_for_end(node)
    run = only_run(tmp_path)
    assert output.count(f"run folder: runs/synthetic/{run.name}") == 2
    assert len(load(run)["ranks"]) == 2
    check_run()


def test_machines_may_leave_and_return(
    tmp_path: Path, port: int, check_run: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")  # see docs/processes.md
    script = write_slow_training(tmp_path / "slow_training.py")
    arguments = ("1:2", port, script, *OPTIONS)
    first = start_node(*arguments)
    second = start_node(*arguments)
    wait_for_processes(tmp_path, 2)

    second.terminate()
    wait_for_end(second, 1)
    wait_for_processes(tmp_path, 1)

    second = start_node(*arguments)
    wait_for_processes(tmp_path, 2)
    for process in (second.pid, *worker_pids(second)):
        os.kill(process, signal.SIGKILL)
    wait_for_end(second, -signal.SIGKILL)
    wait_for_processes(tmp_path, 1)

    first.terminate()
    wait_for_end(first, 1)
    check_run()


def test_machines_with_different_run_folders_are_an_error(port: int, trained_run: Path) -> None:
    script = ROOT / "train.py"
    resuming = start_node("2", port, script, "--resume", trained_run, restarts=0)
    new = start_node("2", port, script, *OPTIONS, restarts=0)
    for node in (resuming, new):
        output = wait_for_end(node, 1)
        assert "error: the processes would continue from different steps, [0, 32]" in output
        assert "all machines must see the same run folder" in output
