"""Signals that ask a run to stop."""

import signal
from types import FrameType


class StopSignals:
    """Within it, the first SIGINT or SIGTERM is noted; a second one acts as it always does."""

    def __enter__(self) -> "StopSignals":
        self.received = 0
        self._usual = {n: signal.signal(n, self._note) for n in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._usual.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: FrameType | None) -> None:
        self.received = number
        self.__exit__()
