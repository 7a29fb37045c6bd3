"""Checkpoint files: complete, plain data, checked when read."""

import os
import pickle
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from utils.errors import UserError

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes `state` (tensors and plain values) beside `path`, then renames it into place."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            torch.save({"format": FORMAT, **state}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_step(folder: Path, state: dict[str, Any], step: int, keep: int, best: bool) -> None:
    """Saves ``step_*.pt`` in `folder`, also named ``last.pt`` (and ``best.pt``, if it is).

    Of the ``step_*.pt`` the newest `keep` stay.
    """
    file = folder / f"step_{step:08d}.pt"
    save_checkpoint(file, state)
    for name in ("last.pt", "best.pt") if best else ("last.pt",):
        _link(file, folder / name)
    for old in sorted(folder.glob("step_*.pt"))[:-keep]:
        old.unlink()


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Reads what `save_checkpoint` wrote, onto the CPU; code in the file is refused, never run.

    Raises:
        UserError: if the file is missing, damaged, holds more than plain data, or is of another
            format.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:  # torch.load does not compare the check sums
                raise zipfile.BadZipFile("a check sum is wrong")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        reason = str(error).partition("\n")[0]
        raise UserError(f"{path} is no usable checkpoint: {reason}") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path} is no checkpoint of this project (format {FORMAT})")
    return state


def trained_weights(state: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint that are evaluated: their average, where one was kept."""
    weights: dict[str, torch.Tensor] = state.get("average", state["model"])
    return {n.removeprefix("module."): value for n, value in weights.items() if n != "n_averaged"}


def _link(file: Path, name: Path) -> None:
    """Gives `file` a second name, replacing what had it, at no moment without a whole file."""
    temporary = name.with_name(f".{name.name}.{os.getpid()}")
    try:
        os.link(file, temporary)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, temporary)
    temporary.replace(name)
