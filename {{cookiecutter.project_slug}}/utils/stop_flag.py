"""Agreement of all processes on the step at which a signal or the training time stops them."""

from typing import Any

import torch

from utils.ranks import world_size


class StopFlag:
    """An all-reduce of signal number and time, one step behind, so that no process waits for it.

    With a single process, a signal takes effect at once.

    Attributes:
        seconds: the largest training time that any process sent, as of the last exchange.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._is_alone = world_size() == 1
        self._pending: Any = None
        self._values = torch.zeros(2, dtype=torch.float64)

    def __enter__(self) -> "StopFlag":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        # After an error, the other processes may not take part in the exchange any more.
        if self._pending is not None and error_type is None:
            self._pending.wait()

    def exchange(self, received_signal: int, seconds: float) -> int:
        """Sends this process's signal; returns the largest that any process sent a step ago.

        Args:
            received_signal: the number of the signal, or 0.
            seconds: the training time.
        """
        if self._is_alone:
            self.seconds = seconds
            return received_signal
        agreed_signal = 0
        if self._pending is not None:
            self._pending.wait()
            agreed_signal = int(self._values[0])
            self.seconds = float(self._values[1])
        self._values = torch.tensor([received_signal, seconds], dtype=torch.float64)
        self._pending = torch.distributed.all_reduce(
            self._values, torch.distributed.ReduceOp.MAX, async_op=True
        )
        return agreed_signal
