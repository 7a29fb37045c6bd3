"""Removes the folders of runs that have failed or were killed."""

import shutil
from collections.abc import Sequence

import filelock

from experiments.runs import Run, read_run
from experiments.tables import remarks_of_run
from utils.errors import UserError
from utils.locks import acquire_lock

REMOVABLE_STATES = ("failed", "killed")


def failed_runs(runs: Sequence[Run]) -> list[Run]:
    """The runs that have failed or were killed."""
    return [run for run in runs if run.state in REMOVABLE_STATES]


def describe_failed(run: Run) -> str:
    """A line about a failed run: its folder, its state, and why it has failed."""
    line = f"{run.folder}  {run.state}"
    if run.step is not None:
        line += f" at step {run.step}"
    remarks = remarks_of_run(run)
    if remarks:
        line += f": {'; '.join(remarks)}"
    return line


def remove_run(run: Run) -> None:
    """Deletes a run folder, unless the run continues by now.

    Raises:
        OSError: if it cannot be deleted.
        UserError: if another process uses it, or has used it since its state was read.
    """
    if run.folder.is_symlink():
        raise UserError(f"{run.folder} is a link; remove it yourself")
    try:
        lock = acquire_lock(run.folder / ".lock")
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
