"""The sanity check: one batch through all steps of a trainer, before training starts."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from metrics.average import WeightedMeans
from metrics.protocol import scalar_results
from utils.errors import USER_CODE_ERRORS, UserError, describe_error
from utils.randomness import GlobalRandomState, preserve_global_rng


def check_trainer(trainer: BaseTrainer) -> None:
    """Runs an evaluation step and a training step without an update, and leaves nothing behind.

    Raises:
        UserError: if a step fails, `checkpoint.monitor` is not a scalar metric, or
            `configure_optimizers` returns anything but optimizers.
    """
    _ = trainer.optimizers
    try:
        with preserve_global_rng(trainer.device):
            batch = _first_batch(trainer)
            results = _run_steps(trainer, batch)
            _check_monitor(trainer, results)
            trainer.tables(results)
    except (*USER_CODE_ERRORS, AssertionError) as error:
        raise UserError(
            f"the model and the data do not fit together: {describe_error(error)}"
        ) from error


def _first_batch(trainer: BaseTrainer) -> Batch:
    """The first training batch; checks what the data set states about random numbers."""
    dataset = trainer.loaders["train"].dataset
    generators = GlobalRandomState(torch.device("cpu"))
    state_before = generators.state_dict()
    first_step = next(trainer.loaders["train"].steps(0, 1))
    if not dataset.uses_global_rng and _differ(state_before, generators.state_dict()):
        raise UserError(
            f"{type(dataset).__name__} draws from a global random generator; set "
            "uses_global_rng = True in the class, or draw from the rng of `transform`"
        )
    return first_step.to(trainer.device).batches[0]


def _run_steps(trainer: BaseTrainer, batch: Batch) -> Mapping[str, Tensor]:
    # Compiled code would be specialised on this batch, which is smaller than those of validation.
    eager = nullcontext()
    if trainer.options.compile:
        eager = torch.compiler.set_stance("force_eager")
    with eager:
        with trainer.evaluating() as model:
            trainer.metrics.reset()
            means = WeightedMeans()
            means.add(trainer.evaluation_step(model, batch) or {}, weight=1)
            results = trainer.collect_results(means)
            trainer.metrics.reset()
        _check_training_step(trainer, batch)
    return results


def _check_training_step(trainer: BaseTrainer, batch: Batch) -> None:
    """Calls `training_step` with gradients, as in training, but in evaluation mode.

    In training mode, batch normalisation would update its statistics. There is no backward pass,
    so DDP must not wait for one.
    """
    trainer.model.eval()
    with trainer.autocast(), trainer.accumulating(is_last=False):
        outputs: Any = trainer.training_step(trainer.parallel_model, batch)
    trainer.model.train()
    _check_outputs(trainer, outputs)


def _check_outputs(trainer: BaseTrainer, outputs: Any) -> None:
    name = f"{type(trainer).__name__}.training_step"
    if not isinstance(outputs, dict):
        raise UserError(f"{name} must return a dict, not {type(outputs).__name__}")
    loss = outputs.get("loss")
    if not isinstance(loss, Tensor) or loss.ndim > 0:
        raise UserError(f"{name} must return a dict with a scalar tensor for the key `loss`")


def _check_monitor(trainer: BaseTrainer, results: Mapping[str, Tensor]) -> None:
    monitor = trainer.settings.checkpoint.monitor
    metrics = list(scalar_results(results))
    names = list(metrics)
    for validation_set in trainer.settings.data.validation_sets:
        names += [f"{validation_set}/{metric}" for metric in metrics]
    if monitor not in names:
        raise UserError(f"checkpoint.monitor = {monitor!r}: use one of {', '.join(names)}")
    trainer.higher_is_better(trainer.monitored_metric)


def _differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    if first["python"] != second["python"] or first["numpy"] != second["numpy"]:
        return True
    return not torch.equal(first["cpu"], second["cpu"])
