"""Rendering: with answers passed by a program, and with answers typed by a person."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = Path(__file__).resolve().parent.parent
PAYLOAD = TEMPLATE / "{{cookiecutter.project_slug}}"
QUESTIONS = (
    "project_name",
    "project_slug",
    "description",
    "author_name",
    "author_email",
    "example",
    "license",
    "python_version",
    "ci",
    "experiment_tracker",
)


needs_all = pytest.mark.skipif("ALL" not in os.environ, reason="make test-all does this, too")
PROMPTS: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text())
OPTIONS: dict[str, dict[str, list[str]]] = PROMPTS["_files"]  # files that choices bring
FILES = OPTIONS["example"]


def foreign(**answers: str) -> set[str]:
    """The payload's files that a project with those answers, and else the default ones, lacks."""
    chosen = {name: answers.get(name, PROMPTS[name][0]) for name in OPTIONS}
    own = {file for name, choice in chosen.items() for file in OPTIONS[name][choice]}
    return {f for files in OPTIONS.values() for some in files.values() for f in some} - own


def run(
    *command: str | Path, cwd: Path, typed: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command with this environment's tools first; output and errors come as one text.

    With one thread of torch, as other tests are run at the same time.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = os.environ["HOME"] if cwd == PAYLOAD else str(cwd)  # no caches in the payload
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        input=typed,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, "HOME": home, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        check=False,
    )


def render(
    folder: Path, *options: str, template: str | Path = TEMPLATE, **answers: str
) -> subprocess.CompletedProcess[str]:
    """Renders into `folder` without questions; for the rest, the default answers."""
    chosen = [f"{name}={text}" for name, text in answers.items()]
    return run("cookiecutter", template, "--no-input", *options, *chosen, cwd=folder)


def render_typed(folder: Path, **answers: str) -> subprocess.CompletedProcess[str]:
    """Renders into `folder`, typing the answers; an empty line takes what is offered."""
    typed = "".join(f"{answers.get(name, '')}\n" for name in QUESTIONS)
    return run("cookiecutter", TEMPLATE, cwd=folder, typed=typed)


def files_of(project: Path) -> dict[str, bytes]:
    """Contents of all files but git's, by path."""
    files = (path for path in project.rglob("*") if path.is_file())
    found = {path.relative_to(project).as_posix(): path.read_bytes() for path in files}
    return {name: content for name, content in found.items() if not name.startswith(".git/")}


@pytest.fixture(scope="session")
def default_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project rendered with the default answers; tests must not change it."""
    folder = tmp_path_factory.mktemp("default")
    done = render(folder)
    assert done.returncode == 0, done.stdout
    return folder / "my-project"
