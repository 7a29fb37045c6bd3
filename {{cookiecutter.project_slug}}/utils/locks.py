"""Locks that only one process holds, until it releases them or ends."""

from pathlib import Path

import filelock

# A test of a lock holds it for an instant; nobody else may take that for the lock of a run.
TEST_SECONDS = 0.05
RETRY_SECONDS = 1.0  # of a process that needs the lock, while others test it
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
        OSError: if the file cannot be opened for writing.
    """
    if not file.exists():
        return False
    lock = filelock.FileLock(file)
    try:
        lock.acquire(timeout=TEST_SECONDS, poll_interval=POLL_SECONDS)
    except filelock.Timeout:
        return True
    lock.release()
    return False
