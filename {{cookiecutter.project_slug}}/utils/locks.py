"""Locks that other processes hold."""

from pathlib import Path

import filelock


def is_locked(file: Path) -> bool:
    """Whether a process holds a lock file, which may not exist.

    Raises:
        OSError: if the file cannot be opened for writing.
    """
    if not file.exists():
        return False
    lock = filelock.FileLock(file)
    try:
        lock.acquire(blocking=False)
    except filelock.Timeout:
        return True
    lock.release()
    return False
