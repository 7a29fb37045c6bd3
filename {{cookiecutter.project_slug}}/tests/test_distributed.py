"""Several processes, started by torchrun: the same training, and nobody is left waiting."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG, QUICK, ROOT
from test_resume import checkpoint, differences, measured
from torch import Generator

from base.base_dataset import BaseDataset, Batch, Sample
from base.batch_loader import LOADING, BatchLoader
from utils.errors import COMMAND_PREFIX
from utils.randomness import seed_all, uniform

PROCESSES = ROOT / "tests/processes.py"
STARTED: list[subprocess.Popen[Any]] = []
SMALL = ("--config", CONFIG, *QUICK, "data.batch_size=60", "trainer.max_steps=40")


def start(
    count: int, *arguments: object, options: tuple[str, ...] = ("--standalone",)
) -> subprocess.Popen[str]:
    """Starts a script in several processes, or without torchrun in one (count 0)."""
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", *options]
    command = [sys.executable, *(launcher if count else []), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    process = subprocess.Popen(command, text=True, env=environment, **pipes)
    STARTED.append(process)
    return process


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    """Ends what a test that failed has left: torchrun, which ends the others."""
    yield
    while STARTED:
        process = STARTED.pop()
        process.terminate()
        process.wait(60)


def launch(count: int, *arguments: object, expected: int = 0) -> str:
    """Runs it to its end; what it says."""
    process = start(count, *arguments)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == expected, said
    return said


def together(count: int, *job: object) -> None:
    """Has processes that are started without torchrun, which is faster, do a job, or several."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, str(PROCESSES), *map(str, job)]
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    world |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen(command, env={**os.environ, **world, "RANK": str(rank)})
        for rank in range(count)
    ]
    STARTED.extend(started)
    assert [process.wait(300) for process in started] == [0] * count


def rows(run: Path) -> dict[tuple[str, ...], float]:
    """What metrics.csv says, but for the speed."""
    return {tuple(row[1:5]): float(row[5]) for row in measured(run)[1:]}


def drift(run: Path, other: Path) -> float:
    """The largest difference of two runs' weights, as a share of the largest weight."""
    one, two = (checkpoint(folder)["model"] for folder in (run, other))
    largest = max(value.abs().max().item() for value in one.values())
    return max(float((one[k] - two[k]).abs().max()) for k in one) / float(largest)


# The same training


def test_any_number_of_processes_trains_the_same_model(tmp_path: Path) -> None:
    """With batch normalisation, accumulation, clipping, and batches that leave some without."""
    options = ("trainer.accumulate=2", "trainer.clip_norm=0.5")
    for count in (1, 2, 3):
        together(count, "train", tmp_path / str(count), *options)
    alone = rows(tmp_path / "1")
    assert len(alone) > 10
    for count in (2, 3):
        assert drift(tmp_path / "1", tmp_path / str(count)) < 1e-10
        others = rows(tmp_path / str(count))
        assert others == pytest.approx(alone, rel=1e-6)
        assert {k: v for k, v in others.items() if k[3] == "accuracy" and k[0] == "validation"} == {
            k: v for k, v in alone.items() if k[3] == "accuracy" and k[0] == "validation"
        }


def test_dropout_differs_between_processes_and_is_resumed(tmp_path: Path) -> None:
    together(2, "dropping", tmp_path / "run")
    first, second = torch.load(tmp_path / "run/kept.pt", weights_only=True)
    assert 0.4 < (first == second).double().mean() < 0.6
    draws = [own["draws"]["cpu"] for own in checkpoint(tmp_path / "run")["ranks"]]
    assert not torch.equal(*draws)


class Drawing(BaseDataset):
    """BatchGenerator as it likes, for each sample."""

    title = "draws"

    def __len__(self) -> int:
        return 103

    def __getitem__(self, index: int) -> Sample:
        noise = torch.tensor([random.random(), float(torch.rand(()))])
        return {"place": torch.tensor(index), "noise": noise}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        assert generator is not None
        return {**batch, "drawn": uniform(generator, len(batch["place"]), 2)}


