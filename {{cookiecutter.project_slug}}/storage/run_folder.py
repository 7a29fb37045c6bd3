"""The folder of one run: where everything that it leaves behind has its place."""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import filelock

from utils.errors import UserError
from utils.files import newest_first, replace_file

PROJECT = Path(__file__).resolve().parent.parent
RUNS = Path("runs")
PACKAGES = ("torch", "torchvision", "numpy")  # whose versions are noted, if they are there


@contextmanager
def open_run(name: str, folder: Path | None, resumed: bool = False) -> Iterator[Path]:
    """The folder of a run, kept from all other processes: `folder`, or ``runs/<name>/<date-time>``.

    A new one in which nothing was saved is removed in the end, with the parents made for it.

    Raises:
        OSError: if `folder` cannot be written.
        UserError: if it holds other things than a run that saved nothing, or another process
            writes in it.
    """
    folder = folder or Path(RUNS, name, f"{datetime.now():%Y-%m-%d_%H-%M-%S-%f}")
    new = not any(folder.glob("*"))
    begun = (folder / ".lock").exists() or (folder / ".pid").exists()  # if killed at any moment
    if not (resumed or new or (begun and not any(folder.glob("checkpoints/*.pt")))):
        raise UserError(f"{folder} is not empty; name another --run-dir, or --resume it")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock")  # the system frees it when the process dies
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        pid = folder / ".pid"  # written right after the lock was taken
        owner = f"process {pid.read_text()}" if pid.exists() else "another process"
        raise UserError(f"{folder} is in use by {owner}") from error
    (folder / ".pid").write_text(str(os.getpid()))
    if job := job_name():
        (folder / ".job").write_text(job)
    (folder / "checkpoints").mkdir(exist_ok=True)
    for rest in folder.rglob(".unfinished"):  # of a process that was killed
        rest.unlink()
    try:
        yield folder
    finally:
        if new and not any(folder.glob("checkpoints/*.pt")):
            shutil.rmtree(folder, ignore_errors=True)
            with suppress(OSError):  # of a parent in which there is something else by now
                for parent in made[1:]:
                    parent.rmdir()
        lock.release()


def find_interrupted_run(name: str, folder: Path | None) -> Path | None:
    """The folder in which the job of torchrun that this process is of has begun a run.

    torchrun starts the same command again when a process has died; --rdzv-id (of a cluster's
    scheduler, the job's number) tells that it is the same job, or else the folder of its own logs.
    """
    if not (job := job_name()):
        return None
    marks = [folder / ".job"] if folder else newest_first((RUNS / name).glob("*/.job"))
    begun = (mark.parent for mark in marks if mark.is_file() and mark.read_text() == job)
    return next((run for run in begun if is_run(run) and any(run.glob("checkpoints/*.pt"))), None)


def job_name() -> str:
    """What torchrun calls the job that this process is of; nothing without torchrun."""
    given = os.environ.get("TORCHELASTIC_RUN_ID", "")
    logs = os.environ.get("TORCHELASTIC_ERROR_FILE")
    return Path(logs).parents[2].name if given == "none" and logs else given


def find_checkpoints(run: Path, best: bool = True, runs: Path = RUNS) -> list[Path]:
    """The checkpoint that `run` is or, of a run folder, all: the newest first.

    But for ``best.pt``, which comes before all others if `best`, and after them if not. The run
    ``last`` is the one below `runs` that has saved most recently.

    Raises:
        UserError: if there is none.
    """
    if str(run) == "last":
        newest = newest_first(runs.rglob("checkpoints/*.pt"))
        run = run_folder_of(newest[0]) if newest else runs
    if run.is_file():
        return [run]
    contents: dict[object, Path] = {}
    files = newest_first(run.rglob("checkpoints/*.pt"))
    for file in sorted(files, key=lambda file: (file.name == "best.pt") != best):
        contents.setdefault(file.stat().st_ino or file, file)  # the others are second names
    if not contents:
        raise UserError(f"{run} {'holds no checkpoint' if run.exists() else 'does not exist'}")
    return list(contents.values())


def run_folder_of(checkpoint: Path) -> Path:
    """The run folder that a checkpoint lies in, or else the checkpoint's own folder."""
    return next(filter(is_run, checkpoint.parents), checkpoint.parent)


def is_run(folder: Path) -> bool:
    """Whether that is a run folder."""
    return (folder / "manifest.json").is_file()


def _git(*arguments: str) -> str | None:
    """What git prints about the project; None for nothing, or where there is no git."""
    if not shutil.which("git"):
        return None
    command = ["git", "-C", str(PROJECT), *arguments]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


def write_manifest(folder: Path, settings: str, **facts: Any) -> str:
    """Writes ``settings.yaml`` and, when a run begins, ``manifest.json``; returns what that says.

    That is what it takes to trace a run: code, command, versions, machine, and the `facts` given.
    """
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    commit, changes = _git("rev-parse", "-q", "--verify", "HEAD"), _git("status", "--porcelain")
    origin = {
        "template": project["tool"]["torch-template"]["version"],
        "git": {"commit": commit, "dirty": bool(changes)},
        "command": shlex.join(sys.argv),
        "versions": {k: version(k) for k in PACKAGES if find_spec(k)},
        "machine": f"Python {platform.python_version()}, {platform.platform()}",
        **facts,
    }
    text = json.dumps(origin, indent=2, ensure_ascii=False) + "\n"
    replace_file(folder / "settings.yaml", settings.encode())
    if not (folder / "manifest.json").exists():
        replace_file(folder / "manifest.json", text.encode())
    return text
