"""Which device computes, and in which precision."""

from functools import cache

import torch
from torch import Tensor

from utils.errors import WORLD, UserError
from utils.parallel import LOCAL_RANK

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def select_device(name: str) -> torch.device:
    """The device called `name`; ``auto`` is the accelerator that is there, or else the CPU.

    Raises:
        UserError: if this machine has no such device, listing those that it has.
    """
    found = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    count = torch.accelerator.device_count()
    names = ["cpu", *([found.type] if count else []), *(f"{found.type}:{i}" for i in range(count))]
    if WORLD > 1 and found.type != "cpu" and name in ("auto", found.type):
        name = f"{found.type}:{LOCAL_RANK}"  # one for each process
    if name not in ("auto", *names):
        raise UserError(f"device = {name!r}: not on this machine, which has {', '.join(names)}")
    device = found if name == "auto" else torch.device(name)
    if device.index is not None:  # what names no device, as seeding does, means the current one
        torch.accelerator.set_device_index(device.index)
    return device


def autocast_dtype(name: str, device: torch.device) -> torch.dtype:
    """The number format of the forward pass; ``auto`` is bf16 where the hardware computes in it."""
    if name != "auto":
        return PRECISIONS[name]
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and torch.cpu.get_capabilities().get("avx512_bf16", False)
    return torch.bfloat16 if native else torch.float32


def move(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch that a loader has made on a device; where that is the CPU, it is there already.

    It is copied to CUDA beside what is computed there: the host is ahead of the device, so the next
    batch is under way while the last one is trained on.
    """
    if device.type == "cpu":
        return batch
    if device.type != "cuda" or all(value.is_cuda for value in batch.values()):
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}
    side, current = side_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(side):  # from pinned memory, or else the host would wait
        moved = {k: v.pin_memory().to(device, non_blocking=True) for k, v in batch.items()}
    current.wait_stream(side)
    for value in moved.values():
        value.record_stream(current)  # or its memory could be used again too early
    return moved


@cache
def side_stream(device: torch.device) -> torch.cuda.Stream:
    """Where a CUDA device copies while it computes."""
    return torch.cuda.Stream(device)
