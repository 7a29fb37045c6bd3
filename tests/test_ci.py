"""Continuous integration: its files are valid, and its commands pass."""

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import CHOICES, TEMPLATE, needs_all, render, run
from ruamel.yaml import YAML
from test_project import run_bash
from test_rendering import PYTHONS

FILES = {"github": ".github/workflows/checks.yml", "gitlab": ".gitlab-ci.yml"}
WORKFLOWS = f"{FILES['github']} .github/dependabot.yml"


def read_yaml(file: Path) -> Any:
    return YAML(typ="safe", pure=True).load(file.read_text(encoding="utf-8"))


def commands_of(project: Path, ci: str) -> list[str]:
    """Returns the commands of the checks, one for each line."""
    checks = read_yaml(project / FILES[ci])
    if ci == "gitlab":
        return list(checks["checks"]["script"])
    return [step["run"] for step in checks["jobs"]["checks"]["steps"] if "run" in step]


def has(tool: str) -> bool:
    """Whether `run` finds a program."""
    return bool(shutil.which(tool) or shutil.which(tool, path=Path(sys.executable).parent))


def lint(folder: Path, tool: str, *arguments: str) -> None:
    """Asserts that a linter finds nothing; skips the test if the linter is not installed."""
    if not has(tool):
        pytest.skip(f"{tool} is not installed")
    done = run(tool, *arguments, cwd=folder)
    assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module", params=PYTHONS)
def projects(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project for each choice of `ci`, with one of the Python versions."""
    folder = tmp_path_factory.mktemp("ci")
    for ci in CHOICES["ci"]:
        done = render(folder, project_slug=f"on-{ci}", ci=ci, python_version=request.param)
        assert done.returncode == 0, done.stdout
    return folder


def test_a_project_without_ci_has_no_files_or_text_about_it(projects: Path) -> None:
    assert not any((projects / "on-none" / name).exists() for name in (".github", *FILES.values()))
    readme = (projects / "on-none/README.md").read_text(encoding="utf-8")
    assert not re.search("GitHub|GitLab", readme)


def test_both_services_run_the_same_commands_with_the_same_python_versions(projects: Path) -> None:
    github, gitlab = (commands_of(projects / f"on-{ci}", ci) for ci in FILES)
    assert github == gitlab
    job = read_yaml(projects / "on-gitlab" / FILES["gitlab"])["checks"]
    matrix = read_yaml(projects / "on-github" / FILES["github"])["jobs"]["checks"]["strategy"]
    assert job["parallel"]["matrix"] == [{"PYTHON": matrix["matrix"]["python"]}]
    assert (
        job["variables"]["UV_PYTHON"] == "$PYTHON"
    )  # otherwise .python-version would determine it


@pytest.mark.parametrize(
    ("ci", "schema", "file"),
    [
        ("github", "github-workflows", FILES["github"]),
        ("github", "dependabot", ".github/dependabot.yml"),
        ("gitlab", "gitlab-ci", FILES["gitlab"]),
    ],
)
def test_the_files_match_their_schemas(projects: Path, ci: str, schema: str, file: str) -> None:
    schemas = ("--builtin-schema", f"vendor.{schema}")
    lint(projects / f"on-{ci}", "check-jsonschema", *schemas, file)


def test_zizmor_finds_no_security_problem_in_the_workflow(projects: Path) -> None:
    lint(projects / "on-github", "zizmor", "--offline", *WORKFLOWS.split())


def test_actionlint_finds_no_error_in_the_workflow(projects: Path) -> None:
    """The program must be installed by hand: its PyPI package downloads it from GitHub."""
    lint(projects / "on-github", "actionlint", FILES["github"])


def test_the_templates_workflow_is_safe_and_uses_the_same_actions(projects: Path) -> None:
    uses = r"uses: (\S+)@(\w+) # v[\d.]+$"
    own = (TEMPLATE / ".github/workflows/test.yml").read_text(encoding="utf-8")
    theirs = (projects / "on-github" / FILES["github"]).read_text(encoding="utf-8")
    own_actions, actions = (dict(re.findall(uses, text, re.MULTILINE)) for text in (own, theirs))
    assert len(own_actions) == own.count("uses:")
    assert len(actions) == theirs.count("uses:")
    shared = own_actions.keys() & actions.keys()
    assert {own_actions[name] for name in shared} == {actions[name] for name in shared}
    lint(TEMPLATE, "zizmor", "--offline", ".github")


def test_the_training_command_of_the_checks_works(tmp_path: Path, default_project: Path) -> None:
    """Uses this environment; `make test-all` runs all commands with an environment made by uv."""
    *_, command = commands_of(default_project, "github")
    project = shutil.copytree(default_project, tmp_path / "project")
    run_bash(command.replace("uv run", "python"), project)
    assert len(list(project.glob("runs/synthetic/*/checkpoints/last.pt"))) == 1


@needs_all
def test_all_commands_of_the_checks_pass(tmp_path: Path) -> None:
    assert render(tmp_path).returncode == 0
    project = tmp_path / "my-project"
    run_bash("git add -A && git -c user.name=x -c user.email=x@y commit -qm x", project)
    try:
        run_bash("\n".join(commands_of(project, "github")), project, VIRTUAL_ENV="", CI="true")
    finally:
        shutil.rmtree(project / ".venv", ignore_errors=True)  # 6 GB
