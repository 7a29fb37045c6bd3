"""Errors that a user can fix, and exit codes: one or two lines instead of a traceback."""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

TRAINING_FAILED = 1
BAD_INPUT = 2
DATA_UNAVAILABLE = 69  # EX_UNAVAILABLE of sysexits.h

# What commands in advice begin with: `uv run` sets UV.
COMMAND_PREFIX = "uv run " if os.environ.get("UV") else ""
MAX_MESSAGE_CHARACTERS = 300
MAX_FIRST_LINE_CHARACTERS = 150
LOST_CONNECTION = "another process has ended; if it was an error, it reports it"


class UserError(Exception):
    """Invalid settings or input; the message says what is wrong, what is allowed, what to do.

    Args:
        message: one or two lines.
        exit_code: what a command exits with.
    """

    def __init__(self, message: str, exit_code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LoadingError(UserError):
    """A batch that could not be loaded."""


class OtherProcessError(UserError):
    """The end of this process after an error in another one, which reports it.

    Args:
        message: what happened here.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, TRAINING_FAILED)


class NonFiniteError(Exception):
    """A loss or a weight that is NaN or infinite."""


# What a project's own code raises if it is wrong or receives unexpected values.
USER_CODE_ERRORS = (
    ArithmeticError,
    AttributeError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


def is_lost_connection(error: BaseException | None) -> bool:
    """Whether gloo has raised an error because another process has ended."""
    return isinstance(error, RuntimeError) and " by peer" in str(error)


def describe_error(error: Exception) -> str:
    """One line about an error in a project's own code: its type, its message and its line."""
    if isinstance(error, UserError):
        return str(error)
    message = " ".join(str(error).split())[:MAX_MESSAGE_CHARACTERS]
    return f"{type(error).__name__}: {message} ({place_of(error)})"


def place_of(error: BaseException) -> str:
    """The file and the line where an error occurred, in the project's own code if possible."""
    frames = traceback.extract_tb(error.__traceback__)
    own_frames = [frame for frame in frames if "site-packages" not in frame.filename]
    frame = (own_frames or frames)[-1]
    return f"{frame.filename}, line {frame.lineno}"


@contextmanager
def naming_source(source: str) -> Iterator[None]:
    """Reports an error in a method of a project as a UserError that names the method.

    Args:
        source: the class and the method.

    Raises:
        UserError: in the place of any other error.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the code of a project may raise
        raise UserError(f"{source} fails: {describe_error(error)}") from error


def first_line(error: BaseException) -> str:
    """What caused an error in a library: the type and the start of a message that may be long."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = type(error).__name__
    lines = str(error).strip().splitlines()
    if lines:
        text += f": {lines[0].strip()}"
    return text[:MAX_FIRST_LINE_CHARACTERS]
