"""Removes the folders of runs that have failed or were killed."""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import filelock

from experiments.runs import PLAN_FILE, Run, read_run
from experiments.tables import remarks_of_run
from utils.command import next_command
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
        UserError: if another process uses it, or has used it since its state was read, or if it
            is a trial of a sweep.
    """
    if run.folder.is_symlink():
        raise UserError(f"{run.folder} is a link; remove it yourself")
    sweep = _sweep_of(run.folder)
    if sweep is not None:
        command = next_command("sweep.py", "--name", sweep.name, "--clean", "failed")
        raise UserError(
            f"{run.folder} belongs to a sweep, which counts on it, and was not removed; to repeat "
            f"failed trials: {command}"
        )
    with locking_runs([run.folder]):
        now = read_run(run.folder)
        if now.result != run.result or now.manifest != run.manifest:
            raise UserError(f"{run.folder} has continued meanwhile, and was not removed")
        shutil.rmtree(run.folder)


def _sweep_of(run: Path) -> Path | None:
    """The folder of the sweep to which a run belongs, as a trial or as one run of a trial."""
    for folder in run.absolute().parents[:2]:
        if (folder / PLAN_FILE).exists():
            return folder
    return None


@contextmanager
def locking_runs(folders: Iterable[Path]) -> Iterator[None]:
    """Locks run folders, which may be deleted within this context.

    Raises:
        UserError: if another process uses one of them.
    """
    with ExitStack() as locks:
        for folder in folders:
            try:
                lock = acquire_lock(folder / ".lock")
            except filelock.Timeout as error:
                raise UserError(
                    f"{folder} is in use by another process, and was not removed; stop it first"
                ) from error
            locks.callback(lock.release)
        yield
