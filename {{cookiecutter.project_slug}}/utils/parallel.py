"""Several processes that train one model, as torchrun starts them; one alone has nothing of it."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.errors import RANK, TRAINING_FAILED, WORLD, UserError

T = TypeVar("T")
LOCAL_RANK = int(os.environ.get("LOCAL_RANK", 0))  # place among the processes on this machine


def start(device: torch.device, step: int = 0) -> None:
    """Brings the processes together; from then on they can exchange tensors.

    Raises:
        UserError: if they would not all go on from the same `step`, or one does not come.
    """
    if WORLD > 1 and not torch.distributed.is_initialized():
        backends = "cpu:gloo"
        if device.type != "cpu":
            own = torch.distributed.get_default_backend_for_device(device)
            backends += f",{device.type}:{own}"
        library: Any = torch.distributed  # which has no types for these
        store = next(library.rendezvous("env://", timeout=timedelta(minutes=5)))[0]
        name = _name_start(store)
        store.set_timeout(library.default_pg_timeout)
        store = library.PrefixStore(name, store)
        library.init_process_group(backends, store=store, rank=RANK, world_size=WORLD)
    if len(steps := {*gather(step)}) > 1:
        text = f"processes go on from steps {sorted(steps)}; all machines have to see the same run"
        raise UserError(text, TRAINING_FAILED)


def _name_start(store: Any) -> str:
    """A name for this start, which the first process gives to the others, and no other start has.

    The store of torchrun outlives restarts, which its agents count differently: what was said there
    before must not be found.
    """
    name, begun = os.urandom(8).hex(), time.monotonic()
    if RANK:
        store.set(f"process {RANK}", name)
        name = str(store.get(name), "ascii")
        store.set(f"{name} {RANK}", "heard")
    for rank in () if RANK else range(1, WORLD):
        while not store.check([f"{name} {rank}"]):  # who asked may be one that is gone
            store.set(str(store.get(f"process {rank}"), "ascii"), name)
            if time.monotonic() - begun > store.timeout.total_seconds():
                raise UserError(f"process {rank} of {WORLD} has not come", TRAINING_FAILED)
            time.sleep(0.01)
    return name


@cache
def side_group() -> Any:
    """All processes, once more: threads talk through it, beside training."""
    return torch.distributed.new_group(backend="gloo")


def stop() -> None:
    """Lets the processes part, when all have come to their end."""
    if WORLD > 1 and torch.distributed.is_initialized():
        side_group.cache_clear()  # or it would be there until Python leaves, and abort that
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


def spread(
    model: nn.Module, device: torch.device, sharded: bool, precision: torch.dtype
) -> nn.Module:
    """The model, so that its gradients are the means over all processes: to be called in training.

    It is whole in each process or, if `sharded`, each has a share of every parameter. Batch
    normalisation is over the whole batch, as in one process.
    """
    if WORLD == 1:
        return model
    if device.type == "cpu":
        for part in model.modules():
            if isinstance(part, _BatchNorm):  # torch's own works on accelerators alone
                part.__class__ = SharedBatchNorm
    else:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if sharded:
        return shard(model, device, precision)
    places = None if device.type == "cpu" else [device]
    return nn.parallel.DistributedDataParallel(model, places, gradient_as_bucket_view=True)


def shard(model: nn.Module, device: torch.device, precision: torch.dtype) -> nn.Module:
    """Leaves each process a share of every parameter, and so of its gradient and optimizer state.

    A block is gathered while it computes (FSDP: Zhao et al., arXiv:2304.11277): one with matrices
    in the number format of the forward pass, others in float32, as are the sums of gradients.

    Raises:
        UserError: if that cannot be done with this model or number format.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if precision == torch.half:
        raise UserError("trainer.strategy=fsdp has no fp16; trainer.precision=bf16 or fp32 can do")
    mesh: Any = init_device_mesh(device.type, (WORLD,))
    norms = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.affine]
    whole: Any = model  # whose types lack this in torch 2.12
    whole.to(memory_format=torch.contiguous_format)
    try:
        for part in dict.fromkeys([*norms, *blocks(model)]):
            mixed = precision != torch.float32 and any(p.ndim > 1 for p in part.parameters())
            low, high = (precision, torch.float32) if mixed else (None, None)
            policy = MixedPrecisionPolicy(low, high, cast_forward_inputs=False)
            fully_shard(part, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"trainer.strategy = 'fsdp': {error}") from error
    return model


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The parts of a network that are gathered one at a time: the members of its lists of layers.

    Beside such lists, and where there are none, they are the next smaller parts. Those that share
    a parameter with another part are left out: they have to be gathered together.
    """
    lists = (nn.Sequential, nn.ModuleList, nn.ModuleDict)

    def uses(part: nn.Module) -> Counter[nn.Parameter]:
        return Counter(p for _, p in part.named_parameters(remove_duplicate=False))

    def walk(whole: nn.Module) -> Iterator[nn.Module]:
        for part in whole.children():
            inner = () if isinstance(whole, lists) else part.modules()
            if isinstance(part, lists) or any(isinstance(one, lists) for one in inner):
                yield from walk(part)
            elif (inside := uses(part)) and all(inside[p] == everywhere[p] for p in inside):
                yield part

    everywhere = uses(model)
    return walk(model)


@contextmanager
def gathered(model: nn.Module) -> Iterator[None]:
    """Within it, a model that is shared out has its parameters whole in each process."""
    parts: list[Any] = [part for part in model.modules() if hasattr(part, "unshard")]
    for part in parts:
        part.unshard()
    yield
    for part in parts:
        part.reshard()


def own(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    share: Tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return share


def place_like(value: Any, like: Any) -> Any:
    """A whole tensor laid out in memory as another of its shape or, if that is shared out, shared.

    Fused optimizers go through memory, so what they keep has to lie there as parameters do.
    """
    tensors = isinstance(value, Tensor) and isinstance(like, Tensor)
    if not tensors or value.shape != like.shape or hasattr(value, "placements"):
        return value
    if not hasattr(like, "placements"):
        if value.stride() == like.stride():
            return value
        return torch.empty_like(like, dtype=value.dtype, device=value.device).copy_(value)
    from torch.distributed.tensor import distribute_tensor

    # Each has all of it, so that nothing needs to be sent.
    return distribute_tensor(
        value.contiguous(), like.device_mesh, like.placements, src_data_rank=None
    )


def unsynced(model: nn.Module) -> AbstractContextManager[None]:
    """Within it, gradients are added up, and exchanged only by the next backward pass after it.

    But for those that are shared out: each process would have to keep all of them until then.
    """
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
            mean_so_far = 1 / self.num_batches_tracked
            share: Any = mean_so_far if self.momentum is None else self.momentum
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
    apply: Any = _Sum.apply
    result: Tensor = apply(tensor)
    return result
