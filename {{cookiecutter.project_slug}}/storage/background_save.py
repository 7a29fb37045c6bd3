"""A checkpoint that a thread writes while training continues."""

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from utils.nested import map_tensors

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


def copy_to_host(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a state on the CPU, in which tied weights are copied once."""
    copies: dict[Hashable, Tensor] = {}

    def copy_once(tensor: Tensor) -> Tensor:
        layout = (tensor.dtype, tensor.shape, tensor.stride())
        key = (tensor.device, tensor.data_ptr(), layout)
        if key not in copies:
            copies[key] = tensor.detach().to("cpu", copy=True)
        return copies[key]

    host_state: dict[str, Any] = map_tensors(copy_once, state)
    return host_state
