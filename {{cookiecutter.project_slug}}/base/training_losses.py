"""The losses of training samples, for samplers that choose samples by them."""

from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError
from utils.process_group import all_reduce_sum
from utils.ranks import rank, world_size


def record_losses(trainer: Any, outputs: Any, target: Any) -> None:
    """See `BaseTrainer.record_losses`."""
    indices = trainer.trained_indices
    record = getattr(trainer.sampler, "record_losses", None)
    if indices is None or record is None:
        return
    with torch.no_grad():
        losses = trainer.loss.unweighted.of_samples(outputs, target)
    if losses is None:
        settings = trainer.settings
        raise UserError(
            f"data.sampler = {settings.data.sampler.name!r} needs the loss of each sample, which "
            f"loss.name = {settings.loss.name!r} does not compute; use another loss or sampler"
        )
    record(indices, _of_all_processes(losses.float(), len(indices)))


def _of_all_processes(losses: Tensor, count: int) -> Tensor:
    """The losses of the batch in all processes, shape (count,), in the order of its samples."""
    if world_size() == 1:
        return losses
    gathered = torch.zeros(count, device=losses.device)
    own = gathered[rank() :: world_size()]  # the positions of the samples of this process
    own.copy_(losses[: len(own)])  # of none, if the process has got a sample of another one
    all_reduce_sum([gathered])
    return gathered
