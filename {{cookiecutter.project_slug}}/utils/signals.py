"""Signals that ask a run to stop."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from types import FrameType
from typing import Any

# Windows has no SIGHUP and no SIGUSR1.
SIGNAL_NAMES = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
STOP_SIGNALS = [getattr(signal, name) for name in SIGNAL_NAMES if hasattr(signal, name)]
# `uv run` and `timeout` forward a signal that this process has already received.
DUPLICATE_WINDOW_SECONDS = 1.0


class SignalExit(SystemExit):
    """The end of a command by a stop signal.

    Args:
        number: the signal; the exit code is 128 plus this number.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.exit_code = 128 + number


def started_by_torchrun() -> bool:
    """Whether torchrun has started this process."""
    return bool(os.environ.get("TORCHELASTIC_RUN_ID"))


@contextmanager
def exiting_on_signals() -> Iterator[None]:
    """Within this context, a stop signal raises SignalExit, so that temporary files are deleted.

    A second signal ends the process at once. SIGHUP stays ignored if it is, as under nohup.

    Raises:
        SignalExit: at a signal.
    """

    def exit_process(number: int, _: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise SignalExit(number)

    previous_handlers = _install(exit_process)
    try:
        yield
    finally:
        _restore(previous_handlers)


def _install(handler: Callable[[int, FrameType | None], None]) -> dict[signal.Signals, Any]:
    """Handles the stop signals; returns the previous handlers, none outside the main thread."""
    previous_handlers: dict[signal.Signals, Any] = {}
    if threading.current_thread() is not threading.main_thread():
        return previous_handlers
    for number in STOP_SIGNALS:
        if number.name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN:
            continue
        previous_handlers[number] = signal.signal(number, handler)
    return previous_handlers


def _restore(previous_handlers: Mapping[signal.Signals, Any]) -> None:
    for number, previous in previous_handlers.items():
        # None stands for a handler that was not installed by Python.
        signal.signal(number, signal.SIG_DFL if previous is None else previous)


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
        self._previous_handlers = _install(self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        if not self.received:
            _restore(self._previous_handlers)
        elif started_by_torchrun():
            for number in self._previous_handlers:
                signal.signal(number, signal.SIG_IGN)
        # Otherwise `_handle` stays, as the previous handler might print a traceback while the
        # interpreter exits.

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
