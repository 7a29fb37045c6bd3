"""Helpers that render projects and run commands, and fixtures that all tests share."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cookiecutter.main import cookiecutter

TEMPLATE = Path(__file__).resolve().parent.parent
PAYLOAD = TEMPLATE / "{{cookiecutter.project_slug}}"
QUESTIONS = (
    "project_name",
    "example",
    "preset",
    "project_slug",
    "description",
    "author_name",
    "author_email",
    "license",
    "python_version",
    "ci",
    "container",
    "experiment_tracker",
    "tools",
    "tests",
)


needs_all = pytest.mark.skipif("ALL" not in os.environ, reason="only make test-all runs this test")
PROMPTS: dict[str, Any] = json.loads((TEMPLATE / "cookiecutter.json").read_text())
OPTIONS: dict[str, dict[str, list[str]]] = PROMPTS["_files"]  # the files of each choice
FILES = OPTIONS["example"]
PRESETS: dict[str, dict[str, str]] = PROMPTS["_presets"]
CHOICES: dict[str, list[str]] = {  # of the questions that have choices
    name: [choice for choice in prompt if choice != "__prompt__"]
    for name, prompt in PROMPTS["__prompts__"].items()
    if isinstance(prompt, dict)
}


def default_answers(preset: str = "standard") -> dict[str, str]:
    """Returns the answer to each question if only the preset is given."""
    fixed = {name: PROMPTS[name] for name in QUESTIONS if "{{" not in PROMPTS[name]}
    return {**fixed, "preset": preset, **PRESETS[preset]}


def expand(entries: Iterable[str]) -> set[str]:
    """Returns the paths of files in the payload; ``name/`` stands for all files in a folder."""
    files: set[str] = set()
    for entry in entries:
        paths = (PAYLOAD / entry).glob("*") if entry.endswith("/") else [PAYLOAD / entry]
        files |= {path.relative_to(PAYLOAD).as_posix() for path in paths if path.is_file()}
    return files


def foreign(**answers: str) -> set[str]:
    """Returns the payload's files that a project with these answers does not contain.

    Options that are not given have the answers of the preset.
    """
    chosen = {**default_answers(answers.get("preset", "standard")), **answers}
    missing: set[str] = set()
    for name, choices in OPTIONS.items():
        for files in choices.values():
            missing |= expand(files) - expand(choices[chosen[name]])
    return missing


def run(
    *command: str | Path, cwd: Path, typed: str | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Runs a command with this environment's tools first on the PATH.

    The result contains stdout and stderr as one text. torch uses one thread, since several tests
    run at the same time.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    home = os.environ["HOME"] if cwd == PAYLOAD else str(cwd)  # keeps caches out of the payload
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
    """Renders into `folder` without questions; options that are not given have their defaults."""
    chosen = [f"{name}={text}" for name, text in answers.items()]
    return run("cookiecutter", template, "--no-input", *options, *chosen, cwd=folder)


def generate(folder: Path, **answers: str) -> Path:
    """Renders in this process and overwrites existing files; returns the project folder."""
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
    """Renders into `folder` and types the answers; an empty line selects the default.

    All questions are asked. The answers to those with choices are numbers.
    """
    answers = {"preset": "4", **answers}
    typed = "".join(f"{answers.get(name, '')}\n" for name in QUESTIONS)
    return run("cookiecutter", TEMPLATE, cwd=folder, typed=typed)


def clone(folder: Path) -> Path:
    """Creates a git repository with the template's working tree; returns its folder."""
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
    """Runs a git command; returns its output."""
    author = ["-c", "user.name=x", "-c", "user.email=x@y"]
    done = run("git", *author, *command.split(), cwd=folder)
    assert done.returncode == 0, done.stdout
    return done.stdout


def commit(folder: Path) -> None:
    """Commits all files of a git repository."""
    git(folder, "add -A")
    git(folder, "commit -qm x")


def files_of(project: Path) -> dict[str, bytes]:
    """Returns the contents of all files by path, except those in `.git`."""
    return {name: (project / name).read_bytes() for name in modes_of(project)}


def modes_of(project: Path) -> dict[str, int]:
    """Returns the permissions of all files by path, except those in `.git`."""
    modes: dict[str, int] = {}
    for path in project.rglob("*"):
        name = path.relative_to(project).as_posix()
        if path.is_file() and not name.startswith(".git/"):
            modes[name] = path.stat().st_mode & 0o777
    return modes


@pytest.fixture(scope="session", autouse=True)
def types_of_packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """All projects share one mypy cache: mypy spends most of its time on the packages' types."""
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
