"""Signals that ask a run to stop."""

import multiprocessing
import os
import signal
from time import monotonic
from types import FrameType

# Windows has no SIGUSR1.
SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")
STOP_SIGNALS = [getattr(signal, name) for name in SIGNAL_NAMES if hasattr(signal, name)]
# `uv run` and `timeout` forward a signal that this process has already received.
DUPLICATE_WINDOW_SECONDS = 1.0


def started_by_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return bool(os.environ.get("TORCHELASTIC_RUN_ID"))


class StopSignals:
    """Within this context, the first stop signal is recorded; a later one ends the process.

    Under torchrun, later signals are ignored: torchrun forwards the signals that a terminal
    sends to all processes anyway.

    Attributes:
        received: number of the first signal, or 0.
    """

    def __enter__(self) -> "StopSignals":
        self.received = 0
        self._duplicates_until = 0.0
        self._previous_handlers = {}
        for number in STOP_SIGNALS:
            self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous_handlers.items():
            if not self.received:
                signal.signal(number, previous)
            elif started_by_torchrun():
                signal.signal(number, signal.SIG_IGN)
            # Otherwise `_handle` stays, as the previous handler might print a traceback while
            # the interpreter exits.

    def _handle(self, number: int, _: FrameType | None) -> None:
        # A flag, and not a KeyboardInterrupt, which library code may swallow or convert.
        if not self.received:
            self.received = number
            self._duplicates_until = monotonic() + DUPLICATE_WINDOW_SECONDS
        elif monotonic() > self._duplicates_until and not started_by_torchrun():
            for worker in multiprocessing.active_children():
                worker.kill()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
