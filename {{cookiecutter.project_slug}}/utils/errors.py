"""Errors that a user can put right: a line or two and an exit code instead of a traceback."""

import sys
from collections.abc import Callable

TRAINING_FAILED, BAD_INPUT, DATA_UNAVAILABLE = 1, 2, 69  # the last is EX_UNAVAILABLE


class UserError(Exception):
    """Something that cannot be used as it is; the message says what is allowed instead."""

    def __init__(self, message: str, exit_code: int = BAD_INPUT) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command and leaves with its exit code, or with that of the error it met."""
    try:
        sys.exit(main())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
