"""Locks that only one process holds, until it releases them or ends."""

from pathlib import Path

import filelock

RETRY_SECONDS = 1.0  # of a process that needs the lock, while others test it
TEST_SECONDS = 0.05  # the same for a process that can only test a lock by acquiring it
POLL_SECONDS = 0.001


def acquire_lock(file: Path) -> filelock.BaseFileLock:
    """Locks a file.

    Raises:
        OSError: if the file cannot be opened for writing.
        filelock.Timeout: if another process holds the lock.
    """
    lock = filelock.FileLock(file)
    lock.acquire(timeout=RETRY_SECONDS, poll_interval=POLL_SECONDS)
    return lock


def is_locked(file: Path) -> bool:
    """Whether a process holds a lock file, which may not exist.

    Raises:
        OSError: if the file cannot be opened.
    """
    if not file.exists():
        return False
    try:
        return _refuses_shared_lock(file)
    except (ImportError, OSError):  # Windows, or a file system without shared locks
        return _refuses_lock(file)


def _refuses_shared_lock(file: Path) -> bool:
    """Several processes can have a shared lock at a time, so that they can test it together."""
    import fcntl  # Windows has no such module

    with file.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _refuses_lock(file: Path) -> bool:
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=TEST_SECONDS, poll_interval=POLL_SECONDS)
    except filelock.Timeout:
        return True
    lock.release()
    return False
