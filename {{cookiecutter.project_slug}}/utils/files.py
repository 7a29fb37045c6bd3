"""Files that are complete or absent, whatever happens to the process or the machine."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

TEMPORARY_NAME = ".unfinished"  # followed by a dot and the number of the process
TEMPORARY_FILES = f"{TEMPORARY_NAME}.*"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file to write in the same folder; it is renamed to `path` after success.

    At any moment a reader finds the old file or the new one. Several processes may write in the
    same folder: a report may be written into the folder of a run that trains.

    Raises:
        OSError: if the file cannot be written; the old file is then unchanged.
    """
    temporary = path.with_name(f"{TEMPORARY_NAME}.{os.getpid()}")
    try:
        temporary.unlink(missing_ok=True)
        yield temporary
        sync_to_disk(temporary)
        temporary.replace(path)
        sync_to_disk(path.parent)
    except OSError as error:
        error.filename = str(path)  # the error of a full disk names no file
        raise
    finally:
        temporary.unlink(missing_ok=True)


def replace_file(path: Path, content: bytes) -> None:
    """Writes `content` to `path`, as `replacing` does."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def to_json(value: Any) -> str:
    """Writes JSON in ASCII; NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_without_non_finite(value), indent=2, allow_nan=False)


def _without_non_finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: _without_non_finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_non_finite(item) for item in value]
    return value


def discard_output(stream: TextIO) -> None:
    """Discards everything that is written to a stream from now on, also at the exit of Python."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(descriptor, stream.fileno())
    os.close(descriptor)


def sync_to_disk(path: Path) -> None:
    """Flushes the content of a file, or the list of files of a folder, to the disk."""
    if os.name != "posix":  # Windows cannot sync a file that is open for reading only
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
