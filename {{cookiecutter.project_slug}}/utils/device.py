"""The device that computes, the dtype that it computes in, and copies to it."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError
from utils.nested import move, named_tensors
from utils.ranks import local_rank, world_size

AUTOCAST_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(name: str) -> torch.device:
    """The device called `name`; ``auto`` is the accelerator of this machine, or else the CPU.

    Raises:
        UserError: if this machine does not have the device, with a list of those that it has.
    """
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    available = ["cpu"]
    if accelerator is not None:
        count = torch.accelerator.device_count()
        available += [accelerator.type]
        available += [f"{accelerator.type}:{index}" for index in range(count)]
        if world_size() > 1 and name in ("auto", accelerator.type):
            name = f"{accelerator.type}:{local_rank()}"  # one device for each process
    if name == "auto":
        return accelerator or torch.device("cpu")
    if name not in available:
        raise UserError(f"device = {name!r}: this machine has {', '.join(available)}")
    device = torch.device(name)
    if device.index is not None:
        # Functions without a device argument, such as those that seed, use the current one.
        torch.accelerator.set_device_index(device.index)
    return device


def select_autocast_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of the forward pass; ``auto`` is bf16 if the hardware computes in it."""
    if precision != "auto":
        return AUTOCAST_DTYPES[precision]
    if _has_native_bfloat16(device):
        return torch.bfloat16
    return torch.float32


def _has_native_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    return False


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch on a device: its tensors, and its objects with a method ``to(device)``.

    A CUDA device copies on a stream of its own. The host runs ahead of the device, so the next
    batch is copied while the device still computes the previous step.
    """

    def copy_item(item: Any) -> Any:
        if isinstance(item, Tensor):
            return item.to(device, non_blocking=True)
        return item.to(device)

    if device.type == "cpu":
        # A device that is the CPU gets batches from the CPU only. `to_cpu` copies from a device.
        return batch
    if device.type != "cuda":
        return move(batch, copy_item)
    tensors = [tensor for _, tensor in named_tensors(batch)]
    if tensors and all(tensor.is_cuda for tensor in tensors):
        return batch
    copy_stream = _copy_stream(device)
    compute_stream = torch.cuda.current_stream(device)
    with torch.cuda.stream(copy_stream):
        moved = move(batch, copy_item)
    compute_stream.wait_stream(copy_stream)
    for _, tensor in named_tensors(moved):
        if tensor.is_cuda:
            tensor.record_stream(compute_stream)  # keeps the memory until the step has used it
    return moved


def to_cpu(batch: Any) -> Any:
    """A batch on the CPU: its tensors, and its objects with a method ``to(device)``."""
    return move(batch, lambda item: item.to("cpu"))


def pin(batch: Any) -> Any:
    """A batch in pinned memory, from which a device copies while it computes.

    Objects without a method `pin_memory` stay as they are.
    """

    def pin_item(item: Any) -> Any:
        if hasattr(item, "pin_memory"):
            return item.pin_memory()
        return item

    return move(batch, pin_item)


@cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which a CUDA device copies while it computes."""
    return torch.cuda.Stream(device)
