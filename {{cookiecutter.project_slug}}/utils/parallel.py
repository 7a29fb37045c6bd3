"""Wrapping a model in DDP or FSDP2, and tensors that FSDP2 has sharded."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from utils.batch_norm import synchronize_batch_norm
from utils.errors import TRAINING_FAILED, UserError
from utils.process_group import all_gather_object, all_reduce_sum
from utils.ranks import world_size

MAX_LISTED_PARAMETERS = 3
LAYER_LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def wrap_for_processes(
    model: nn.Module,
    device: torch.device,
    sharded: bool,
    autocast_dtype: torch.dtype,
    find_unused_parameters: bool = False,
) -> nn.Module:
    """The module to call in training, so that gradients are means over all processes.

    Batch normalisation uses the statistics of the whole batch, as in a single process.

    Args:
        model: the model of this process.
        device: where this process trains.
        sharded: whether to shard the parameters (FSDP2) instead of replicating them (DDP).
        autocast_dtype: dtype of the forward pass.
        find_unused_parameters: whether DDP searches for parameters without a gradient.
    """
    if world_size() == 1:
        return model
    model = synchronize_batch_norm(model, device)
    if sharded:
        return shard_model(model, device, autocast_dtype)
    device_ids = None
    if device.type != "cpu":
        device_ids = [device]
    return DataParallel(
        model,
        device_ids=device_ids,
        gradient_as_bucket_view=True,
        find_unused_parameters=find_unused_parameters,
    )


class DataParallel(nn.parallel.DistributedDataParallel):
    """DDP that reports parameters without a gradient at once, with their names."""

    def check_gradients(self) -> None:
        """Checks that the last backward pass has exchanged all gradients.

        DDP itself checks it in the next forward pass only. Until then, the other processes may wait
        for a gradient, and this one for something else.

        Raises:
            UserError: if a parameter had no gradient.
        """
        reducer: Any = self.reducer
        try:
            reducer._rebuild_buckets()  # what DDP does before a forward pass
        except RuntimeError as error:
            match = re.search(r"did not receive grad for rank \d+: ([\d ]+)", str(error))
            if match is None:
                raise
            trained = []
            for name, parameter in self.module.named_parameters():
                if parameter.requires_grad:
                    trained.append(name)
            names = [trained[int(index)] for index in match[1].split()]
            raise UserError(describe_unused_parameters(names), TRAINING_FAILED) from error


def describe_unused_parameters(names: Sequence[str]) -> str:
    """A message about parameters that had no gradient in a training step with DDP."""
    listing = ", ".join(names[:MAX_LISTED_PARAMETERS])
    return (
        f"{len(names)} parameters get no gradient in a training step ({listing}), "
        "but with several processes all must in each step; use them, freeze them "
        "(model.freeze), or set trainer.find_unused_parameters=true"
    )


def describe_differing_gradients(names: Sequence[str]) -> str:
    """A message about parameters that only some processes have a gradient of, with FSDP."""
    listing = ", ".join(names[:MAX_LISTED_PARAMETERS])
    return (
        f"{len(names)} parameters get a gradient in some processes only ({listing}); "
        "with trainer.strategy = 'fsdp', all processes must use the same parameters in each step"
    )


def shard_model(model: nn.Module, device: torch.device, autocast_dtype: torch.dtype) -> nn.Module:
    """Shards the parameters, and with them gradients and optimizer state, in place.

    A block is all-gathered while it computes (FSDP: Zhao et al., arXiv:2304.11277). Blocks with
    matrices compute in `autocast_dtype`, all others in float32. Gradients are reduced in float32.

    Raises:
        UserError: if the model or the dtype does not support it.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    if autocast_dtype == torch.half:
        raise UserError(
            "trainer.strategy = 'fsdp' does not support fp16; use trainer.precision=bf16 or fp32"
        )
    if any(parameter.is_complex() for parameter in model.parameters()):
        raise UserError(
            "trainer.strategy = 'fsdp' does not support complex parameters; use "
            "trainer.strategy=ddp"
        )
    mesh: Any = init_device_mesh(device.type, (world_size(),))
    contiguous: Any = model  # torch 2.12 has no type for this overload of `to`
    contiguous.to(memory_format=torch.contiguous_format)
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.affine]
    units = dict.fromkeys([*norms, *shardable_blocks(model)])  # each once, in this order
    mixed_policy = MixedPrecisionPolicy(
        param_dtype=autocast_dtype, reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    float32_policy = MixedPrecisionPolicy(cast_forward_inputs=False)
    try:
        for unit in units:
            has_matrix = any(p.ndim > 1 for p in unit.parameters())
            if has_matrix and autocast_dtype != torch.float32:
                fully_shard(unit, mesh=mesh, mp_policy=mixed_policy)
            else:
                fully_shard(unit, mesh=mesh, mp_policy=float32_policy)
        fully_shard(model, mesh=mesh)
    except (ValueError, NotImplementedError) as error:
        raise UserError(f"trainer.strategy = 'fsdp': {error}") from error
    return model


def shardable_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """The parts of a network to all-gather one at a time.

    A block that shares a parameter with another block is left out, because both must be gathered
    together.
    """
    uses_in_model = _parameter_uses(model)
    for block in layer_blocks(model):
        uses_in_block = _parameter_uses(block)
        shares_parameter = any(
            count != uses_in_model[parameter] for parameter, count in uses_in_block.items()
        )
        if uses_in_block and not shares_parameter:
            yield block


def layer_blocks(parent: nn.Module) -> Iterator[nn.Module]:
    """The layers of a network in their order: the members of its lists of layers.

    Modules outside such lists contribute their direct children.
    """
    is_list = isinstance(parent, LAYER_LISTS)
    for child in parent.children():
        is_nested_list = isinstance(child, LAYER_LISTS)
        has_lists_inside = not is_list and _contains_layer_list(child)
        if is_nested_list or has_lists_inside:
            yield from layer_blocks(child)
        else:
            yield child


def _contains_layer_list(module: nn.Module) -> bool:
    return any(isinstance(part, LAYER_LISTS) for part in module.modules())


def _parameter_uses(module: nn.Module) -> Counter[nn.Parameter]:
    """How often each parameter occurs in a module."""
    return Counter(p for _, p in module.named_parameters(remove_duplicate=False))


@contextmanager
def unsharded(model: nn.Module) -> Iterator[None]:
    """Within this context, a sharded model has its whole parameters in each process."""
    sharded_modules: list[Any] = [m for m in model.modules() if hasattr(m, "unshard")]
    for module in sharded_modules:
        module.unshard()
    try:
        yield
    finally:
        for module in sharded_modules:
            module.reshard()


def no_gradient_sync(model: nn.Module) -> AbstractContextManager[None]:
    """Within this context, DDP accumulates gradients locally; the next backward exchanges them.

    FSDP2 always exchanges them: otherwise each process would keep unsharded gradients.
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.no_sync()
    return nullcontext()


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replaces the gradients by their means over the processes.

    A missing gradient counts as zeros, unless it is missing in all processes.
    """
    if world_size() == 1:
        return
    occurrences = torch.tensor([float(p.grad is not None) for p in parameters])
    occurrences = occurrences.to(parameters[0].device)
    all_reduce_sum([occurrences])
    by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
    for parameter, count in zip(parameters, occurrences.tolist(), strict=True):
        if count > 0:
            by_dtype.setdefault(parameter.dtype, []).append(parameter)
    for some_parameters in by_dtype.values():
        gradients = []
        for parameter in some_parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            gradients.append(parameter.grad)
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])  # one exchange
        all_reduce_sum([flat])
        flat /= world_size()
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, mean in zip(gradients, flat.split(sizes), strict=True):
            gradient.copy_(mean.view_as(gradient))  # keeps the memory layout


