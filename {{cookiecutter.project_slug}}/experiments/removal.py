"""Removes the folders of runs that have failed or were killed."""

import shutil
from collections.abc import Sequence

import filelock

from experiments.runs import Run, read_run
from utils.errors import UserError

REMOVABLE_STATES = ("failed", "killed")


def failed_runs(runs: Sequence[Run]) -> list[Run]:
    """The runs that have failed or were killed."""
    return [run for run in runs if run.state in REMOVABLE_STATES]


def remove_run(run: Run) -> None:
    """Deletes a run folder, unless the run continues by now.

    Raises:
        OSError: if it cannot be deleted.
        UserError: if another process uses it, or has used it since its state was read.
    """
    if run.folder.is_symlink():
        raise UserError(f"{run.folder} is a link; remove it yourself")
    lock = filelock.FileLock(run.folder / ".lock")
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout as error:
        raise UserError(
            f"{run.folder} is in use by another process, and was not removed"
        ) from error
    try:
        if read_run(run.folder).result != run.result:
            raise UserError(f"{run.folder} has continued meanwhile, and was not removed")
        shutil.rmtree(run.folder)
    finally:
        lock.release()
