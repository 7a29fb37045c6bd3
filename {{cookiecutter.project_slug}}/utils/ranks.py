"""Rank and world size of this process, as torchrun sets them in the environment.

They are looked up at each call, so that tests and notebooks can set the variables. Torch is not
imported, so that commands can ask before they know whether they need it.
"""

import os

from utils.errors import UserError


def _read(variable: str, default: int) -> int:
    """The number in an environment variable; an empty one counts as unset.

    Raises:
        UserError: if it contains anything but a number.
    """
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal():
        raise UserError(f"the environment variable {variable} = {text!r} must be a whole number")
    return int(text)


def rank() -> int:
    """The number of this process among all training processes; 0 without torchrun."""
    return _read("RANK", 0)


def world_size() -> int:
    """The number of training processes on all machines; 1 without torchrun."""
    return _read("WORLD_SIZE", 1)


def local_rank() -> int:
    """The number of this process among those on this machine."""
    return _read("LOCAL_RANK", 0)


def local_world_size() -> int:
    """The number of training processes on this machine."""
    return _read("LOCAL_WORLD_SIZE", 1)


def is_main_process() -> bool:
    """Whether this process writes the logs and the files of the run."""
    return rank() == 0
