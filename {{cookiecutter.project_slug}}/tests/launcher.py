"""Starts commands in several processes, with torchrun or without it, and waits for them."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

PROCESSES = ROOT / "tests/processes.py"
TIMEOUT_SECONDS = 300
STARTED: list[subprocess.Popen[Any]] = []


@pytest.fixture(autouse=True)
def end_started_processes() -> Iterator[None]:
    """Ends the processes that a failed test has left; torchrun ends its own children."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.terminate()
        process.wait(60)


def environment() -> dict[str, str]:
    """The environment of a process that imports the project and uses one thread."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(
    count: int, *arguments: object, options: tuple[str, ...] = ("--standalone",)
) -> subprocess.Popen[str]:
    """Starts a script with torchrun in `count` processes, or without torchrun if `count` is 0."""
    command = [sys.executable]
    if count > 0:
        command += ["-m", "torch.distributed.run", f"--nproc-per-node={count}", *options]
    command += [str(argument) for argument in arguments]
    process = subprocess.Popen(
        command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    STARTED.append(process)
    return process


def launch(count: int, *arguments: object, expected: int = 0) -> str:
    """Runs a script to its end, as `start` does, and returns its output.

    Args:
        count: number of processes, or 0 for one without torchrun.
        arguments: the script and its arguments.
        expected: the exit code.
    """
    return wait_for_end(start(count, *arguments), expected)


def wait_for_end(process: subprocess.Popen[str], expected: int = 0) -> str:
    """Waits for a process, checks its exit code, and returns its output."""
    output, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == expected, output
    return output


def run_processes(count: int, *jobs: object) -> None:
    """Runs jobs of processes.py in `count` processes; without torchrun, which starts slowly."""
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    command = [sys.executable, str(PROCESSES), *map(str, jobs)]
    processes = []
    for rank in range(count):
        variables = {**environment(), **world, "RANK": str(rank)}
        processes.append(subprocess.Popen(command, env=variables))
    STARTED.extend(processes)
    exit_codes = [process.wait(TIMEOUT_SECONDS) for process in processes]
    assert exit_codes == [0] * count


def free_port() -> int:
    """A TCP port that no process uses now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_step(folder: Path, step: int) -> None:
    """Waits until a run in ``folder/runs`` has saved that step or a later one."""
    for _ in range(2400):
        for file in folder.glob("runs/*/*/checkpoints/step_*.pt"):
            if int(file.stem.removeprefix("step_")) >= step:
                return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not saved in time")


def worker_pids(torchrun: subprocess.Popen[str]) -> list[int]:
    """The process numbers of the training processes that torchrun has started, by rank."""
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text()
    pids = {}
    for child in children.split():
        for variable in Path(f"/proc/{child}/environ").read_bytes().decode().split("\0"):
            if variable.startswith("RANK="):
                pids[int(variable.removeprefix("RANK="))] = int(child)
    return [pids[rank] for rank in sorted(pids)]
