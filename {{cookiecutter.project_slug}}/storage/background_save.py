"""A checkpoint that a thread writes while training continues."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from storage.state import copy_to_host

Publish = Callable[[Mapping[str, Any]], None]


class BackgroundSave:
    """Writes a copy of a state in a thread.

    Args:
        state: tensors and plain values; copied to the memory of the host.
        step: optimizer steps made so far.
        publish: writes the checkpoint file.
    """

    def __init__(self, state: Mapping[str, Any], step: int, publish: Publish) -> None:
        self.step = step
        host_state = copy_to_host(state)  # before training changes the tensors in place
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._future = executor.submit(publish, host_state)
        executor.shutdown(wait=False)  # the thread ends after this one task

    def wait(self) -> None:
        """Waits until the file is written.

        Raises:
            OSError: if it cannot be written.
        """
        self._future.result()
