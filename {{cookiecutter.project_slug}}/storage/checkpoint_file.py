"""Checkpoint files: complete, plain data, checked when read.

A file is what torch.save writes, and the SHA-256 of that at its end: the check sums that are in the
archive leave out names, sizes and padding, and torch.load does not look at them. What several
processes hold parts of lies beside it; see `storage/sharded.py`.
"""

import hashlib
import io
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from logger.console import log
from utils.errors import NonFiniteError, UserError
from utils.files import newest_first, replacing
from utils.parallel import gather, own

FORMAT = 2
DIGEST = hashlib.sha256().digest_size  # in bytes


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Writes `state` (tensors and plain values); `path` has the old content or the new, never half.

    Raises:
        OSError: if it cannot be written.
    """
    archive = io.BytesIO()
    torch.save({"format": FORMAT, **state}, archive)
    # The view is let go here, as Python 3.12 may crash where a garbage collection has to do it.
    with archive.getbuffer() as content, replacing(path) as place, place.open("wb") as file:
        file.writelines([content, hashlib.sha256(content).digest()])


def save_step(folder: Path, state: Mapping[str, Any], keep: int, best: bool) -> None:
    """Saves ``step_*.pt`` in `folder`, also named ``last.pt`` (and ``best.pt``, if it is).

    Of the ``step_*.pt`` the newest `keep` stay; an old one goes when the new one is safe.

    Raises:
        OSError: if it cannot be written.
    """
    # In this order, a run that is killed in between and resumed lacks none of the names that count.
    names = ["best.pt"] * best + ["last.pt", f"step_{state['step']:08d}.pt"]
    file, *others = (folder / name for name in names)
    save_checkpoint(file, state)
    for other in others:
        with replacing(other) as temporary:
            try:
                os.link(file, temporary)
            except OSError:  # a file system without hard links
                shutil.copy2(file, temporary)
    for old in newest_first(folder.glob("step_*.pt"))[keep:]:
        old.unlink()
    if parts := {*folder.glob("parts-*")}:  # of these files, of removed ones, of half a checkpoint
        for file in folder.glob("*.pt"):
            with suppress(UserError):
                parts.discard(folder / _read(file).get("parts", {}).get("folder", ""))
        for place in parts:
            shutil.rmtree(place)


def load_first_usable(files: Sequence[Path]) -> tuple[Path, dict[str, Any]]:
    """The first of `files` that is usable, and what is in it; those before it are warned of.

    Raises:
        UserError: if none is usable.
    """
    for file in files[:-1]:
        try:
            return file, load_checkpoint(file)
        except UserError as error:
            log.warning("%s; taking the one before it", error)
    return files[-1], load_checkpoint(files[-1])


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote, onto the CPU; code in the file is refused, never run.

    Raises:
        UserError: if the file is missing, damaged, holds more than plain data, or is of another
            format.
    """
    state = _read(path)
    if "parts" in state:
        from storage.sharded import read_parts

        try:
            return read_parts(path.parent, state)
        except Exception as error:
            raise UserError(f"{path} is no usable checkpoint: {error}") from error
    return state


def _read(path: Path) -> dict[str, Any]:
    """What is in the file itself."""
    try:
        content = np.memmap(path, np.uint8, "r")
        if hashlib.sha256(content[:-DIGEST].data).digest() != content[-DIGEST:].tobytes():
            raise ValueError("it is damaged, cut short, or not of this project")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != FORMAT:
            raise ValueError(f"it has format {state['format']}, and this project reads {FORMAT}")
    except Exception as error:  # a file made with ill intent can bring about any
        reason = str(error).partition("\n")[0]
        if isinstance(error, pickle.UnpicklingError):  # torch would advise to run it
            reason = "it holds more than plain data"
        raise UserError(f"{path} is no usable checkpoint: {reason}") from error
    return state


def check_finite(state: Any, place: str) -> None:
    """Raises a NonFiniteError with the place of a tensor in `state` that has NaN or infinity.

    All processes raise it, whichever of them holds such a number.
    """
    if found := next(filter(None, gather(next(_not_finite(state, place), ""))), ""):
        raise NonFiniteError(f"{found} is not finite")


def _not_finite(state: Any, place: str) -> Iterator[str]:
    if isinstance(state, torch.Tensor):
        if state.is_floating_point() and not own(state).isfinite().all():
            yield place
    elif isinstance(state, Mapping | list):
        named = state.items() if isinstance(state, Mapping) else enumerate(state)
        for name, value in named:
            yield from _not_finite(value, f"{place} {name}")


def evaluation_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint that are evaluated: their average, where one was kept."""
    weights: dict[str, torch.Tensor] = state.get("average", state["model"])
    return {n.removeprefix("module."): value for n, value in weights.items() if n != "n_averaged"}
