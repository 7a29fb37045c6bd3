"""Running a command: its exit code, its errors, its output."""

import logging
import os
import signal
import sys
from collections.abc import Callable

from utils.errors import (
    BAD_INPUT,
    TRAINING_FAILED,
    OtherProcessError,
    UserError,
    is_lost_connection,
)
from utils.ranks import rank, world_size

CLOSED_PIPE = 141  # 128 + SIGPIPE, as for a command that the signal ends
INTERRUPTED = 130  # 128 + SIGINT


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
        if not isinstance(error, OtherProcessError):
            print_error(error)
        exit_code = getattr(error, "exit_code", BAD_INPUT)
    except RuntimeError as error:
        if not is_lost_connection(error):
            raise
        logging.getLogger("run").debug("traceback of the error", exc_info=True)
        print_error(UserError("another process has ended; if it was an error, it reports it"))
        exit_code = TRAINING_FAILED
    finally:
        signal.signal(signal.SIGINT, previous_handler)
    if world_size() > 1:
        exit_at_once(exit_code or 0)
    sys.exit(exit_code)


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
