"""Rendering: with answers passed by a program, and with answers typed by a person."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter

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
    "container",
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


def generate(folder: Path, **answers: str) -> Path:
    """Renders within this process, over what is there; returns the project's folder."""
    done = cookiecutter(
        str(TEMPLATE),
        no_input=True,
        extra_context=answers,
        overwrite_if_exists=True,
        output_dir=str(folder),
        default_config={"replay_dir": str(folder.parent / "replay")},
    )
    return Path(done)


def render_typed(folder: Path, **answers: str) -> subprocess.CompletedProcess[str]:
    """Renders into `folder`, typing the answers; an empty line takes what is offered."""
    typed = "".join(f"{answers.get(name, '')}\n" for name in QUESTIONS)
    return run("cookiecutter", TEMPLATE, cwd=folder, typed=typed)


def clone(folder: Path) -> Path:
    """A git repository of the template as it is in the working tree."""
    target = folder / "template"
    names = run("git", "ls-files", "-co", "--exclude-standard", "-z", cwd=TEMPLATE).stdout
    for name in filter(None, names.split("\0")):
        if (TEMPLATE / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).write_bytes((TEMPLATE / name).read_bytes())
    git(target, "init -q -b main")
    commit(target)
    return target


def git(folder: Path, command: str) -> str:
    """What a command of git prints."""
    author = ["-c", "user.name=x", "-c", "user.email=x@y"]
    done = run("git", *author, *command.split(), cwd=folder)
    assert done.returncode == 0, done.stdout
    return done.stdout


def commit(folder: Path) -> None:
    """Commits all that is in a git repository."""
    git(folder, "add -A")
    git(folder, "commit -qm x")


def files_of(project: Path) -> dict[str, bytes]:
    """Contents of all files but git's, by path."""
    return {name: (project / name).read_bytes() for name in modes_of(project)}


def modes_of(project: Path) -> dict[str, int]:
    """Permissions of all files but git's, by path."""
    files = ((path.relative_to(project).as_posix(), path) for path in project.rglob("*"))
    shown = ((name, path) for name, path in files if not name.startswith(".git/"))
    return {name: path.stat().st_mode & 0o777 for name, path in shown if path.is_file()}


@pytest.fixture(scope="session", autouse=True)
def types_of_packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache of mypy for all projects, as most of its time goes into the packages' types."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MYPY_CACHE_DIR", str(tmp_path_factory.mktemp("mypy")))
        yield


@pytest.fixture(scope="session")
def default_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project rendered with the default answers; tests must not change it."""
    folder = tmp_path_factory.mktemp("default")
    done = render(folder)
    assert done.returncode == 0, done.stdout
    return folder / "my-project"
