"""Processes that begin, whatever threads do at the moment in which they are forked."""

import multiprocessing
from multiprocessing.context import ForkContext, ForkProcess
from multiprocessing.popen_fork import Popen
from typing import Any

PATIENCE = 30.0  # seconds for what takes milliseconds


class Fork(Popen):
    """A fork that is repeated if the process does not begin.

    Before Python 3.11.10, it hangs where a thread, such as those of torch.distributed, is about to
    call Python (python/cpython#112275).
    """

    def __init__(self, process: Any) -> None:
        process.begun = multiprocessing.Semaphore(0)
        super().__init__(process)
        while not process.begun.acquire(timeout=PATIENCE):
            self.kill()
            self.wait()
            super().__init__(process)


class Worker(ForkProcess):
    """A process that is made so."""

    _Popen: Any = Fork
    begun: Any

    def run(self) -> None:
        """Tells that it has begun, and does its work."""
        self.begun.release()
        super().run()


class Forking(ForkContext):
    """What a DataLoader makes its processes with."""

    Process = Worker
