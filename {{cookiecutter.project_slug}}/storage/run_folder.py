"""The folder of a run: how it is created, locked, found and described."""

import json
import math
import os
import platform
import re
import shutil
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from utils.command import next_command, typed_command
from utils.errors import UserError
from utils.files import TEMPORARY_FILES, replace_file
from utils.imports import fast_imports
from utils.locks import acquire_lock

PROJECT = Path(__file__).resolve().parent.parent
RUNS = Path("runs")
CHECKPOINTS = "checkpoints/*.pt"


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
        advice = "use another --run-dir"
        if has_checkpoint(folder):
            advice += f", or resume: {next_command('train.py', '--resume', folder)}"
        raise UserError(f"{folder} is not empty; {advice}")
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


@contextmanager
def locking(folder: Path) -> Iterator[None]:
    """Locks a run folder against all other processes.

    Raises:
        UserError: if another process writes in it.
    """
    lock = _lock(folder)
    try:
        yield
    finally:
        lock.release()


def check_not_in_use(folder: Path) -> None:
    """Raises a UserError if another process writes in a run folder."""
    _lock(folder).release()


def _holds_aborted_run(folder: Path) -> bool:
    """Whether a run that was killed before its first checkpoint has left this folder.

    A run whose checkpoints were deleted has results.
    """
    was_opened = (folder / ".lock").exists() or (folder / ".pid").exists()
    has_results = (folder / "result.json").exists() or (folder / "curves.png").exists()
    return was_opened and not has_results and not has_checkpoint(folder)


