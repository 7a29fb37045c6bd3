"""Running a command: its exit code, its errors, its output."""

import argparse
import errno
import io
import logging
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from utils.colours import RED, coloured
from utils.errors import (
    BAD_INPUT,
    COMMAND_PREFIX,
    LOST_CONNECTION,
    TRAINING_FAILED,
    OtherProcessError,
    UserError,
    is_lost_connection,
    place_of,
)
from utils.files import discard_output
from utils.ranks import local_world_size, world_size
from utils.signals import SignalExit, started_by_torchrun

CLOSED_PIPE = 141  # 128 + SIGPIPE, as for a command that the signal ends
INTERRUPTED = 130  # 128 + SIGINT
WRITE_ERRORS = (errno.ENOSPC, errno.EIO)
STDERR = 2  # its descriptor
DISTRIBUTED_PROGRAMS = ("train.py", "evaluate.py")
RENDEZVOUS_PORT = 29500  # as in docs/processes.md; torchrun does not tell its processes the port
PROJECT = Path(__file__).resolve().parent.parent


class ParserExit(SystemExit):
    """The end of a command after ``--help``, or after invalid arguments."""


class CommandParser(argparse.ArgumentParser):
    """A parser whose exit differs from that of a project's code, which calls `sys.exit`."""

    def error(self, message: str) -> NoReturn:
        """Raises a UserError; argparse would print how all options are used."""
        raise UserError(f"{message}; see --help")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """Prints the message to stderr, and raises a ParserExit."""
        try:
            super().exit(status, message)
        except SystemExit as end:
            raise ParserExit(status) from end


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command and exits with its exit code, or with that of the error it raises."""
    _prepare_streams()
    is_one_of_several = False
    # Ctrl-C ends the process: an import in progress may swallow a KeyboardInterrupt.
    previous_handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        is_one_of_several = world_size() > 1
        exit_code = main()
        sys.stdout.flush()
    except ParserExit:
        raise
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        exit_code = _report(error)
        if exit_code is None:
            if not is_one_of_several:
                raise
            sys.excepthook(type(error), error, error.__traceback__)
            exit_code = TRAINING_FAILED
    finally:
        signal.signal(signal.SIGINT, previous_handler)
    if is_one_of_several:
        exit_at_once(exit_code or 0)
    sys.exit(exit_code)


def exit_code_of(error: BaseException) -> int:
    """What a command exits with after an error."""
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    if isinstance(error, UserError):
        return error.exit_code
    if isinstance(error, OSError):  # of a file that cannot be read or written
        return BAD_INPUT
    if isinstance(error, SystemExit) and isinstance(error.code, int) and error.code != 0:
        return error.code
    return TRAINING_FAILED


def _report(error: BaseException) -> int | None:
    """Reports what ended a command; returns the exit code, or None if it needs a traceback."""
    exit_code = exit_code_of(error)
    if isinstance(error, KeyboardInterrupt):
        return exit_code
    if isinstance(error, BrokenPipeError):  # the reader of the output, as in `| head`, has exited
        discard_output(sys.stdout)
        return exit_code
    logging.getLogger("run").debug("traceback of the error", exc_info=error)  # in train.log
    if isinstance(error, OtherProcessError):
        return exit_code
    if isinstance(error, UserError):
        print_error(error)
        return exit_code
    if isinstance(error, OSError):
        print_error(UserError(_describe_os_error(error)))
        return exit_code
    if is_lost_connection(error):
        print_error(UserError(LOST_CONNECTION))
        return exit_code
    if isinstance(error, SignalExit):
        return exit_code
    if isinstance(error, SystemExit):
        _report_exit(error)
        return exit_code
    return None


def _report_exit(error: SystemExit) -> None:
    """Reports `sys.exit` in code of the project or a library: the work is not done."""
    message = (
        f"sys.exit({error.code!r}) ended the command ({place_of(error)}); raise an error instead, "
        "or call `stop` of the trainer to end training"
    )
    print_error(UserError(message))


def _describe_os_error(error: OSError) -> str:
    """The file and what is wrong with it; that of a full disk may be the standard output."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        return f"{error.filename}: {reason}"
    if error.errno in WRITE_ERRORS:  # that of any other file has its name, see utils/files.py
        discard_output(sys.stdout)
        return f"the output cannot be written: {reason}"
    return str(error)


