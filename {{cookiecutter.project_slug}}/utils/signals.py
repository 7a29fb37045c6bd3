"""Signals that ask a run to stop."""

import multiprocessing
import os
import signal
import threading
from time import monotonic
from types import FrameType
from typing import Any

# Windows has no SIGHUP and no SIGUSR1.
SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOP_SIGNALS = [getattr(signal, name) for name in SIGNAL_NAMES if hasattr(signal, name)]
# `uv run` and `timeout` forward a signal that this process has already received.
DUPLICATE_WINDOW_SECONDS = 1.0


def started_by_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return bool(os.environ.get("TORCHELASTIC_RUN_ID"))


class StopSignals:
    """Within this context, the first stop signal is recorded; a later one ends the process.

    Under torchrun, later signals are ignored: torchrun forwards the signals that a terminal
    sends to all processes anyway. A later SIGHUP is always ignored: a terminal that closes, its
    shell and the system may each send one, while the state is being saved.

    SIGHUP stays ignored if it is, as under nohup. Only the main thread can handle signals; in
    another one, nothing changes.

    Attributes:
        received: number of the first signal, or 0.
    """

    def __enter__(self) -> "StopSignals":
        self.received = 0
        self._duplicates_until = 0.0
        self._previous_handlers: dict[signal.Signals, Any] = {}
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in STOP_SIGNALS:
            if number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN:
                continue
            self._previous_handlers[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, previous in self._previous_handlers.items():
            if not self.received:
                if previous is None:  # a handler that was not installed by Python
                    previous = signal.SIG_DFL
                signal.signal(number, previous)
            elif started_by_torchrun():
                signal.signal(number, signal.SIG_IGN)
            # Otherwise `_handle` stays, as the previous handler might print a traceback while
            # the interpreter exits.

    def _is_duplicate(self, number: int) -> bool:
        if signal.Signals(number).name == "SIGHUP" or started_by_torchrun():
            return True
        return monotonic() <= self._duplicates_until

    def _handle(self, number: int, _: FrameType | None) -> None:
        # A flag, and not a KeyboardInterrupt, which library code may swallow or convert.
        if not self.received:
            self.received = number
            self._duplicates_until = monotonic() + DUPLICATE_WINDOW_SECONDS
        elif not self._is_duplicate(number):
            for worker in multiprocessing.active_children():
                worker.kill()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
