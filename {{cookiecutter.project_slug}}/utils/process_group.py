"""The process group of a training run, and the exchange of values in it.

With a single process there is no group, and each function returns what one process would get.
"""

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from utils.errors import TRAINING_FAILED, OtherProcessError, UserError
from utils.ranks import is_main_process, local_rank, rank, world_size

RENDEZVOUS_TIMEOUT = timedelta(minutes=5)
POLL_SECONDS = 0.01
FAILURE_TIMEOUT = timedelta(seconds=5)  # until all processes have met the same error

T = TypeVar("T")


def initialize_process_group(device: torch.device, step: int = 0) -> None:
    """Initialises the process group; afterwards the processes can exchange tensors.

    Args:
        device: the device that this process trains on.
        step: the step that this process would continue from.

    Raises:
        UserError: if a process does not arrive, or the processes would continue from different
            steps.
    """
    if world_size() > 1 and not torch.distributed.is_initialized():
        _join_process_group(device)
    steps = set(all_gather_object(step))
    if len(steps) > 1:
        raise UserError(
            f"the processes would continue from different steps, {sorted(steps)}; "
            "all machines must see the same run folder",
            TRAINING_FAILED,
        )


def _join_process_group(device: torch.device) -> None:
    backends = "cpu:gloo"
    if device.type != "cpu":
        device_backend = torch.distributed.get_default_backend_for_device(device)
        backends += f",{device.type}:{device_backend}"
    for variable in ("MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(variable):
            raise UserError(
                f"WORLD_SIZE = {world_size()}, but the environment variable {variable} "
                "is not set; start the processes with torchrun, or unset WORLD_SIZE"
            )
    distributed: Any = torch.distributed  # its functions for stores have no types
    store, _, _ = next(distributed.rendezvous("env://", timeout=RENDEZVOUS_TIMEOUT))
    name = _agree_on_name(store)
    store.set_timeout(distributed.default_pg_timeout)
    distributed.init_process_group(
        backends, store=distributed.PrefixStore(name, store), rank=rank(), world_size=world_size()
    )


def _agree_on_name(store: Any) -> str:
    """A name for this start of the processes, which rank 0 chooses and no other start has.

    The store of torchrun outlives restarts, and its agents count restarts differently. Keys that
    an earlier start has written must not be found, so each start needs a prefix of its own.
    """
    nonce = os.urandom(8).hex()
    if not is_main_process():
        store.set(f"request of rank {rank()}", nonce)
        name = str(store.get(nonce), "ascii")
        store.set(f"{name} {rank()}", "received")
        return name
    started = time.monotonic()
    for other in range(1, world_size()):
        # The request may come from a process of an earlier start, which is gone: repeat the
        # answer until the process of this start confirms it.
        while not store.check([f"{nonce} {other}"]):
            request = str(store.get(f"request of rank {other}"), "ascii")
            store.set(request, nonce)
            if time.monotonic() - started > store.timeout.total_seconds():
                raise UserError(
                    f"process {other} of {world_size()} did not start in time", TRAINING_FAILED
                )
            time.sleep(POLL_SECONDS)
    return nonce


def destroy_process_group() -> None:
    """Destroys the process group at the end of a command."""
    if world_size() > 1 and torch.distributed.is_initialized():
        background_group.cache_clear()  # a group that outlives the interpreter aborts its exit
        torch.distributed.destroy_process_group()


@cache
def background_group() -> Any:
    """A second group of all processes, for threads that communicate during training."""
    return torch.distributed.new_group(backend="gloo")


@contextmanager
def main_process_first() -> Iterator[None]:
    """Runs the block on rank 0 first, then on the first process of each machine, then elsewhere.

    Only one process creates or downloads the files that all processes read.
    """
    if rank() == 0:
        turn = 0
    elif local_rank() == 0:
        turn = 1
    else:
        turn = 2
    for current in range(3):
        if current == turn:
            yield
        if world_size() > 1:
            torch.distributed.barrier()


def all_gather_object(value: T) -> list[T]:
    """The values of all processes, by rank; each must be plain data."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def all_processes_fail(place: str) -> bool:
    """Whether all processes fail at the same place; each that fails must call this once.

    A process that does not fail may wait for this one in an exchange. The answer therefore comes
    within seconds, and not through an exchange.

    Args:
        place: where this process fails, such as ``after step 3``; no two places have the same name.
    """
    if world_size() == 1:
        return True
    distributed: Any = torch.distributed  # its functions for stores have no types
    store = distributed.distributed_c10d._get_default_store()
    store.set(f"failed {place} {rank()}", "")
    keys = [f"failed {place} {other}" for other in range(world_size())]
    try:
        store.wait(keys, FAILURE_TIMEOUT)
    except distributed.DistError:
        return False
    return True


@contextmanager
def failing_together() -> Iterator[None]:
    """If the block fails in one of the processes, it fails in all of them.

    The processes must not exchange anything within the block.

    Raises:
        OtherProcessError: in the processes in which the block does not fail.
    """
    if world_size() == 1:
        yield
        return
    error: Exception | None = None
    try:
        yield
    except Exception as caught:  # whatever the code of a project may raise
        error = caught
    fails = all_gather_object(error is not None)
    if error is not None:
        raise error
    if any(fails):
        raise OtherProcessError(f"process {fails.index(True)} fails")


def broadcast_object(value: T) -> T:
    """The value of the main process; it must be plain data."""
    return all_gather_object(value)[0]


def all_reduce_sum(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by its sum over the processes, in place."""
    if world_size() > 1:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)


def check_batch_size(batch_size: int) -> None:
    """Raises a UserError if a batch cannot be divided evenly among the processes."""
    remainder = batch_size % world_size()
    if remainder == 0:
        return
    lower = batch_size - remainder
    upper = lower + world_size()
    allowed = f"{lower} or {upper}" if lower else f"{upper}"
    raise UserError(
        f"data.batch_size = {batch_size} cannot be divided among {world_size()} processes; "
        f"use {allowed}"
    )