@pytest.mark.parametrize("world", [1, 2, 3])
def test_processes_share_the_samples_of_a_step_and_their_draws(world: int) -> None:
    dataset = Drawing()
    whole = BatchLoader(dataset, 12, seed=1, accumulate=2)
    parts = [BatchLoader(dataset, 12, 1, 2, 0, rank, world) for rank in range(world)]
    for step in (0, 3, 4):  # the last one of an epoch has 7 samples
        for k, batch in enumerate(next(whole.steps(step, step + 1))):
            found = [next(part.steps(step, step + 1))[k] for part in parts]
            for name, values in batch.items():
                for rank in range(world):
                    assert torch.equal(values[rank::world], found[rank][name])
        shares = torch.tensor([part.loss_weights(step) for part in parts])
        assert shares.sum() / world == pytest.approx(1)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_a_step_draws_does_not_depend_on_what_the_samples_drew(workers: int) -> None:
    loader = BatchLoader(Drawing(), 12, seed=1, workers=workers)
    drawn = []
    for _ in loader.steps(0, 3):
        drawn += [random.random(), float(torch.rand(()))]
    seed_all(1, LOADING, 2, 0)
    assert drawn[-2:] == [random.random(), float(torch.rand(()))]


def test_evaluation_counts_every_sample_once(tmp_path: Path, trained_run: Path) -> None:
    said = [launch(count, ROOT / "evaluate.py", trained_run) for count in (0, 3)]
    alone, together = ([line for line in text.splitlines() if " " in line] for text in said)
    assert any("accuracy" in line for line in alone)
    assert [line for line in together if line in alone] == alone


# Rank 0 alone


def test_one_process_writes_and_speaks_but_errors_name_their_process(tmp_path: Path) -> None:
    said = launch(2, ROOT / "train.py", *SMALL, "--run-dir", tmp_path / "run")
    assert said.count("run folder: ") == 1
    assert said.count("epoch 1/2") == 1
    said = launch(2, ROOT / "train.py", *SMALL, "data.batch_size=61", expected=1)
    text = "error: data.batch_size = 61 cannot be divided among 2 processes; 60 and 62 can"
    assert text in said
    assert not (tmp_path / "runs").exists()


# Faults


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_a_job_that_loses_a_process_goes_on_by_itself(tmp_path: Path, strategy: str) -> None:
    saves = ("checkpoint.every_steps=4", f"trainer.strategy={strategy}")
    options = (*SMALL, *saves, "trainer.max_steps=120", "trainer.epochs=9")
    launch(2, ROOT / "train.py", *options, "--run-dir", tmp_path / "whole")
    job = start(2, ROOT / "train.py", *options, options=("--standalone", "--max-restarts=3"))
    for rank, step in ((1, 8), (0, 50)):
        wait_for_step(tmp_path, step)
        os.kill(ranks_of(job)[rank], signal.SIGKILL)
    said, _ = job.communicate(timeout=300)
    assert job.returncode == 0, said
    (run,) = (tmp_path / "runs/synthetic").iterdir()
    assert said.count(f"run folder: runs/synthetic/{run.name}") == 3
    assert not differences_of(run, tmp_path / "whole")
    assert measured(run) == measured(tmp_path / "whole")


@pytest.mark.parametrize("agent", [False, True])
def test_a_signal_to_one_process_stops_all_at_the_same_step(tmp_path: Path, agent: bool) -> None:
    options = (*SMALL, "trainer.max_steps=400", "trainer.epochs=99", "checkpoint.every_steps=20")
    job = start(2, ROOT / "train.py", *options)
    wait_for_step(tmp_path, 20)
    os.kill(job.pid if agent else ranks_of(job)[1], signal.SIGTERM)
    said, _ = job.communicate(timeout=60)
    assert job.returncode != 0
    assert (
        f"stopped and saved; go on with: {COMMAND_PREFIX}python train.py --resume runs/synthetic/"
        in said
    )
    (run,) = (tmp_path / "runs/synthetic").iterdir()
    step = checkpoint(run)["step"]
    assert step < 400
    said = launch(2, ROOT / "train.py", "--resume", run, f"trainer.max_steps={step + 5}")
    assert checkpoint(run)["step"] == step + 5


