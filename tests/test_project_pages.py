"""The pages of a project have no faults: links, headings, file names, pictures and lengths."""

import shutil
from pathlib import Path

import pytest
from conftest import render
from project_pages import faults_of

# A text that is added to a page, and a part of the fault that it is.
FAULTS = {
    "broken link": ("README.md", "\n[more](docs/nowhere.md)\n", "broken link docs/nowhere.md"),
    "broken anchor": ("docs/data.md", "\n[more](models.md#nothing)\n", "link models.md#nothing"),
    "missing picture": ("docs/data.md", "\n![curves](curves.png)\n", "broken link curves.png"),
    "heading without a name": ("README.md", "\n##\n\nText.\n", "heading without a name"),
    "heading without text": ("README.md", "\n## More\n", "no text below the heading More"),
    "heading above another": ("README.md", "\n## A\n\n### B\n\nText.\n", "below the heading A"),
    "heading twice": ("README.md", "\n## Commands\n\nText.\n", "2 headings Commands"),
    "missing module": ("docs/training.md", "\nSee `base/loop.py`.\n", "no file base/loop.py"),
    "missing command": ("README.md", "\nSee `test.py`.\n", "no file test.py"),
    "long README": ("README.md", "\n" + "Text.\n" * 250, "at most 250 are allowed"),
    "long page": ("docs/updates.md", "\n" + "Text.\n" * 310, "at most 310 are allowed"),
    "blank lines": ("docs/updates.md", "\n\nText.\n", "two blank lines"),
    "other end": ("docs/updates.md", "\n## More\n\nText.\n", "its last section is More"),
}


@pytest.mark.parametrize("container", ["none", "docker"])
def test_the_pages_of_a_project_have_no_faults(tmp_path: Path, container: str) -> None:
    """The tests in test_matrix.py and test_examples.py check the pages of the other options."""
    assert render(tmp_path, container=container).returncode == 0
    project = tmp_path / "my-project"
    assert faults_of(project) == []
    assert (project / "docs/containers.md").exists() == (container == "docker")


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_found(default_project: Path, tmp_path: Path, name: str) -> None:
    project = shutil.copytree(default_project, tmp_path / "project")
    file, text, expected = FAULTS[name]
    page = project / file
    page.write_text(page.read_text(encoding="utf-8") + text, encoding="utf-8")
    (fault,) = faults_of(project)
    assert fault.startswith(f"{file}: ")
    assert expected in fault


def test_a_page_that_nothing_links_to_is_a_fault(default_project: Path, tmp_path: Path) -> None:
    project = shutil.copytree(default_project, tmp_path / "project")
    shutil.copy(project / "docs/data.md", project / "docs/more.md")
    assert "docs/more.md: README.md has no link to it" in faults_of(project)


def test_an_end_without_a_table_is_a_fault(default_project: Path, tmp_path: Path) -> None:
    project = shutil.copytree(default_project, tmp_path / "project")
    page = project / "docs/updates.md"
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace("| symptom |", "| what |"), encoding="utf-8")
    assert faults_of(project) == ["docs/updates.md: What can go wrong has no table"]
