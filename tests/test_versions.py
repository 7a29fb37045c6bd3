"""The default project with each Python, and with the newest and oldest allowed packages."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import CHOICES, needs_all, render, run
from test_project import SAMPLE

PYTHONS = CHOICES["python_version"]
TRACKERS = dict(
    zip(PYTHONS, CHOICES["experiment_tracker"], strict=True)
)  # one tracker for each Python


@contextmanager
def environment_of(project: Path, python: str, resolution: str) -> Iterator[Path]:
    """Creates an environment of 6 GB with the project's packages; yields its `bin` folder.

    The environment is deleted afterwards.
    """
    packages = {"HOME": os.environ["HOME"], "VIRTUAL_ENV": str(project / ".venv")}
    install = ["uv", "pip", "install", "--quiet", "--resolution", resolution]
    commands = [
        ["uv", "venv", "--quiet", "--python", python],
        [*install, "--requirements", "pyproject.toml", "--extra", "dev"],
    ]
    try:
        for command in commands:
            done = run(*command, cwd=project, **packages)
            if "venv" in command and "No interpreter found" in done.stdout:
                pytest.skip(f"Python {python} is not installed")
            assert done.returncode == 0, done.stdout
        yield project / ".venv/bin"
    finally:
        shutil.rmtree(project / ".venv", ignore_errors=True)


def path_with(programs: Path) -> str:
    return f"{programs}{os.pathsep}{os.environ['PATH']}"


def check(project: Path, programs: Path, *commands: str) -> None:
    """Asserts that commands succeed with the programs of an environment."""
    for command in commands:
        done = run("env", f"PATH={path_with(programs)}", *command.split(), cwd=project)
        assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
@needs_all
def test_the_project_works_with_the_oldest_packages(tmp_path: Path) -> None:
    """Runs the linter and the commands; `make test-all` also runs mypy and the project's tests."""
    assert render(tmp_path).returncode == 0
    project = tmp_path / "my-project"
    train = "python train.py --config config/synthetic.yaml --run-dir runs/first"
    with environment_of(project, PYTHONS[0], "lowest-direct") as programs:
        check(project, programs, "ruff check .", "ruff format --check .")
        check(project, programs, f"{train} trainer.max_steps=20", "python evaluate.py runs/first")


@needs_all
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not installed")
@pytest.mark.parametrize("resolution", ["highest", "lowest-direct"])
@pytest.mark.parametrize("python", PYTHONS)
def test_the_project_works_with_each_python_and_its_newest_and_oldest_packages(
    tmp_path: Path, python: str, resolution: str
) -> None:
    answers = {"python_version": python, "experiment_tracker": TRACKERS[python]}
    assert render(tmp_path, **answers).returncode == 0
    project = tmp_path / "my-project"
    tests = ["pytest", "-q", "-n", "2", "-k", SAMPLE]
    with environment_of(project, python, resolution) as programs:
        check(project, programs, "git add -A", "pre-commit run --all-files")
        done = run("env", f"PATH={path_with(programs)}", *tests, cwd=project)
        assert done.returncode == 0, done.stdout
