"""Checkpoints of which each process writes what it holds, by torch's distributed checkpoint.

These parts are safetensors files, in a folder beside the checkpoint's own file. That one is written
last; it has all else, and the check sums of the parts. (torch's usual index would be a pickle.)
"""

import hashlib
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import (
    HuggingFaceStorageReader,
    HuggingFaceStorageWriter,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import async_save

from utils.errors import RANK
from utils.parallel import gather, side_group

Write = Callable[[dict[str, Any]], None]


class Saving:
    """Parts that are being written while training goes on.

    Args:
        folder: where the checkpoint's file will be; the parts get a new folder in it.
        state: tensors, some of which are spread over the processes, and plain values.
        write: called by the first process when all parts are safe, with all else in `state`.
    """

    def __init__(self, folder: Path, state: Mapping[str, Any], write: Write) -> None:
        start = f"parts-{state['step']:08d}-"  # and a number, as a run may have gone back
        taken = {place.name for place in folder.glob("parts-*")}
        free = (name for k in range(len(taken) + 1) if (name := f"{start}{k}") not in taken)
        place = folder / gather(next(free))[0]
        parts: dict[str, Any] = {}

        def detach_shards(tensor: Tensor, name: str) -> Tensor:
            if not hasattr(tensor, "to_local"):
                return tensor.detach().clone()  # as training goes on
            parts[name] = tensor
            return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")

        rest = map_tensors(state, detach_shards)

        def finish(digests: dict[str, str]) -> None:
            write({**rest, "parts": {"folder": place.name, "digests": digests}})

        self.step = state["step"]
        writer = _Writer(place, finish)
        self.future: Any = async_save(parts, storage_writer=writer, process_group=side_group())

    def finish(self) -> None:
        """Waits until all is written.

        Raises:
            OSError: if that failed, in whichever process.
        """
        try:
            self.future.result()
        except CheckpointException as error:
            cause = next(iter(error.failures.values()))[0]
            raise OSError(str(cause)) from error


class _Writer(HuggingFaceStorageWriter):
    """Tells `publish` the check sums of all files, when they are written."""

    def __init__(self, folder: Path, publish: Callable[[dict[str, str]], None]) -> None:
        super().__init__(str(folder), save_distributed=True)
        self.folder, self.publish = folder, publish

    def write_data(self, plan: Any, planner: Any) -> Any:
        super().write_data(plan, planner).wait()
        own: torch.futures.Future[Any] = torch.futures.Future()
        own.set_result([digests(self.folder, f"shard-{RANK + 1:05d}-*")])
        return own

    def finish(self, metadata: Any, results: list[list[Any]]) -> None:
        self.publish({name: own[name] for (own,) in results for name in own})


def read_parts(folder: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """The whole of a state whose parts are in a folder in `folder`, on the CPU.

    Raises:
        ValueError: if they are not as they were written.
    """
    place = folder / Path(state["parts"]["folder"]).name
    found, right = digests(place), state["parts"]["digests"]
    if wrong := [name for name in {**right, **found} if found.get(name) != right.get(name)]:
        raise ValueError(f"of its parts, in {place}, {wrong[0]} is not there or not as written")
    parts: dict[str, Any] = {}

    def allocate(tensor: Tensor, name: str) -> Tensor:
        if tensor.is_meta:
            tensor = parts[name] = torch.empty_like(tensor, device="cpu")
        return tensor

    whole: dict[str, Any] = map_tensors(state, allocate)
    try:
        with warnings.catch_warnings(action="ignore"):  # it warns that there is one process
            load(parts, storage_reader=HuggingFaceStorageReader(str(place)), no_dist=True)
    except CheckpointException as error:
        raise ValueError(f"its parts, in {place}, are not what it says") from error
    return {name: value for name, value in whole.items() if name != "parts"}


def digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    """The SHA-256 of files, by name."""
    found = {}
    for file in sorted(folder.glob(pattern)):
        with file.open("rb") as stream:
            found[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return found


def map_tensors(state: Any, function: Callable[[Tensor, str], Any], place: str = "") -> Any:
    """A state with what a function makes of each tensor and its place, instead of the tensor."""
    if isinstance(state, Tensor):
        return function(state, place)
    if isinstance(state, Mapping):
        return {k: map_tensors(v, function, f"{place}/{k}") for k, v in state.items()}
    if isinstance(state, list):
        return [map_tensors(v, function, f"{place}/{k}") for k, v in enumerate(state)]
    return state
