"""The folder of a run: how it is created, locked, found and described."""

import json
import os
import platform
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import filelock

from utils.command import next_command, typed_command
from utils.errors import UserError
from utils.files import TEMPORARY_NAME, newest_first, replace_file

PROJECT = Path(__file__).resolve().parent.parent
RUNS = Path("runs")
CHECKPOINTS = "checkpoints/*.pt"
RECORDED_PACKAGES = ("torch", "torchvision", "numpy")


@contextmanager
def open_run(name: str, folder: Path | None, resumed: bool = False) -> Iterator[Path]:
    """Creates or opens the folder of a run, and locks it against all other processes.

    A new folder in which no checkpoint was saved is deleted in the end, together with the parents
    that were created for it.

    Args:
        name: name of the settings.
        folder: the folder; by default ``runs/<name>/<date and time>``.
        resumed: whether the folder contains a run that continues.

    Raises:
        OSError: if the folder cannot be written.
        UserError: if it contains anything but a run without a checkpoint, or another process uses
            it.
    """
    if folder is None:
        folder = RUNS / name / f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}"
    is_new = not any(folder.glob("*"))
    if not resumed and not is_new and not _holds_aborted_run(folder):
        resume = next_command("train.py", "--resume", folder)
        raise UserError(f"{folder} is not empty; use another --run-dir, or resume: {resume}")
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = _lock(folder)
    try:
        _prepare(folder)
        yield folder
    finally:
        if is_new and not has_checkpoint(folder):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # another run may use a parent by now
                for parent in created[1:]:
                    parent.rmdir()
        lock.release()


def check_not_in_use(folder: Path) -> None:
    """Raises a UserError if another process writes in a run folder."""
    _lock(folder).release()


def _holds_aborted_run(folder: Path) -> bool:
    """Whether a run that was killed before its first checkpoint has left this folder."""
    was_opened = (folder / ".lock").exists() or (folder / ".pid").exists()
    return was_opened and not has_checkpoint(folder)


def _lock(folder: Path) -> filelock.BaseFileLock:
    lock = filelock.FileLock(folder / ".lock")  # the system releases it when the process ends
    pid_file = folder / ".pid"
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        owner = "another process"
        if pid_file.exists():
            owner = f"process {pid_file.read_text()}"
        raise UserError(f"{folder} is in use by {owner}") from error
    pid_file.write_text(str(os.getpid()))
    return lock


def _prepare(folder: Path) -> None:
    job = torchrun_job()
    if job:
        (folder / ".job").write_text(job)
    (folder / "checkpoints").mkdir(exist_ok=True)
    for temporary in folder.rglob(TEMPORARY_NAME):  # of a process that was killed
        temporary.unlink()


def find_interrupted_run(name: str, folder: Path | None) -> Path | None:
    """The folder of the run that this job of torchrun has already started, if there is one.

    After the death of a process, torchrun starts the same command again.

    Args:
        name: name of the settings.
        folder: the folder of the run, if the command line states it.
    """
    job = torchrun_job()
    if not job:
        return None
    if folder is not None:
        job_files = [folder / ".job"]
    else:
        job_files = newest_first((RUNS / name).glob("*/.job"))
    for job_file in job_files:
        run = job_file.parent
        is_same_job = job_file.is_file() and job_file.read_text() == job
        if is_same_job and is_run(run) and has_checkpoint(run):
            return run
    return None


def torchrun_job() -> str:
    """The identifier of the torchrun job of this process; an empty text without torchrun.

    It is --rdzv-id, which is the same in all restarts (in a cluster, the number of the
    scheduler's job). Without it, it is the name of the folder of torchrun's own logs.
    """
    job_id = os.environ.get("TORCHELASTIC_RUN_ID", "")
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if job_id == "none" and error_file:
        return Path(error_file).parents[2].name
    return job_id


def find_checkpoints(run: Path, best: bool = True, runs: Path = RUNS) -> list[Path]:
    """The checkpoints that an argument RUN refers to, in the order in which to try them.

    Args:
        run: a checkpoint file; a run folder, whose checkpoints are sorted by time, the newest
            first; or ``last``, the run that has saved most recently.
        best: whether ``best.pt`` comes before all others, and not after them.
        runs: the folder in which ``last`` looks for runs.

    Raises:
        UserError: if there is none.
    """
    if str(run) == "last":
        newest = newest_first(runs.rglob(CHECKPOINTS))
        run = run_folder_of(newest[0]) if newest else runs
    if run.is_file():
        return [run]
    files = newest_first(run.rglob(CHECKPOINTS))
    best_files = [file for file in files if file.name == "best.pt"]
    other_files = [file for file in files if file.name != "best.pt"]
    if best:
        files = best_files + other_files
    else:
        files = other_files + best_files
    if not files:
        problem = "contains no checkpoint" if run.exists() else "does not exist"
        raise UserError(f"{run} {problem}")
    return _without_hard_links(files)


def _without_hard_links(files: list[Path]) -> list[Path]:
    """The files without those that are hard links to an earlier one."""
    by_inode: dict[object, Path] = {}
    for file in files:
        inode = file.stat().st_ino  # 0 on file systems without inodes
        by_inode.setdefault(inode or file, file)
    return list(by_inode.values())


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder that contains a checkpoint, or else the folder of the file."""
    for folder in checkpoint.parents:
        if is_run(folder):
            return folder
    return checkpoint.parent


def is_run(folder: Path) -> bool:
    """Whether a folder is a run folder."""
    return (folder / "manifest.json").is_file()


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder contains a checkpoint."""
    return any(folder.glob(CHECKPOINTS))


def write_manifest(folder: Path, settings: str, **facts: Any) -> str:
    """Writes ``settings.yaml`` and, when a run starts, ``manifest.json``.

    Args:
        folder: the run folder.
        settings: all settings as YAML.
        **facts: more entries of the manifest.

    Returns:
        The manifest of this start as JSON: code, command, versions, machine and `facts`.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    versions = {name: version(name) for name in RECORDED_PACKAGES if find_spec(name)}
    manifest = {
        "template": project["tool"]["torch-template"]["version"],
        "git": {
            "commit": _git_output("rev-parse", "-q", "--verify", "HEAD"),
            "dirty": bool(_git_output("status", "--porcelain")),
        },
        "command": typed_command(),
        "versions": versions,
        "machine": f"Python {platform.python_version()}, {platform.platform()}",
        **facts,
    }
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    replace_file(folder / "settings.yaml", settings.encode())
    if not (folder / "manifest.json").exists():
        replace_file(folder / "manifest.json", text.encode())
    return text


def _git_output(*arguments: str) -> str | None:
    """The output of git in the project's folder; None if it is empty or git is missing."""
    if not shutil.which("git"):
        return None
    command = ["git", "-C", str(PROJECT), *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    return result.stdout.strip() or None
