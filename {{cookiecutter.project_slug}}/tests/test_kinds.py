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


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all kinds in one process."""
    folder = tmp_path_factory.mktemp("single")
    run_kinds(1, folder, [*KINDS])
    return folder


@pytest.fixture(scope="module")
def double(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of all kinds in two processes."""
    folder = tmp_path_factory.mktemp("double")
    run_kinds(2, folder, [*KINDS])
    return folder


def assert_same_training(run: Path, expected: Path) -> None:
    assert weight_difference(run, expected) < ROUNDING
    values = logged_values(expected)
    assert len(values) > 10
    assert logged_values(run) == pytest.approx(values, rel=1e-6)


@pytest.mark.xdist_group("kinds")
@pytest.mark.parametrize("name", KINDS)
def test_two_processes_train_the_same_model_as_one(single: Path, double: Path, name: str) -> None:
    assert_same_training(double / name, single / name)


@pytest.mark.xdist_group("kinds")
def test_two_processes_resume_exactly(tmp_path: Path, double: Path) -> None:
    for name in KINDS:
        shutil.copytree(double / name, tmp_path / name)
        kill_after(tmp_path / name, RESUMED_STEP)
    run_kinds(2, tmp_path, [*KINDS])
    for name in KINDS:
        assert checkpoint_differences(tmp_path / name, double / name) == [], name


@pytest.mark.xdist_group("kinds")
def test_one_process_resumes_exactly(tmp_path: Path, single: Path) -> None:
    for name in KINDS:
        shutil.copytree(single / name, tmp_path / name)
        kill_after(tmp_path / name, RESUMED_STEP)
    run_kinds(1, tmp_path, [*KINDS])
    for name in KINDS:
        assert checkpoint_differences(tmp_path / name, single / name) == [], name


@pytest.mark.xdist_group("kinds")
def test_shards_train_the_same_model_as_one_process(tmp_path: Path, single: Path) -> None:
    run_kinds(2, tmp_path, [*SHARDABLE], "trainer.strategy=fsdp")
    for name in SHARDABLE:
        assert_same_training(tmp_path / name, single / name)
