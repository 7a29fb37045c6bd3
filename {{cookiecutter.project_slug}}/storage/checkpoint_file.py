"""Checkpoint files: complete, plain data, verified when read.

A file is what torch.save writes, followed by its SHA-256. The digest is at the end of the file
itself, and not in a second file, so that it stays with a checkpoint that is renamed or copied. It
finds every flipped byte and every truncation. torch.load finds few: it does not verify the
checksums in the archive, and these do not cover names, sizes and padding. (safetensors and torch's
distributed checkpoints have no checksums.)

The parameters that several processes have sharded are in files next to it, see
`storage/sharded.py`.
"""

import hashlib
import os
import pickle
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

import torch

from logger.console import log
from utils.errors import UserError
from utils.files import replacing

FORMAT = 4
DIGEST_BYTES = hashlib.sha256().digest_size
READ_BYTES = 2**20  # at a time, to compute a digest


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes a state of tensors and plain values; `path` has the old content or all of the new.

    Raises:
        OSError: if it cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        hashing_file: Any = HashingFile(file)  # torch.save only calls its two methods
        try:
            torch.save({"format": FORMAT, **state}, hashing_file)
        except RuntimeError as error:  # torch's own error hides that of the disk
            if hashing_file.failure is not None:
                raise hashing_file.failure from error
            raise
        file.write(hashing_file.sha256.digest())


class HashingFile:
    """A file that is written from the beginning to the end, and the SHA-256 of what was written.

    So a state is saved without a second copy of it in memory.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.sha256 = hashlib.sha256()
        self.failure: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes bytes, or a view of bytes; returns their number."""
        self.sha256.update(data)
        try:
            return self.file.write(data)
        except OSError as error:
            self.failure = error
            raise

    def flush(self) -> None:
        """Passes what was written to the operating system."""
        self.file.flush()


def load_first_usable(files: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    """The first usable checkpoint of several, and its state; unusable ones give a warning.

    Raises:
        UserError: if none is usable.
    """
    for file, next_file in pairwise(files):
        try:
            return file, load_checkpoint(file)
        except UserError as error:
            log.warning("%s; trying %s instead", error, next_file)
    return files[-1], load_checkpoint(files[-1])


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote, onto the CPU; code in the file is never run.

    Raises:
        UserError: if the file is missing or damaged, contains more than plain data, or has
            another format.
    """
    state = read_verified(path)
    if "shards" not in state:
        return state
    from storage.sharded import read_shards

    try:
        return read_shards(path.parent, state)
    except Exception as error:  # whatever a malicious file may cause
        raise UserError(f"{path} is not a usable checkpoint: {error}") from error


def read_digest(path: Path) -> bytes:
    """The digest at the end of a checkpoint, which differs unless two files have the same content.

    Raises:
        OSError: if it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(-DIGEST_BYTES, os.SEEK_END)
        return file.read()


def read_step(path: Path) -> int | None:
    """The step of a checkpoint, which is not verified; None if it cannot be read."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return int(state["progress"]["step"])
    except Exception:  # whatever a malicious file may cause; reading the file reports it
        return None


def read_verified(path: Path) -> dict[str, Any]:
    """The content of the file itself, without the shards next to it.

    Raises:
        UserError: as `load_checkpoint`.
    """
    try:
        return _read(path)
    except pickle.UnpicklingError as error:  # torch's message advises to run the code in it
        reason = "it contains more than plain data"
        raise UserError(f"{path} is not a usable checkpoint: {reason}") from error
    except Exception as error:  # whatever a malicious file may cause
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is not a usable checkpoint: {reason}") from error


def _is_complete(path: Path) -> bool:
    """Whether the digest at the end of a file is that of its content, which is read in parts."""
    sha256 = hashlib.sha256()
    with path.open("rb") as file:  # another file may replace it in the meantime
        remaining = os.fstat(file.fileno()).st_size - DIGEST_BYTES
        while remaining > 0:
            part = file.read(min(remaining, READ_BYTES))
            if not part:
                return False
            sha256.update(part)
            remaining -= len(part)
        return file.read() == sha256.digest()


def _read(path: Path) -> dict[str, Any]:
    if not _is_complete(path):
        raise ValueError("it is damaged, incomplete, or was not written by this project")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state["format"] != FORMAT:
        raise ValueError(
            f"it has format {state['format']}; this version of the project reads format {FORMAT}"
        )
    return state
