"""The state of the git repository: what is unknown is null, with the reason."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT

from storage import repository, run_folder
from storage.repository import MAX_FILE_BYTES, describe_difference, describe_repository, read_code
from storage.run_folder import read_manifest

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


# Changes that are not committed


def tree_of(folder: Path) -> str:
    """The hash of all files of a repository that git does not ignore."""
    git(folder, "add", "--all")
    output = subprocess.run(
        ["git", "-C", folder, "write-tree"], check=True, capture_output=True, text=True
    )
    return output.stdout.strip()


@pytest.fixture
def changed(folder: Path) -> Path:
    """A repository with all kinds of changes after its commit."""
    binary = bytes(range(256)) * 10
    for name in ("text.py", "deleted.py", "sub/모델 *.py", "mode.sh", "staged.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("first\nsecond\n", encoding="utf-8")
    (folder / "image.png").write_bytes(binary)
    (folder / ".gitignore").write_text("*.log\n")
    git(folder, "add", "--all")
    git(folder, "commit", "-q", "-m", "x")
    for option in ("diff.noprefix=true", "color.ui=always", "diff.external=false"):
        git(folder, "config", *option.split("="))
    (folder / "text.py").write_text("first\n2nd\r\nwithout a line break at the end")
    (folder / "deleted.py").unlink()
    (folder / "sub/모델 *.py").write_text("변경\n", encoding="utf-8")
    (folder / "mode.sh").chmod(0o755)
    (folder / "image.png").write_bytes(binary[::-1])
    (folder / "staged.py").write_text("staged\n")
    git(folder, "add", "staged.py")
    (folder / "new *.py").write_text("new\n")
    (folder / "-x").write_bytes(b"\0\xff" * 100)
    (folder / "empty").touch()
    (folder / "link").symlink_to("text.py")
    (folder / "train.log").write_text("ignored")
    return folder


def apply(patch: bytes, folder: Path, copy: Path) -> None:
    """Applies a patch to a clone of a repository."""
    git(folder, "clone", "-q", str(folder), str(copy))
    command = ["git", "-C", str(copy), "apply", "-"]
    subprocess.run(command, input=patch, check=True, capture_output=True)


def test_the_patch_turns_the_commit_into_the_same_files(tmp_path: Path, changed: Path) -> None:
    index_before = (changed / ".git/index").read_bytes()
    code = read_code(changed / "sub", changed / "run")
    assert code.description["dirty"] is True
    assert "left_out" not in code.description
    assert (changed / ".git/index").read_bytes() == index_before
    copy = tmp_path / "copy"
    apply(code.patch, changed, copy)
    assert tree_of(copy) == tree_of(changed)
    assert not (copy / "train.log").exists()


def test_large_files_and_repositories_are_listed_instead(tmp_path: Path, changed: Path) -> None:
    (changed / "weights.bin").write_bytes(os.urandom(MAX_FILE_BYTES + 1))
    (changed / "image.png").write_bytes(os.urandom(MAX_FILE_BYTES + 1))
    (changed / "inner").mkdir()
    git(changed / "inner", "init", "-q")
    (changed / "inner/x").touch()
    code = read_code(changed, changed / "run")
    assert sorted(code.description["left_out"]) == ["image.png", "inner/", "weights.bin"]
    assert len(code.patch) < MAX_FILE_BYTES
    copy = tmp_path / "copy"
    apply(code.patch, changed, copy)
    assert (copy / "text.py").read_bytes() == (changed / "text.py").read_bytes()
    assert not (copy / "weights.bin").exists()


def test_many_files_are_limited_as_a_whole(changed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repository, "MAX_PATCH_BYTES", 3000)
    for number in range(5):
        (changed / f"{number}.bin").write_bytes(os.urandom(900))
    left_out = read_code(changed, changed / "run").description["left_out"]
    assert "4.bin" in left_out
    assert "text.py" not in left_out


def test_the_files_of_the_run_are_no_changes(folder: Path) -> None:
    git(folder, "commit", "-q", "--allow-empty", "-m", "x")
    run = folder / "out/run *"
    run.mkdir(parents=True)
    (run / "train.log").touch()
    assert read_code(folder, run).description["dirty"] is False
    (folder / "out/other").touch()
    code = read_code(folder, run)
    assert b"out/other" in code.patch
    assert b"train.log" not in code.patch


def test_without_a_commit_or_git_there_is_no_patch(folder: Path, programs: Path) -> None:
    code = read_code(folder, folder / "run")
    assert code.patch == b""
    assert "git cannot be started" in code.description["reason"]


def test_differences_of_code_are_described(changed: Path) -> None:
    run = changed / "run"
    first = read_code(changed, run).description
    assert describe_difference(first, first) == ""
    (changed / "text.py").write_text("other")
    other = read_code(changed, run).description
    assert "other changes" in describe_difference(first, other)
    git(changed, "commit", "-q", "-a", "-m", "x")
    git(changed, "stash", "-q", "--include-untracked")
    committed = read_code(changed, run).description
    assert committed["commit"][:10] in describe_difference(first, committed)
    (changed / "text.py").write_text("again")
    dirty = read_code(changed, run).description
    assert "not committed" in describe_difference(committed, dirty)
    assert "without the changes" in describe_difference(dirty, committed)
    assert describe_difference({"commit": None}, committed) == ""


def test_a_run_saves_its_patch_and_reports_other_code_when_it_resumes(
    tmp_path: Path,
    changed: Path,
    train: Callable[..., int],
    command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copy(ROOT / "pyproject.toml", changed)
    monkeypatch.setattr(run_folder, "PROJECT", changed)
    run = changed / "run"
    assert train(run, "model.name=networks.MLP", "trainer.max_steps=1") == 0
    patch = (run / "code.patch").read_bytes()
    assert patch == read_code(changed, run).patch
    git_state = read_manifest(run)["git"]
    capsys.readouterr()
    assert command("train", "--resume", run, "trainer.max_steps=2") == 0
    assert "the code differs" not in capsys.readouterr().out
    (changed / "text.py").write_text("other")
    assert command("train", "--resume", run, "trainer.max_steps=3") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "the code differs" in line]
    assert len(lines) == 1
    assert "other changes" in lines[0]
    assert (run / "code.patch").read_bytes() == patch
    assert read_manifest(run)["git"] == git_state
