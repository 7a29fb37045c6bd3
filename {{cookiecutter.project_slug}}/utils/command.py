"""Running a command: its exit code, its errors, its output."""

import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from utils.errors import BAD_INPUT, COMMAND_PREFIX, UserError
from utils.ranks import rank, world_size

CLOSED_PIPE = 141  # 128 + SIGPIPE, as for a command that the signal ends
INTERRUPTED = 130  # 128 + SIGINT
PROJECT = Path(__file__).resolve().parent.parent


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its exit code, or with that of the error it raises."""
    # Ctrl-C ends the process: an import in progress may swallow a KeyboardInterrupt.
    previous_handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        exit_code = main()
        sys.stdout.flush()
    except KeyboardInterrupt:
        exit_code = INTERRUPTED
    except BrokenPipeError:  # the reader of the output, as in `| head`, has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        exit_code = CLOSED_PIPE
    except (UserError, OSError) as error:  # an OSError of a file that cannot be read or written
        logging.getLogger("run").debug("traceback of the error", exc_info=True)  # in train.log
        print_error(error)
        exit_code = getattr(error, "exit_code", BAD_INPUT)
    finally:
        signal.signal(signal.SIGINT, previous_handler)
    if world_size() > 1:
        exit_at_once(exit_code or 0)
    sys.exit(exit_code)


def next_command(program: str, *arguments: str | Path) -> str:
    """A command as the user must type it, in the folder where this one was typed.

    Args:
        program: a script of this project, such as ``evaluate.py``, or another program.
        *arguments: they are quoted where it is necessary.
    """
    words = [program]
    if program.endswith(".py"):
        words = ["python", program]
        called = Path(sys.argv[0])
        if called.resolve().parent == PROJECT:
            words = ["python", str(called.with_name(program))]
    for argument in arguments:
        if isinstance(argument, Path) and str(argument).startswith("-"):
            words.append(f"./{argument}")  # it would be an option
        else:
            words.append(str(argument))
    if os.name == "nt":
        return COMMAND_PREFIX + subprocess.list2cmdline(words)
    return COMMAND_PREFIX + shlex.join(words)


def typed_command() -> str:
    """The command that runs, as the user has typed it."""
    return shlex.join(sys.argv)


def print_error(error: Exception) -> None:
    """Prints an error to stderr, with the rank of the process unless it is rank 0."""
    prefix = ""
    if rank() > 0:
        prefix = f"[rank {rank()}] "
    print(f"{prefix}error: {error}", file=sys.stderr)


def exit_at_once(exit_code: int) -> None:
    """Exits without Python's clean-up, which could wait for other processes or abort in gloo."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(exit_code)
