"""Signals that ask a run to stop."""

import signal
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGUSR1")  # Windows has no SIGUSR1
NUMBERS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class StopSignals:
    """Within it, the first such signal is noted; a second one acts as it always does."""

    def __enter__(self) -> "StopSignals":
        self.received = 0
        self._usual = {number: signal.signal(number, self._note) for number in NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self.__exit__()