def _prepare_streams() -> None:
    """Makes all texts printable, and lets a command run whose standard streams are closed.

    Letters that the terminal's encoding lacks are printed as escapes.
    """
    if sys.stdout is None or sys.stderr is None:
        # The next files that are opened must not get the numbers 1 and 2: libraries write there.
        while os.open(os.devnull, os.O_RDWR) <= STDERR:
            pass
        null = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  until the exit
        sys.stdout = sys.stdout or null
        sys.stderr = sys.stderr or null
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # tests and notebooks replace it
            stream.reconfigure(errors="backslashreplace")


def next_command(program: str, *arguments: str | Path, processes: int = 1) -> str:
    """A command as the user must type it, in the folder where this one was typed.

    Args:
        program: a script of this project, such as ``evaluate.py``, or another program.
        *arguments: they are quoted where it is necessary.
        processes: the number of processes of a script, on one machine.
    """
    words = [program]
    if program.endswith(".py"):
        launcher = ["python"]
        if processes > 1:
            launcher = ["torchrun", "--standalone", f"--nproc-per-node={processes}"]
        elif program in DISTRIBUTED_PROGRAMS and started_by_torchrun():
            launcher = _torchrun()
        called = Path(sys.argv[0])
        if called.resolve().parent == PROJECT:
            program = str(called.with_name(program))
        words = [*launcher, program]
    for argument in arguments:
        if isinstance(argument, Path) and str(argument).startswith("-"):
            words.append(f"./{argument}")  # it would be an option
        else:
            words.append(str(argument))
    if os.name == "nt":
        return COMMAND_PREFIX + subprocess.list2cmdline(words)
    return COMMAND_PREFIX + shlex.join(words)


def _torchrun() -> list[str]:
    """How torchrun starts as many processes as now."""
    machines = world_size() // local_world_size()
    processes = f"--nproc-per-node={local_world_size()}"
    if machines == 1:
        return ["torchrun", "--standalone", processes]
    return [
        "torchrun",
        f"--nnodes={machines}",
        processes,
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={os.environ['MASTER_ADDR']}:{RENDEZVOUS_PORT}",
        f"--rdzv-id={os.environ['TORCHELASTIC_RUN_ID']}",
    ]


def typed_command() -> str:
    """The command that runs, as the user has typed it."""
    return shlex.join(sys.argv)


def is_confirmed(question: str) -> bool:
    """Asks a question on the terminal; only y and yes confirm it.

    Raises:
        UserError: if nobody can answer.
    """
    answer = ""
    if sys.stdin is not None:  # it may be closed
        print(question, end="", flush=True)
        try:
            answer = sys.stdin.readline()
        except UnicodeDecodeError:
            return False
    if not answer:
        print()
        raise UserError("nobody answered the question; add --yes if the answer is yes")
    return answer.strip().lower() in ("y", "yes")


def print_error(error: Exception) -> None:
    """Prints an error to stderr, with the rank of the process unless it is rank 0."""
    prefix = ""
    number = os.environ.get("RANK") or "0"  # which may be invalid
    if number != "0":
        prefix = f"[rank {number}] "
    try:
        label = coloured("error:", RED, sys.stderr)
        print(f"{prefix}{label} {error}", file=sys.stderr)
    except OSError:  # as in `2>&1 | head`, or on a full disk
        discard_output(sys.stderr)


def exit_at_once(exit_code: int) -> None:
    """Exits without Python's clean-up, which could wait for other processes or abort in gloo."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(exit_code)