def _lock(folder: Path) -> filelock.BaseFileLock:
    pid_file = folder / ".pid"
    try:
        lock = acquire_lock(folder / ".lock")
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
    for temporary in folder.rglob(TEMPORARY_FILES):  # of a process that was killed
        temporary.unlink(missing_ok=True)


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
        job_files = list((RUNS / name).glob("*/.job"))
    runs = []
    for job_file in job_files:
        run = job_file.parent
        is_same_job = job_file.is_file() and job_file.read_text() == job
        if is_same_job and is_run(run) and has_checkpoint(run):
            runs.append(run)
    return max(runs, key=_start_time, default=None)


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
        run: a checkpoint file; a run folder, whose checkpoints are sorted by their steps, the
            largest first; a folder that contains a single run; or ``last``, the run in the folder
            `runs` that was started or resumed most recently.
        best: whether ``best.pt`` comes before all others, and not after them.
        runs: the folder in which ``last`` looks for runs.

    Raises:
        UserError: if there is none, or if a folder contains several runs.
    """
    is_last = str(run) == "last"
    if is_last:
        run = runs
    if run.is_file():
        return [run]
    if not has_checkpoint(run):
        folders = {run_folder_of(file) for file in _checkpoints(run.rglob(CHECKPOINTS))}
        newest = max(folders, key=_start_time, default=run)
        if len(folders) > 1 and not is_last:
            raise UserError(
                f"{run} contains {len(folders)} runs; name one of them, such as {newest}, the "
                "newest"
            )
        run = newest
    files = largest_step_first(_checkpoints(run.rglob(CHECKPOINTS)))
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


def largest_step_first(files: Iterable[Path]) -> list[Path]:
    """Checkpoints sorted by their steps: that in the name, or else that in the file.

    File times do not count: clocks differ, and copies have other times. Files with an unreadable
    step come first, so that it is reported that they are damaged.
    """
    files = list(files)
    steps: dict[Path, float] = {}
    steps_by_inode: dict[int, int] = {}
    for file in files:
        step = step_in_name(file)
        if step is not None:
            steps[file] = step
            steps_by_inode[file.stat().st_ino] = step
    for file in files:
        if file in steps:
            continue
        inode = file.stat().st_ino  # 0 on file systems without inodes
        step = steps_by_inode.get(inode) if inode else None
        if step is None:
            step = _step_in_file(file)
        if step is None:
            steps[file] = math.inf
        else:
            steps[file] = step
    # Of the same step, step_*.pt comes first.
    files.sort(key=lambda file: file.name, reverse=True)
    return sorted(files, key=lambda file: steps[file], reverse=True)


def step_in_name(file: Path) -> int | None:
    """The step in the name ``step_*.pt`` of a checkpoint; None for other names."""
    match = re.fullmatch(r"step_(\d+)\.pt", file.name)
    if match is None:
        return None
    return int(match[1])


def _step_in_file(file: Path) -> int | None:
    with fast_imports():
        from storage.checkpoint_file import read_step  # imports torch, which takes 1.3 s
    return read_step(file)


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


def _start_time(run: Path) -> tuple[float, str]:
    """When a run was started or resumed last, in seconds since 1970, and its folder.

    The time is in the manifest. Without one, it is that of the newest checkpoint.
    """
    manifest = read_manifest(run)
    try:
        start = datetime.fromisoformat(manifest.get("resumed") or manifest["started"])
        seconds = start.timestamp()
    except (LookupError, TypeError, ValueError):
        times = [file.stat().st_mtime for file in run.glob(CHECKPOINTS)]
        seconds = max(times, default=0.0)
    return seconds, str(run)


def start_folder_of(run: Path) -> Path | None:
    """The current folder when a run was started, to which relative paths in its settings refer."""
    folder = read_manifest(run).get("folder")
    if isinstance(folder, str):
        return Path(folder)
    return None


def has_checkpoint(folder: Path) -> bool:
    """Whether a run folder contains a checkpoint."""
    return any(_checkpoints(folder.glob(CHECKPOINTS)))


def averaged_checkpoints(file: Path) -> int | None:
    """The number in the name ``average_N.pt`` of an average of checkpoints; None otherwise."""
    match = re.fullmatch(r"average_(\d+)\.pt", file.name)
    if match is None:
        return None
    return int(match[1])


def _checkpoints(files: Iterable[Path]) -> Iterator[Path]:
    """The files without averages, from which no run can be resumed: they have to be named."""
    return (file for file in files if averaged_checkpoints(file) is None)


def write_manifest(folder: Path, settings: str, resumed: bool, **facts: Any) -> str:
    """Writes ``settings.yaml`` and ``manifest.json``.

    If a run is resumed, its manifest remains that of its first start, with the time added.

    Args:
        folder: the run folder.
        settings: all settings as YAML.
        resumed: whether the run continues.
        **facts: more entries of the manifest.

    Returns:
        The manifest of this start as JSON: command, machine and `facts`.
    """
    now = datetime.now(UTC).isoformat()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text(encoding="utf-8"))
    manifest = {
        "started": now,
        "template": project["tool"]["torch-template"]["version"],
        "folder": str(Path.cwd()),
        "command": typed_command(),
        "machine": f"Python {platform.python_version()}, {platform.platform()}",
        **facts,
    }
    text = _to_json(manifest)
    replace_file(folder / "settings.yaml", settings.encode())
    if resumed:
        saved = read_manifest(folder)
        if saved:
            manifest = {**saved, "resumed": now}
    replace_file(folder / "manifest.json", _to_json(manifest).encode(errors="backslashreplace"))
    return text


def write_patch(folder: Path, patch: bytes) -> None:
    """Writes ``code.patch``, the changes that were not committed; without any, there is no file.

    Raises:
        OSError: if it cannot be written.
    """
    if patch:
        replace_file(folder / "code.patch", patch)
    else:
        (folder / "code.patch").unlink(missing_ok=True)


def add_note(folder: Path, note: str | None, tags: Iterable[str]) -> None:
    """Adds a note, which replaces an earlier one, and tags to ``manifest.json``.

    Raises:
        OSError: if it cannot be written.
    """
    manifest = read_manifest(folder)
    if note is None:
        note = manifest.get("note", "")
    all_tags = dict.fromkeys([*manifest.get("tags", []), *tags])
    add_to_manifest(folder, note=note, tags=list(all_tags))


def add_to_manifest(folder: Path, **facts: Any) -> None:
    """Adds entries to ``manifest.json``, or replaces them.

    Raises:
        OSError: if it cannot be written.
    """
    manifest = {**read_manifest(folder), **facts}
    replace_file(folder / "manifest.json", _to_json(manifest).encode(errors="backslashreplace"))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of ``manifest.json``; empty if it is missing or damaged."""
    try:
        manifest = json.loads((folder / "manifest.json").read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(manifest, dict):
        return {}
    return manifest


def _to_json(manifest: Mapping[str, Any]) -> str:
    return json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
