"""Errors that a user can put right: a line or two and an exit code instead of a traceback."""

import logging
import os
import sys
import traceback
from collections.abc import Callable

# This process's number, and how many there are, as torchrun says.
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
UV = "uv run " if "UV" in os.environ else ""  # what commands need before them, in advice
TRAINING_FAILED, BAD_INPUT, DATA_UNAVAILABLE = 1, 2, 69  # the last is EX_UNAVAILABLE


class UserError(Exception):
    """Something that cannot be used as it is; the message says what is allowed instead."""

    def __init__(self, message: str, exit_code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class LoadingError(UserError):
    """A batch that cannot be had."""


class NonFiniteError(Exception):
    """A loss or a weight that is NaN or infinite."""


# What the code of a project raises where it is wrong, or given what it does not expect.
USER_CODE_ERRORS = (ArithmeticError, LookupError, OSError, RuntimeError, TypeError, ValueError)


def explain(error: Exception) -> str:
    """An error of the project's code in a line: its kind, what it says, where it was raised."""
    if isinstance(error, UserError):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text} ({own[-1].filename}, line {own[-1].lineno})"


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command and leaves with its exit code, or with that of the error it met."""
    try:
        code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:  # who read the output, as in `| head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except (UserError, OSError) as error:  # the latter of a file that cannot be read or written
        logging.getLogger("run").debug("where this happened", exc_info=True)  # to train.log
        print(f"[rank {RANK}] " * bool(RANK) + f"error: {error}", file=sys.stderr)
        code = getattr(error, "exit_code", BAD_INPUT)
    if WORLD > 1:  # Python would wait for the others, or what is left of gloo's threads abort it
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code or 0)
    sys.exit(code)