def is_sharded(tensor: Any) -> bool:
    """Whether FSDP2 has sharded this tensor (it is a DTensor)."""
    return hasattr(tensor, "to_local")


def local_tensor(tensor: Tensor) -> Tensor:
    """The shard of a tensor that this process has; any other tensor unchanged."""
    if is_sharded(tensor):
        sharded: Any = tensor
        part: Tensor = sharded.to_local()
        return part
    return tensor


def match_layout(value: Any, reference: Any) -> Any:
    """A whole tensor with the memory layout and the sharding of another tensor.

    Fused optimizers read parameters and their state in memory order, so both need one layout.
    Values that are not tensors, or have another shape than `reference`, are returned unchanged.
    """
    if not isinstance(value, Tensor) or not isinstance(reference, Tensor):
        return value
    if value.shape != reference.shape or is_sharded(value):
        return value
    if is_sharded(reference):
        return _shard_like(value, reference)
    if value.stride() == reference.stride():
        return value
    matched = torch.empty_like(reference, dtype=value.dtype, device=value.device)
    return matched.copy_(value)


def _shard_like(value: Tensor, reference: Any) -> Tensor:
    from torch.distributed.tensor import distribute_tensor

    # Each process has the whole value, so nothing needs to be sent (src_data_rank=None).
    return distribute_tensor(
        value.contiguous(), reference.device_mesh, reference.placements, src_data_rank=None
    )


def check_replicas_equal(modules: Iterable[nn.Module], prefix: str) -> None:
    """Raises a UserError in all processes if their replicas of the modules differ."""
    if world_size() == 1:
        return
    checksum = 0.0
    for module in modules:
        for parameter in module.parameters():
            value = parameter.detach()
            if value.is_complex():
                value = torch.view_as_real(value)
            checksum += float(value.double().sum())
    if len(set(all_gather_object(repr(checksum)))) > 1:
        raise UserError(
            f"{prefix}: the weights of the processes differ, because gradients were not exchanged; "
            "call the model that training_step receives (elsewhere, self.parallel_model)",
            TRAINING_FAILED,
        )
