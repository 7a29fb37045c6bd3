"""Changes of the generated project are in CHANGELOG.md, and version numbers agree."""

import re
import tomllib
from pathlib import Path

import pytest
from changelog import find_problem
from conftest import PAYLOAD, PROMPTS, TEMPLATE, clone, commit, git, run
from ruamel.yaml import YAML

VERSION = PROMPTS["_version"]


def test_the_version_number_is_the_same_everywhere_and_has_a_section() -> None:
    about = tomllib.loads((TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))
    assert about["project"]["version"] == VERSION
    text = (TEMPLATE / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\S+) \((.+)\)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    assert len(sections) == text.count("\n## ")
    numbers = [tuple(map(int, version.split("."))) for version, _, _ in sections]
    assert numbers == sorted(numbers, reverse=True)
    dates = [date for _, date, _ in sections]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d", date) for date in dates[1:])
    assert dates[0] == "unreleased" or re.fullmatch(r"\d{4}-\d\d-\d\d", dates[0])
    assert sections[0][0] == VERSION
    assert all(re.search(r"^- ", section, re.MULTILINE) for _, _, section in sections)
    if git(TEMPLATE, f"tag --list v{VERSION}"):
        assert dates[0] != "unreleased"


def test_a_released_version_is_not_changed() -> None:
    assert find_problem(TEMPLATE) is None


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text(encoding="utf-8") + text, encoding="utf-8")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository of the template with a feature branch."""
    folder = clone(tmp_path)
    git(folder, "checkout -q -b work")
    return folder


@pytest.mark.parametrize("changed", [f"{PAYLOAD.name}/train.py", "hooks/answers.py"])
def test_a_change_without_a_changelog_entry_is_found(repository: Path, changed: str) -> None:
    append(repository / changed, "# new\n")
    uncommitted = find_problem(repository, "main")
    assert uncommitted is not None
    assert changed in uncommitted
    assert "CHANGELOG.md" in uncommitted
    commit(repository)
    assert find_problem(repository, "main") == uncommitted
    append(repository / "CHANGELOG.md", "- A new line.\n")
    assert find_problem(repository, "main") is None
    commit(repository)
    assert find_problem(repository, "main") is None


def test_a_removed_line_is_not_a_changelog_entry(repository: Path) -> None:
    append(repository / PAYLOAD.name / "train.py", "# new\n")
    log = repository / "CHANGELOG.md"
    log.write_text(log.read_text(encoding="utf-8").rpartition("\n- ")[0] + "\n", encoding="utf-8")
    assert find_problem(repository, "main") is not None


def test_changes_outside_the_generated_project_need_no_entry(repository: Path) -> None:
    append(repository / "README.md", "More.\n")
    append(repository / "tests/test_payload.py", "# new\n")
    assert find_problem(repository, "main") is None


def test_later_changes_on_the_target_branch_need_no_entry(repository: Path) -> None:
    git(repository, "checkout -q main")
    append(repository / PAYLOAD.name / "train.py", "# new\n")
    commit(repository)
    git(repository, "checkout -q work")
    assert find_problem(repository, "main") is None


def test_a_change_after_a_release_needs_a_new_version_number(repository: Path) -> None:
    git(repository, f"tag v{VERSION}")
    append(repository / "README.md", "More.\n")
    assert find_problem(repository) is None
    append(repository / PAYLOAD.name / "train.py", "# new\n")
    append(repository / "CHANGELOG.md", "- A new line.\n")
    problem = find_problem(repository, "main")
    assert problem is not None
    assert f"v{VERSION}" in problem
    assert "released" in problem
    prompts = repository / "cookiecutter.json"
    text = prompts.read_text(encoding="utf-8").replace(f'"{VERSION}"', '"99.0.0"')
    prompts.write_text(text, encoding="utf-8")
    assert find_problem(repository, "main") is None


def test_the_workflow_checks_pull_requests(repository: Path, tmp_path: Path) -> None:
    git(tmp_path, f"clone -q file://{repository} checkout")
    workflow = (TEMPLATE / ".github/workflows/test.yml").read_text(encoding="utf-8")
    steps = YAML(typ="safe", pure=True).load(workflow)["jobs"]["test"]["steps"]
    (step,) = (step for step in steps if step.get("if") == "github.event_name == 'pull_request'")
    command = ("bash", "-euo", "pipefail", "-c", step["run"])
    branch = {"GITHUB_BASE_REF": "main"}
    assert run(*command, cwd=tmp_path / "checkout", **branch).returncode == 0
    append(tmp_path / "checkout" / PAYLOAD.name / "train.py", "# new\n")
    commit(tmp_path / "checkout")
    done = run(*command, cwd=tmp_path / "checkout", **branch)
    assert done.returncode == 1
    assert done.stdout.startswith("error: {{cookiecutter.project_slug}}/train.py ")
    assert "CHANGELOG.md" in done.stdout
    done = run(*command, cwd=tmp_path / "checkout", GITHUB_BASE_REF="nowhere")
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
