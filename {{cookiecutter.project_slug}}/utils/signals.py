"""Signals that ask a run to stop."""

import multiprocessing
import os
import signal
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1
LAUNCHED = "TORCHELASTIC_RUN_ID" in os.environ
NUMBERS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class StopSignals:
    """Within it, the first such signal is noted; a second one ends the process at once.

    But not where torchrun has started it, which passes on what the terminal sends to all anyway.
    """

    def __enter__(self) -> "StopSignals":
        self.received = 0
        self._usual = {number: signal.signal(number, self._note) for number in NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        after = signal.SIG_IGN if LAUNCHED else signal.SIG_DFL
        for number, usual in self._usual.items():  # which may print tracebacks while Python leaves
            signal.signal(number, after if self.received else usual)

    def _note(self, number: int, _: FrameType | None) -> None:
        # A KeyboardInterrupt might become another error on its way, or get lost.
        if self.received and not LAUNCHED:
            for worker in multiprocessing.active_children():
                worker.kill()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = self.received or number
