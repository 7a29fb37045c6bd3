"""Signals that ask a run to stop."""

import multiprocessing
import os
import signal
from time import monotonic
from types import FrameType

LAUNCHED = "TORCHELASTIC_RUN_ID" in os.environ
# Windows has no SIGUSR1.
NUMBERS = [getattr(signal, n) for n in ("SIGINT", "SIGTERM", "SIGUSR1") if hasattr(signal, n)]
GRACE = 1  # seconds: `uv run` and `timeout` pass on what this process has got from elsewhere, too


class StopSignals:
    """Within it, the first such signal is noted; one that comes later ends the process at once.

    But not where torchrun has started it, which passes on what the terminal sends to all anyway.
    """

    def __enter__(self) -> "StopSignals":
        self.received, self._until = 0, 0.0
        self._usual = {number: signal.signal(number, self._note) for number in NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        after = signal.SIG_IGN if LAUNCHED else self._note
        for number, usual in self._usual.items():  # which may print tracebacks while Python leaves
            signal.signal(number, after if self.received else usual)

    def _note(self, number: int, _: FrameType | None) -> None:
        # A KeyboardInterrupt might become another error on its way, or get lost.
        if self.received and monotonic() > self._until and not LAUNCHED:
            for worker in multiprocessing.active_children():
                worker.kill()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received, self._until = self.received or number, self._until or monotonic() + GRACE
