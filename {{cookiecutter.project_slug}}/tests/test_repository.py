"""The state of the git repository: what is unknown is null, with the reason."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from storage import repository
from storage.repository import describe_repository

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.com")
    subprocess.run(["git", "-C", folder, *identity, *arguments], check=True, capture_output=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    git(folder, "init", "-q")
    return folder


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the PATH, without git."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    return programs


def test_commit_and_changes_are_described(folder: Path) -> None:
    description = describe_repository(folder)
    assert description["commit"] is None
    assert description["dirty"] is False
    assert "no commit" in description["reason"]
    (folder / "train.py").touch()
    git(folder, "add", "train.py")
    git(folder, "commit", "-q", "-m", "x")
    git(folder, "checkout", "-q", "--detach")
    clean = describe_repository(folder)
    assert len(clean["commit"]) == 40
    assert clean == {"commit": clean["commit"], "dirty": False}
    (folder / "x").touch()
    git(folder, "config", "status.showUntrackedFiles", "no")
    assert describe_repository(folder) == {"commit": clean["commit"], "dirty": True}


def test_commit_of_a_repository_that_ignores_the_project_is_not_recorded(folder: Path) -> None:
    (folder / ".gitignore").write_text("*\n", encoding="utf-8")
    git(folder, "commit", "-q", "--allow-empty", "-m", "x")
    project = folder / "project"
    project.mkdir()
    (project / "train.py").touch()
    (folder / "other").touch()
    git(folder, "add", "--force", "other")  # a change elsewhere
    description = describe_repository(project)
    assert description["commit"] is None
    assert description["dirty"] is None
    assert "ignores" in description["reason"]


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes")
def test_file_names_in_another_encoding_are_read(folder: Path) -> None:
    git(folder, "config", "core.quotepath", "off")
    Path(os.fsdecode(os.fsencode(folder) + b"/notes-\xe9.txt")).touch()
    assert describe_repository(folder)["dirty"] is True


def test_refusal_of_git_is_recorded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    description = describe_repository(folder)
    assert description["commit"] is None
    assert description["dirty"] is None
    assert "dubious ownership" in description["reason"]
    assert "dubious ownership" in caplog.text


def test_variables_of_hooks_do_not_lead_to_another_repository(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    git(other, "init", "-q")
    (other / "x").touch()
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert describe_repository(folder)["dirty"] is False


def test_project_without_a_repository(tmp_path: Path) -> None:
    description = describe_repository(tmp_path)
    assert description["dirty"] is None
    assert "not in a git repository" in description["reason"]


def test_missing_git_is_recorded(folder: Path, programs: Path) -> None:
    description = describe_repository(folder)
    assert description["dirty"] is None
    assert "git cannot be started" in description["reason"]


@pytest.mark.skipif(os.name != "posix", reason="the program is a shell script")
def test_git_that_hangs_is_recorded(
    folder: Path, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = programs / "git"
    script.write_text("#!/bin/sh\n/bin/sleep 20\n", encoding="utf-8")
    script.chmod(0o755)
    monkeypatch.setattr(repository, "TIME_LIMIT_SECONDS", 0.2)
    description = describe_repository(folder)
    assert description["dirty"] is None
    assert "more than 0.2 seconds" in description["reason"]
