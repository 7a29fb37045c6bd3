"""The shards of a checkpoint: each process writes its part of each sharded tensor.

torch's distributed checkpoint writes them as safetensors files, in a folder next to the checkpoint
file. That file is written last. It contains everything else and the SHA-256 of each shard. (The
usual index of torch's distributed checkpoint is a pickle, which could run code.)
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

from storage.background_save import Publish
from utils.parallel import is_sharded
from utils.process_group import background_group, broadcast_object
from utils.ranks import rank


class ShardedSave:
    """A checkpoint that is being written while training continues.

    Args:
        folder: the folder of the checkpoint file; the shards get a new folder in it.
        state: tensors, some of them sharded, and plain values.
        step: optimizer steps made so far.
        publish: writes the checkpoint file; called in the main process when all shards are safe.
    """

    def __init__(self, folder: Path, state: Mapping[str, Any], step: int, publish: Publish) -> None:
        self.step = step
        shard_folder = folder / _new_folder_name(folder, step)
        shards: dict[str, Tensor] = {}
        remainder = _take_shards(state, shards)

        def publish_with_digests(digests: dict[str, str]) -> None:
            about_shards = {"folder": shard_folder.name, "digests": digests}
            publish({**remainder, "shards": about_shards})

        self._future: Any = async_save(
            shards,
            storage_writer=_DigestingWriter(shard_folder, publish_with_digests),
            process_group=background_group(),
        )

    def wait(self) -> None:
        """Waits until everything is written.

        Raises:
            OSError: if writing failed in any of the processes.
        """
        try:
            self._future.result()
        except CheckpointException as error:
            cause, _ = next(iter(error.failures.values()))
            raise OSError(str(cause)) from error


class _DigestingWriter(HuggingFaceStorageWriter):
    """Passes the digests of all shard files to `publish` when they are written."""

    def __init__(self, folder: Path, publish: Callable[[dict[str, str]], None]) -> None:
        super().__init__(str(folder), save_distributed=True)
        self.folder = folder
        self.publish = publish

    def write_data(self, plan: Any, planner: Any) -> Any:
        super().write_data(plan, planner).wait()
        digests = file_digests(self.folder, f"shard-{rank() + 1:05d}-*")
        future: torch.futures.Future[Any] = torch.futures.Future()
        future.set_result([digests])
        return future

    def finish(self, metadata: Any, results: list[list[Any]]) -> None:
        all_digests: dict[str, str] = {}
        for process_results in results:
            for digests in process_results:
                all_digests.update(digests)
        self.publish(all_digests)


def read_shards(folder: Path, state: Mapping[str, Any]) -> dict[str, Any]:
    """A whole state, with the tensors of its shards, on the CPU.

    Args:
        folder: the folder of the checkpoint file.
        state: the content of that file.

    Raises:
        ValueError: if the shards are not as they were written.
    """
    shard_folder = folder / Path(state["shards"]["folder"]).name
    expected = state["shards"]["digests"]
    found = file_digests(shard_folder)
    for name in {**expected, **found}:
        if found.get(name) != expected.get(name):
            raise ValueError(f"its shard {shard_folder / name} is missing or damaged")
    shards: dict[str, Tensor] = {}
    whole: dict[str, Any] = _allocate_shards(state, shards)
    try:
        with warnings.catch_warnings(action="ignore"):  # that there is a single process
            reader = HuggingFaceStorageReader(str(shard_folder))
            load(shards, storage_reader=reader, no_dist=True)
    except CheckpointException as error:
        raise ValueError(f"its shards in {shard_folder} have other tensors") from error
    del whole["shards"]
    return whole


def file_digests(folder: Path, pattern: str = "*") -> dict[str, str]:
    """The SHA-256 of each file that matches a pattern, by file name."""
    digests = {}
    for file in sorted(folder.glob(pattern)):
        with file.open("rb") as stream:
            digests[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digests


def _new_folder_name(folder: Path, step: int) -> str:
    """A name that is not in use: a run that was resumed may save the same step again."""
    number = 0
    while (folder / f"shards-{step:08d}-{number}").exists():
        number += 1
    return broadcast_object(f"shards-{step:08d}-{number}")


def _take_shards(state: Any, shards: dict[str, Tensor], path: str = "") -> Any:
    """A copy of a state in which meta tensors replace the sharded ones, which go to `shards`."""
    if isinstance(state, Tensor):
        if not is_sharded(state):
            return state.detach().clone()  # training continues while it is written
        shards[path] = state
        return torch.empty(state.shape, dtype=state.dtype, device="meta")
    return _map_items(state, lambda item, name: _take_shards(item, shards, f"{path}/{name}"))


def _allocate_shards(state: Any, shards: dict[str, Tensor], path: str = "") -> Any:
    """A copy of a state in which empty tensors, also in `shards`, replace the meta tensors."""
    if isinstance(state, Tensor):
        if not state.is_meta:
            return state
        shards[path] = torch.empty_like(state, device="cpu")
        return shards[path]
    return _map_items(state, lambda item, name: _allocate_shards(item, shards, f"{path}/{name}"))


def _map_items(state: Any, function: Callable[[Any, Any], Any]) -> Any:
    """A dict, list or tuple with `function(item, name)` for each item; other values unchanged."""
    if isinstance(state, Mapping):
        return {name: function(item, name) for name, item in state.items()}
    if isinstance(state, list):
        return [function(item, index) for index, item in enumerate(state)]
    if isinstance(state, tuple):
        return tuple(function(item, index) for index, item in enumerate(state))
    return state
