"""Signals that ask a run to stop."""

import multiprocessing
import signal
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1
NUMBERS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class StopSignals:
    """Within it, the first such signal is noted; a second one ends the process at once."""

    def __enter__(self) -> "StopSignals":
        self.received = 0
        self._usual = {number: signal.signal(number, self._note) for number in NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, usual in self._usual.items():  # which may print tracebacks while Python leaves
            signal.signal(number, signal.SIG_DFL if self.received else usual)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received:  # a KeyboardInterrupt might become another error on its way, or get lost
            for worker in multiprocessing.active_children():
                worker.kill()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number
