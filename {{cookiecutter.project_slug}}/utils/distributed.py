"""Several processes that train one model, as torchrun starts them; one alone has nothing of it."""

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.errors import RANK, WORLD, UserError

T = TypeVar("T")
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))  # place among the processes on this machine


def start(device: torch.device) -> None:
    """Brings the processes together; from then on they can exchange tensors."""
    if WORLD > 1 and not torch.distributed.is_initialized():
        backends = "cpu:gloo"
        if device.type != "cpu":
            own = torch.distributed.get_default_backend_for_device(device)
            backends += f",{device.type}:{own}"
        # The store of torchrun outlives restarts; what was said there before must not be found.
        attempt = f"{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)} of {WORLD}"
        library: Any = torch.distributed  # which has no types for these
        store = library.PrefixStore(attempt, next(library.rendezvous("env://"))[0])
        library.init_process_group(backends, store=store, rank=RANK, world_size=WORLD)


def stop() -> None:
    """Lets the processes part, when all have come to their end."""
    if WORLD > 1 and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def in_turn() -> Iterator[None]:
    """Lets the first process go ahead, then the first on each machine, then all others.

    So that only one of them makes or downloads what all will read.
    """
    turn = 0 if RANK == 0 else 1 if LOCAL_RANK == 0 else 2
    for k in range(3):
        if k == turn:
            yield
        if WORLD > 1:
            torch.distributed.barrier()


def gather(value: T) -> list[T]:
    """Plain data of each process, by rank."""
    if WORLD == 1:
        return [value]
    found: list[Any] = [None] * WORLD
    torch.distributed.all_gather_object(found, value)
    return found


def add_up(tensors: Iterable[Tensor]) -> None:
    """Replaces each tensor by its sum over the processes."""
    if WORLD > 1:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)


def check_size(batch_size: int) -> None:
    """Raises a UserError if a batch cannot be divided among the processes."""
    if rest := batch_size % WORLD:
        sizes = [size for size in (batch_size - rest, batch_size - rest + WORLD) if size]
        text = f"data.batch_size = {batch_size} cannot be divided among {WORLD} processes; "
        raise UserError(f"{text}{' and '.join(map(str, sizes))} can")


class Votes:
    """What the processes agree on in each step, without waiting for each other: a step later."""

    def __enter__(self) -> "Votes":
        self.work: Any = None
        self.cast = torch.zeros(1, dtype=torch.int64)
        return self

    def agree(self, number: int) -> int:
        """The largest that any process gave in the step before; of one process, its own."""
        if WORLD == 1:
            return number
        if self.work:
            self.work.wait()
        agreed, self.cast = int(self.cast), torch.tensor([number])
        highest = torch.distributed.ReduceOp.MAX
        self.work = torch.distributed.all_reduce(self.cast, highest, async_op=True)
        return agreed

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.work and kind is None:
            self.work.wait()


def spread(model: nn.Module, device: torch.device) -> nn.Module:
    """The model, so that its gradients are the means over all processes: to be called in training.

    Batch normalisation is over the whole batch, as in one process.
    """
    if WORLD == 1:
        return model
    if device.type == "cpu":
        for part in model.modules():
            if isinstance(part, _BatchNorm):  # torch's own works on accelerators alone
                part.__class__ = SharedBatchNorm
    else:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    places = None if device.type == "cpu" else [device]
    return nn.parallel.DistributedDataParallel(model, places, gradient_as_bucket_view=True)


def unsynced(model: nn.Module) -> AbstractContextManager[None]:
    """Within it, gradients are added up, and exchanged only by the next backward pass after it."""
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


class SharedBatchNorm(_BatchNorm):
    """Batch normalisation over the samples of all processes, on the CPU."""

    def forward(self, input: Tensor) -> Tensor:
        """As in one process with all samples; a process may have none, shape (0, C, ...)."""
        if not self.training:
            return super().forward(input)
        axes, shape = [0, *range(2, input.ndim)], [1, -1] + [1] * (input.ndim - 2)
        values = input.to(torch.promote_types(input.dtype, torch.float32))
        own = values.new_tensor([input.numel() / input.shape[1]])
        totals = sum_over_processes(torch.cat([values.sum(axes), own]))  # one exchange for both
        mean, count = totals[:-1] / totals[-1], totals[-1].detach()
        centred = values - mean.reshape(shape)
        variance = sum_over_processes(centred.square().sum(axes)) / count
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked += 1
            mean_so_far = 1 / int(self.num_batches_tracked)
            share = mean_so_far if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.detach(), share)
            self.running_var.lerp_(variance.detach() * count / (count - 1), share)
        result = centred * (variance + self.eps).rsqrt().reshape(shape)
        if self.affine:
            result = result * self.weight.reshape(shape) + self.bias.reshape(shape)
        return result.to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        pass


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.clone()
        add_up([tensor])
        return tensor

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of a tensor over all processes, through which gradients go back to each."""
    result: Tensor = _Sum.apply(tensor)
    return result
