"""Where a study is stored: a journal file in the sweep's folder, or a database."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import optuna
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from experiments.sweep_plan import hide_password
from utils.errors import UserError, first_line

HEARTBEAT_SECONDS = 60
IN_MEMORY = (None, "", ":memory:")  # databases of SQLite


def open_storage(
    url: str | None, journal: Path, lock: filelock.BaseFileLock
) -> JournalStorage | RDBStorage:
    """Opens a storage, or creates it.

    Args:
        url: that of a database; None for the journal.
        journal: the journal file.
        lock: the lock of the study.

    Raises:
        OSError: if the journal cannot be read or written.
        UserError: if it is damaged, or the database is unavailable.
    """
    if url is not None:
        return open_database(url)
    _silence_optuna()
    with explaining_damage(journal):
        return JournalStorage(JournalFileBackend(str(journal), lock_obj=JournalLock(journal, lock)))


def open_database(url: str) -> RDBStorage:
    """Opens a database, and creates the tables that it lacks.

    Raises:
        UserError: if it is unavailable, its driver is not installed, or it is in memory.
    """
    _silence_optuna()
    callback = RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)
    place = f"--storage {hide_password(url)}"
    try:
        storage = RDBStorage(
            url, heartbeat_interval=HEARTBEAT_SECONDS, heartbeat_stale_trial_callback=callback
        )
    except ImportError as error:
        raise UserError(f"{place}: {first_line(error)}; install this driver") from error
    except Exception as error:  # whatever a driver may raise
        raise UserError(
            f"{place} cannot be opened: {first_line(error)}\n"
            "       write a URL such as sqlite:///FILE or postgresql+psycopg://HOST/DATABASE"
        ) from error
    address = storage.engine.url
    if address.get_backend_name() == "sqlite" and address.database in IN_MEMORY:
        raise UserError(f"{place} ends with this process; write sqlite:///FILE")
    return storage


def _silence_optuna() -> None:
    """Hides what Optuna logs about each trial, and that heartbeats are experimental."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


@contextmanager
def explaining_damage(journal: Path) -> Iterator[None]:
    """Reports that a journal cannot be read as an error of the user.

    Raises:
        OSError: if the file cannot be read or written.
        UserError: in the place of any other error.
    """
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:  # whatever Optuna may raise
        raise UserError(f"{journal} is damaged: {first_line(error)}; restore it") from error


@contextmanager
def explaining_lost_database() -> Iterator[None]:
    """Reports that a database is lost while it is used as an error of the user.

    Raises:
        UserError: in the place of the error of Optuna.
    """
    try:
        yield
    except optuna.exceptions.StorageInternalError as error:
        raise UserError(
            f"--storage: {first_line(error)}\n"
            "       all trials have stopped with their state saved; repeat the command to continue"
        ) from error


class JournalLock(JournalFileOpenLock):
    """The lock of a journal file, which also repairs the file before it is written.

    The system releases it when its process dies. Optuna's own lock would stay for 30 seconds.

    Args:
        file: the journal.
        lock: the lock of the study.
    """

    def __init__(self, file: Path, lock: filelock.BaseFileLock) -> None:
        super().__init__(str(file))
        self.file = file
        self.lock = lock

    def acquire(self) -> bool:
        """Waits for the lock; the file then ends with a complete line."""
        self.lock.acquire()
        remove_incomplete_line(self.file)
        return True

    def release(self) -> None:
        """Releases the lock."""
        self.lock.release()


def remove_incomplete_line(file: Path) -> None:
    """Removes the end of a file after its last line break, which a killed process has left.

    Optuna cannot read a journal in which another line follows it.
    """
    with file.open("r+b") as stream:
        size = stream.seek(0, 2)
        if size == 0:
            return
        stream.seek(size - 1)
        if stream.read(1) == b"\n":
            return
        stream.seek(0)
        content = stream.read()
        stream.truncate(content.rfind(b"\n") + 1)
