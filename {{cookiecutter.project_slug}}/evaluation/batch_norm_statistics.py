"""Recomputes the statistics of batch normalisation layers after their weights were averaged."""

from collections.abc import Collection, Sequence
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from base.base_trainer import BaseTrainer
from base.batch_loader import BatchLoader
from logger.console import progress_bar
from utils.device import to_device
from utils.nested import map_tensors


def recompute_statistics(
    trainer: BaseTrainer, loader: BatchLoader, differing: Collection[str]
) -> dict[str, Any]:
    """The weights of a model whose running statistics are those of an epoch of training batches.

    No training step has used the averaged weights, and their statistics are not the mean of those
    of other weights (Izmailov et al., arXiv:1803.05407, section 3.2). Other parts of the model,
    such as dropout, stay in evaluation mode. The batches of an epoch depend on the seed alone, so
    the result is always the same.

    Args:
        trainer: its model has the averaged weights.
        loader: training batches.
        differing: names of the tensors that differ between the averaged checkpoints. Layers whose
            statistics do not differ were frozen, and stay as they are.

    Returns:
        The state dict of the model, on the CPU.
    """
    with trainer.evaluating() as model:
        layers = []
        for name, module in model.named_modules():
            if isinstance(module, _NormBase) and f"{name}.running_mean" in differing:
                module.reset_running_stats()
                module.train()
                layers.append(module)
        if layers:
            _run_epoch(trainer, model, loader, layers)
        weights: dict[str, Any] = map_tensors(
            lambda tensor: tensor.detach().clone().cpu(), model.state_dict()
        )
        return weights


def _run_epoch(
    trainer: BaseTrainer, model: nn.Module, loader: BatchLoader, layers: Sequence[_NormBase]
) -> None:
    """Passes the batches of an epoch through the model, which updates the layers' statistics."""
    samples = 0
    with progress_bar(loader.steps_per_epoch, "batch norm") as bar:
        for step in loader.steps(0, loader.steps_per_epoch):
            for batch, count in zip(step.batches, step.sample_counts, strict=True):
                samples += count
                for layer in layers:
                    layer.momentum = count / samples  # the mean over all samples so far
                trainer.predict_step(model, to_device(batch, trainer.device))
            bar.update()
