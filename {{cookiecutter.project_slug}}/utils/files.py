"""Files that are whole or not there, whatever happens to the process or the machine."""

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A file to be written beside `path`, whose place it takes at the end, if all went well.

    At any moment a reader finds the old file or the new one.

    Raises:
        OSError: if it cannot be written; the old file is then as it was.
    """
    temporary = path.with_name(".unfinished")
    try:
        temporary.unlink(missing_ok=True)
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        error.filename = str(path)  # for the message; a full disk does not name it
        raise
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Gives `path` that content, as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def sync(path: Path) -> None:
    """Makes durable what a file holds, or which files a folder does."""
    if os.name == "posix":  # elsewhere a file that is only read cannot be synced
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def newest_first(files: Iterable[Path]) -> list[Path]:
    """Files by the time that they were written at."""
    return sorted(files, key=lambda file: (file.stat().st_mtime_ns, file.name), reverse=True)
