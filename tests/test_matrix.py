"""Combinations of options: each pair of choices occurs in at least one project."""

from collections.abc import Iterator
from itertools import combinations, product
from pathlib import Path

import pytest
from conftest import CHOICES, expand, files_of, foreign, needs_all, render, run
from conftest import OPTIONS as FILES
from project_pages import bash_blocks, faults_of, write_shown_files
from test_presets import mentions, names_of, problems_of_imports
from test_project import SAMPLE, run_bash, run_pages
from test_rendering import parse_all

# Other tests render each licence and each Python version.
OPTIONS = {name: CHOICES[name] for name in FILES}
CHOSEN = {f for some in FILES.values() for files in some.values() for f in expand(files)}
Answers = dict[str, str]


def cover() -> Iterator[Answers]:
    """Yields few combinations that contain each pair of choices of two options (greedy)."""
    every = [dict(zip(OPTIONS, values, strict=True)) for values in product(*OPTIONS.values())]
    pairs = {pair for answers in every for pair in combinations(answers.items(), 2)}
    while pairs:
        best = max(every, key=lambda answers: len(pairs & {*combinations(answers.items(), 2)}))
        pairs -= {*combinations(best.items(), 2)}
        yield best


ROWS = [*cover()]


@pytest.fixture(params=ROWS, ids=lambda answers: "-".join(answers.values()))
def answers(request: pytest.FixtureRequest) -> Answers:
    found: Answers = request.param
    return found


@pytest.fixture
def project(tmp_path: Path, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new project with these answers and all files committed."""
    monkeypatch.delenv("DATA_ROOT", raising=False)
    assert render(tmp_path, **answers).returncode == 0
    folder = tmp_path / "my-project"
    run_bash("git add -A && git -c user.name=x -c user.email=x@y commit -qm x", folder)
    return folder


def test_the_combinations_contain_all_pairs_of_choices() -> None:
    """Includes the pairs of options that are added later."""
    for one, other in combinations(OPTIONS, 2):
        met = {(answers[one], answers[other]) for answers in ROWS}
        assert met == {*product(OPTIONS[one], OPTIONS[other])}


def test_a_project_contains_the_files_of_its_choices_and_they_are_valid(
    project: Path, answers: Answers, default_project: Path
) -> None:
    common = {*files_of(default_project)} - CHOSEN
    assert {*files_of(project)} == common | CHOSEN - foreign(**answers)
    parse_all(project)
    assert problems_of_imports(project) == []
    assert mentions(project, names_of(foreign(**answers))) == []
    assert faults_of(project) == []
    for command in ("ruff check --no-cache .", "ruff format --check --no-cache ."):
        done = run(*command.split(), cwd=project)
        assert done.returncode == 0, done.stdout


FIRST = [
    next(answers for answers in ROWS if answers[option] == choice)
    for option in ("example", "experiment_tracker")
    for choice in OPTIONS[option]
]


@needs_all
def test_the_hooks_tests_and_documented_commands_of_a_project_pass(
    project: Path, answers: Answers, tmp_path: Path
) -> None:
    """The pre-commit hooks change nothing, and the tests and the documented commands pass.

    For the first project with each example and each tracker, this runs all tests (except for most
    of those with several processes) and the examples of the pages on data and models. For the
    others, it runs only their own tests and those of settings and commands.
    """
    home = {"HOME": str(tmp_path)}  # for the caches of the tools
    done = run("pre-commit", "run", "--all-files", cwd=project, **home)
    assert done.returncode == 0, done.stdout
    own = CHOSEN - foreign(**answers)
    tests = [file for file in own if file.startswith("tests/")]
    tests += [f"tests/test_{name}.py" for name in ("settings", "commands", "preview", "notebook")]
    tests = [file for file in tests if (project / file).exists()]
    chosen = ["-k", SAMPLE] if answers in FIRST else tests
    done = run("pytest", "-q", "-n", "1", *chosen, cwd=project, **home)
    assert done.returncode == 0, done.stdout
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""
    for commands in bash_blocks(project / "README.md", "Commands"):
        run_bash(commands, project)
    write_shown_files(project)
    run_pages(project, "evaluation", "experiments", "exports", "settings")
    if answers in FIRST:
        run_pages(project, "data", "models", "samplers")
        run_bash("ruff check . && ruff format --check . && mypy .", project)
