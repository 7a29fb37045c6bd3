"""Each kind of change in kinds.py: the same in one process and in two, and an exact resume."""
# ruff: noqa: D103  the names of the tests state what they test

import shutil
from pathlib import Path

import launcher
import pytest
from kinds import KINDS
from launcher import run_processes
from test_distributed import ROUNDING, checkpoint_differences, logged_values, weight_difference

end_started_processes = launcher.end_started_processes  # a fixture of all tests in this module
SAVES = ("checkpoint.every_steps=4", "checkpoint.keep=100")
RESUMED_STEP = 12
SHARDABLE = {name: kind for name, kind in KINDS.items() if kind.shardable}


def run_kinds(count: int, folder: Path, names: list[str], *changes: str) -> None:
    """Trains kinds in `count` processes, which start once; each has a run folder of its name."""
    jobs: list[object] = []
    for name in names:
        jobs += [name, folder / name, *SAVES, *changes, "--"]
    run_processes(count, *jobs[:-1])


def kill_after(run: Path, step: int) -> None:
    """Removes what a run saved after a step."""
    for file in (run / "checkpoints").iterdir():
        if file.is_dir():
            shutil.rmtree(file)
        elif file.name != f"step_{step:08d}.pt":
            file.unlink()
    shutil.copy(run / f"checkpoints/step_{step:08d}.pt", run / "checkpoints/last.pt")


def assert_same_training(run: Path, expected: Path) -> None:
    assert weight_difference(run, expected) < ROUNDING, run.name
    values = logged_values(expected)
    assert len(values) > 10
    assert logged_values(run) == pytest.approx(values, rel=1e-6), run.name


def test_one_and_two_processes_train_the_same_models_and_resume_exactly(tmp_path: Path) -> None:
    for count in (1, 2):
        runs = tmp_path / str(count)
        resumed = tmp_path / f"{count}-resumed"
        run_kinds(count, runs, [*KINDS])
        shutil.copytree(runs, resumed)
        for name in KINDS:
            kill_after(resumed / name, RESUMED_STEP)
        run_kinds(count, resumed, [*KINDS])
        for name in KINDS:
            assert checkpoint_differences(resumed / name, runs / name) == [], name
    for name in KINDS:
        assert_same_training(tmp_path / "2" / name, tmp_path / "1" / name)


def test_shards_train_the_same_models_as_one_process(tmp_path: Path) -> None:
    run_kinds(1, tmp_path / "single", [*SHARDABLE])
    run_kinds(2, tmp_path / "sharded", [*SHARDABLE], "trainer.strategy=fsdp")
    for name in SHARDABLE:
        assert_same_training(tmp_path / "sharded" / name, tmp_path / "single" / name)