def test_an_error_in_one_process_ends_all_with_its_traceback(tmp_path: Path) -> None:
    said = launch(2, PROCESSES, "failing", tmp_path / "run", expected=1)
    assert "[rank1]: ZeroDivisionError: of the second process" in said


def test_a_loss_that_is_no_number_in_one_process_is_left_out_by_all(tmp_path: Path) -> None:
    change = ("trainer.non_finite=skip", "trainer.max_steps=8")
    together(2, "breaking", tmp_path / "run", *change)
    state = checkpoint(tmp_path / "run")
    assert (state["step"], state["skipped"]) == (8, 1)
    kept = torch.load(tmp_path / "run/non_finite_00000003.pt", weights_only=True)
    assert kept["step"] == 2


def test_a_step_that_leaves_processes_apart_is_an_error(tmp_path: Path) -> None:
    said = launch(2, PROCESSES, "bypassing", tmp_path / "run", expected=1)
    assert "the processes' weights differ: what computes the loss has to call the model" in said
    assert checkpoint(tmp_path / "run")["step"] == 0


# Other numbers of processes


def test_a_run_goes_on_with_other_numbers_of_processes(tmp_path: Path) -> None:
    options = ("scheduler.name=constant", "trainer.epochs=3", "trainer.ema=0.9")
    together(1, "train", tmp_path / "whole", *options)
    for first, second in ((1, 4), (4, 2)):
        run = tmp_path / f"{first} then {second}".replace(" ", "-")
        together(first, "train", run, *options, "trainer.max_steps=13")
        together(second, "train", run, *options)
        assert checkpoint(run)["step"] == 33
        assert drift(tmp_path / "whole", run) < 1e-6


def test_a_run_goes_on_to_the_same_bits_with_as_many_processes(tmp_path: Path) -> None:
    options = ("scheduler.name=constant", "trainer.epochs=3", "logger.every_steps=7")
    saves = ("checkpoint.every_steps=16", "checkpoint.keep=9")
    together(2, "dropping", tmp_path / "whole", *options, *saves)
    part = tmp_path / "part/checkpoints"
    part.mkdir(parents=True)
    shutil.copy(tmp_path / "whole/checkpoints/step_00000016.pt", part / "last.pt")
    shutil.copy(tmp_path / "whole/metrics.csv", part.parent)
    together(2, "dropping", part.parent, *options)
    assert {*differences_of(tmp_path / "whole", part.parent)} <= {
        "/settings/checkpoint/every_steps",
        "/settings/checkpoint/keep",
    }
    assert measured(part.parent) == measured(tmp_path / "whole")


def wait_for_step(folder: Path, step: int) -> None:
    """Waits until a run in `folder` has saved that step, or a later one."""
    for _ in range(2400):
        if any(int(f.stem[5:]) >= step for f in folder.glob("runs/*/*/checkpoints/step_*.pt")):
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} does not come")


def ranks_of(job: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun has started, by rank."""
    children = Path(f"/proc/{job.pid}/task/{job.pid}/children").read_text().split()
    found = {}
    for child in map(int, children):
        environment = Path(f"/proc/{child}/environ").read_bytes().decode().split("\0")
        found.update({int(v[5:]): child for v in environment if v.startswith("RANK=")})
    return [found[rank] for rank in sorted(found)]


def differences_of(run: Path, other: Path) -> list[str]:
    """Where two runs' last checkpoints differ, to the last bit."""
    return differences(checkpoint(run), checkpoint(other))
