"""An optimizer step: gradients of its batches, clipping, and the update of the weights.

The functions call each other by methods of the trainer, which a subclass may override.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.batch_loader import Step
from metrics.average import mean_over_batches, mean_over_processes
from metrics.protocol import check_outputs
from optim.optimizers import make_gradients_contiguous, needs_closure, parameters_of
from utils.errors import UserError
from utils.parallel import DataParallel, average_gradients
from utils.ranks import world_size

TrainingStep = Callable[[nn.Module, Batch], dict[str, Tensor]]


def optimize(
    trainer: Any,
    step: Step,
    optimizer: torch.optim.Optimizer | None,
    training_step: TrainingStep | None,
) -> dict[str, Tensor]:
    """See `BaseTrainer.optimize`."""
    selected = _selected(trainer, optimizer)
    for each in selected:
        if needs_closure(each):
            return _optimize_with_closure(trainer, step, each, optimizer, training_step)
    outputs: dict[str, Tensor] = trainer.compute_gradients(step, optimizer, training_step)
    trainer.clip_gradients(optimizer)
    for each in selected:
        trainer.scaler.step(each)
    trainer.scaler.update()
    _discard_gradients(trainer)
    return outputs


def compute_gradients(
    trainer: Any,
    step: Step,
    optimizer: torch.optim.Optimizer | None,
    training_step: TrainingStep | None,
) -> dict[str, Tensor]:
    """See `BaseTrainer.compute_gradients`."""
    if training_step is None:
        training_step = trainer.training_step
    parameters = None  # all; always with FSDP, which needs the whole backward pass
    if optimizer is not None and not trainer.sharded:
        parameters = [p for p in parameters_of([optimizer]) if p.requires_grad]
    # DDP can only exchange the gradients of all parameters; some are averaged below.
    averages_below = parameters is not None and world_size() > 1
    outside = _outside_model(trainer)
    outputs = []
    last_index = len(step.batches) - 1
    for index, batch in enumerate(step.batches):
        trainer.trained_indices = step.indices[index] if step.indices else None
        ignored = outside if step.sample_counts[index] == 0 else []
        is_exchanged = index == last_index and not averages_below
        with trainer.accumulating(is_exchanged), _keeping_gradients(ignored):
            with trainer.autocast():
                batch_outputs = training_step(trainer.parallel_model, batch)
            check_outputs(batch_outputs, training_step)
            loss = batch_outputs["loss"]
            if step.loss_weights[index] != 1:  # usually 1: saves two operations
                loss = loss * step.loss_weights[index]
            trainer.scaler.scale(loss).backward(inputs=parameters)
        outputs.append(batch_outputs)
    trainer.trained_indices = None
    if parameters is None:
        if isinstance(trainer.parallel_model, DataParallel):
            trainer.parallel_model.check_gradients()
        parameters = outside
    if parameters:
        average_gradients(parameters)
    return mean_over_batches(outputs, step.sample_counts)


def clip_gradients(trainer: Any, optimizer: torch.optim.Optimizer | None) -> None:
    """See `BaseTrainer.clip_gradients`."""
    clip_norm = trainer.options.clip_norm
    if clip_norm is None and not trainer.is_log_step(trainer.progress.step + 1):
        return  # the norm is needed neither for clipping nor for the log
    selected = _selected(trainer, optimizer)
    for each in selected:
        trainer.scaler.unscale_(each)
    parameters = parameters_of(selected)
    gradients = [p.grad for p in parameters if p.grad is not None]
    trainer.gradient_norm = nn.utils.get_total_norm(gradients)
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, trainer.gradient_norm)


def _optimize_with_closure(
    trainer: Any,
    step: Step,
    stepping: Any,
    optimizer: torch.optim.Optimizer | None,
    training_step: TrainingStep | None,
) -> dict[str, Tensor]:
    """A step of an optimizer that computes the loss several times, such as LBFGS.

    Args:
        trainer: a `BaseTrainer`.
        step: the batches.
        stepping: the optimizer.
        optimizer: the same if it was selected; None for all optimizers of the trainer.
        training_step: see `BaseTrainer.compute_gradients`.
    """
    is_one_of_several = optimizer is None and len(trainer.optimizers) > 1
    if is_one_of_several or trainer.scaler.is_enabled():
        raise UserError(
            f"{type(stepping).__name__} computes the loss several "
            "times in a step; use it as the only optimizer, with "
            "trainer.precision=bf16 or fp32, or override the trainer's `update`"
        )
    all_outputs: list[dict[str, Tensor]] = []

    def closure() -> Tensor:
        _discard_gradients(trainer)
        outputs = trainer.compute_gradients(step, optimizer, training_step)
        trainer.clip_gradients(optimizer)
        make_gradients_contiguous(stepping)
        all_outputs.append(outputs)
        # The optimizer decides by the loss, which must be the same in all processes.
        return mean_over_processes(outputs["loss"], sum(step.sample_counts))

    stepping.step(closure)
    _discard_gradients(trainer)
    return all_outputs[0]  # computed with the weights from before the step


def _selected(
    trainer: Any, optimizer: torch.optim.Optimizer | None
) -> Sequence[torch.optim.Optimizer]:
    """One optimizer, or all of the trainer."""
    if optimizer is None:
        optimizers: Sequence[torch.optim.Optimizer] = trainer.optimizers
        return optimizers
    return [optimizer]


def _outside_model(trainer: Any) -> list[nn.Parameter]:
    """The trained parameters whose gradients are not exchanged by the parallel model.

    They belong to the trainer itself or to another module. A single process exchanges nothing.
    """
    if world_size() == 1:
        return []
    in_model = {id(parameter) for parameter in trainer.parallel_model.parameters()}
    outside = []
    for parameter in parameters_of(trainer.optimizers):
        if parameter.requires_grad and id(parameter) not in in_model:
            outside.append(parameter)
    return outside


@contextmanager
def _keeping_gradients(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Leaves the gradients of some parameters as they were before the block.

    The mean loss of an empty batch is NaN. The gradients of a network are zeros nevertheless, as
    they are sums over samples, but not that of a factor of the loss.
    """
    gradients = [None if p.grad is None else p.grad.clone() for p in parameters]
    yield
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient


def _discard_gradients(trainer: Any) -> None:
    for optimizer in trainer.optimizers:
        optimizer.zero_grad()
