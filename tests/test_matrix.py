"""Choices of all options together: each pair of choices occurs in one of the projects."""

import re
from collections.abc import Iterator
from itertools import combinations, pairwise, product
from pathlib import Path

import pytest
from conftest import PROMPTS, files_of, foreign, needs_all, render, run
from markdown_it import MarkdownIt
from test_project import SAMPLE, make_it_yours, run_bash, run_commands
from test_rendering import parse_all

OPTIONS = {k: v for k, v in PROMPTS.items() if isinstance(v, list) and not k.startswith("_")}
CHOSEN = {f for some in PROMPTS["_files"].values() for files in some.values() for f in files}
Answers = dict[str, str]


def cover() -> Iterator[Answers]:
    """Few combinations in which each choice of an option meets each of all others."""
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
    """A fresh project with those answers and everything committed."""
    monkeypatch.delenv("DATA_ROOT", raising=False)
    assert render(tmp_path, **answers).returncode == 0
    folder = tmp_path / "my-project"
    run_bash("git add -A && git -c user.name=x -c user.email=x@y commit -qm x", folder)
    return folder


def test_the_matrix_has_all_pairs() -> None:
    """Also those of an option that is added one day."""
    for one, other in combinations(OPTIONS, 2):
        met = {(answers[one], answers[other]) for answers in ROWS}
        assert met == {*product(OPTIONS[one], OPTIONS[other])}


def links_in(markdown: str) -> tuple[set[str], set[str]]:
    """What a text links to, and the anchors of its headings."""
    tokens = MarkdownIt().parse(markdown)
    children = [child for token in tokens for child in token.children or ()]
    links = {str(child.attrs["href"]) for child in children if child.type == "link_open"}
    headings = [text.content for sign, text in pairwise(tokens) if sign.type == "heading_open"]
    anchors = {re.sub(r"[^\w -]", "", text.lower()).replace(" ", "-") for text in headings}
    return links, anchors


def test_files_are_those_of_the_choices_and_sound(
    project: Path, answers: Answers, default_project: Path
) -> None:
    common = {*files_of(default_project)} - CHOSEN
    assert {*files_of(project)} == common | CHOSEN - foreign(**answers)
    parse_all(project)
    readme = (project / "README.md").read_text(encoding="utf-8")
    for file in foreign(**answers):
        assert file not in readme
    links, anchors = links_in(readme)
    for link in links:
        assert link.startswith("https://") or (project / link).exists() or link[1:] in anchors, link
    assert "\n\n\n" not in re.sub(r"```.*?```", "code", readme, flags=re.DOTALL)
    for command in ("ruff check --no-cache .", "ruff format --check --no-cache ."):
        done = run(*command.split(), cwd=project)
        assert done.returncode == 0, done.stdout


FIRST = [
    next(answers for answers in ROWS if answers[option] == choice)
    for option in ("example", "experiment_tracker")
    for choice in OPTIONS[option]
]


@needs_all
def test_all_that_a_project_ships_with_is_green(
    project: Path, answers: Answers, tmp_path: Path
) -> None:
    """Hooks that change nothing, its tests, what its README says.

    Of the tests that are the same in all projects, those that look at settings and commands; all
    others (but most of those of several processes), and the README's chapter on making it your own,
    once for each example and each tracker.
    """
    home = {"HOME": str(tmp_path)}  # with the caches of the tools
    done = run("pre-commit", "run", "--all-files", cwd=project, **home)
    assert done.returncode == 0, done.stdout
    own = CHOSEN - foreign(**answers)
    tests = [file for file in own if file.startswith("tests/")]
    tests += [f"tests/test_{name}.py" for name in ("settings", "commands", "preview", "notebook")]
    chosen = ["-k", SAMPLE] if answers in FIRST else tests
    done = run("pytest", "-q", "-n", "1", *chosen, cwd=project, **home)
    assert done.returncode == 0, done.stdout
    assert run("git", "status", "--porcelain", cwd=project).stdout == ""
    run_commands(project)
    if answers in FIRST:
        make_it_yours(project)
