"""A checkpoint that a thread writes while training continues."""

from collections.abc import Callable, Hashable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from torch import Tensor

from utils.nested import map_tensors


class BackgroundSave:
    """Writes a copy of a state in a thread.

    Args:
        state: tensors and plain values; copied to the memory of the host.
        step: optimizer steps made so far.
        publish: writes the checkpoint file.
    """

    def __init__(
        self, state: Mapping[str, Any], step: int, publish: Callable[[Mapping[str, Any]], None]
    ) -> None:
        self.step = step
        executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._future = executor.submit(publish, copy_to_host(state))
        executor.shutdown(wait=False)  # the thread ends after this one task

    def wait(self) -> None:
        """Waits until the file is written.

        Raises:
            OSError: if it cannot be written.
        """
        self._future.result()


def copy_to_host(state: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a state on the CPU; tensors that are the same memory, as tied weights, stay so."""
    copies: dict[Hashable, Tensor] = {}

    def copied(tensor: Tensor) -> Tensor:
        memory = (tensor.device, tensor.dtype, tensor.data_ptr(), tensor.shape, tensor.stride())
        if memory not in copies:
            copies[memory] = tensor.detach().to("cpu", copy=True)
        return copies[memory]

    copy: dict[str, Any] = map_tensors(copied, state)
    return copy
