"""The evaluation of a model: metrics of a split, predictions for a batch."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from base.batch_loader import Step
from base.invalid_labels import naming_invalid_labels
from logger.console import progress_bar
from metrics.average import WeightedMeans
from metrics.protocol import check_scalars, named_results
from metrics.sample_values import SampleValues, check_sample_values
from optim.optimizers import evaluation_mode
from utils.device import to_device
from utils.errors import UserError
from utils.nested import map_tensors
from utils.process_group import failing_together
from utils.randomness import preserve_global_rng
from utils.ranks import world_size


def evaluate(trainer: Any, split: str) -> dict[str, Tensor]:
    """The metrics of all samples of a split, on the CPU; see `BaseTrainer.evaluate`."""
    loader = trainer.loaders[split]
    if trainer.sharded and loader.sample_count < world_size():
        raise UserError(
            f"{loader.dataset.title}, {split}: {loader.sample_count} "
            f"samples are too few for {world_size()} processes with "
            "trainer.strategy=fsdp; use ddp or fewer processes"
        )
    errors: AbstractContextManager[Any] = failing_together()
    if trainer.sharded:  # the processes exchange parameters in each forward pass
        errors = nullcontext()
    means = WeightedMeans()
    begin_evaluation(trainer, split)
    try:
        with trainer.evaluating() as model:
            with errors:
                _evaluate_batches(trainer, model, split, means)
            results = end_evaluation(trainer, means)
    finally:
        trainer.evaluated_indices = None
    # Copies outside inference mode, so that `after_evaluation` can keep them for a training loss.
    return {name: value.clone() for name, value in results.items()}


def begin_evaluation(trainer: Any, split: str) -> None:
    """Discards the results of the last evaluation of a split."""
    trainer.metrics.reset()
    trainer.evaluated_split = split
    trainer.sample_values[split] = SampleValues()


def end_evaluation(trainer: Any, means: WeightedMeans) -> dict[str, Tensor]:
    """The results for all batches that have been evaluated, on the CPU."""
    trainer.evaluated_indices = None
    results = trainer.collect_results(means)
    return {name: value.detach().cpu() for name, value in results.items()}


def _evaluate_batches(trainer: Any, model: nn.Module, split: str, means: WeightedMeans) -> None:
    """Updates the metrics and the means with all batches of a split."""
    loader = trainer.loaders[split]
    with progress_bar(loader.steps_per_epoch, split) as bar:
        for number, step in enumerate(loader.steps(0, loader.steps_per_epoch)):
            if sum(step.sample_counts) > 0:
                evaluate_step(trainer, model, split, number, step, means)
            bar.update()


def evaluate_step(
    trainer: Any, model: nn.Module, split: str, number: int, step: Step, means: WeightedMeans
) -> None:
    """Updates the metrics and the means with the samples of a step.

    Args:
        trainer: a `BaseTrainer`.
        model: the module to call.
        split: the split that the step belongs to.
        number: the number of the step.
        step: a step of one batch with at least one sample.
        means: of the scalars that `evaluation_step` returns.
    """
    loader = trainer.loaders[split]
    trainer.evaluated_indices = loader.source.local_indices(number).to(trainer.device)
    (batch,) = step.to(trainer.device).batches
    with naming_invalid_labels(loader, split, number):
        values = trainer.evaluation_step(model, batch)
    if values is not None:
        check_scalars(values, trainer.evaluation_step)
        means.add(values, sum(step.sample_counts))


def record_samples(trainer: Any, values: Mapping[str, Tensor]) -> None:
    """Keeps values of each sample of the batch; outside `evaluate`, it does nothing."""
    source = f"{type(trainer).__name__}.evaluation_step"
    check_sample_values(values, source)
    indices = trainer.evaluated_indices
    if indices is None:
        return
    for name, value in values.items():
        if len(value) != len(indices):
            raise UserError(
                f"{source}: record_samples got {name!r} for {len(value)} samples, but the batch "
                f"has {len(indices)}; pass one value for each sample"
            )
    trainer.sample_values[trainer.evaluated_split].update(indices, values)


def collect_results(trainer: Any, means: WeightedMeans) -> dict[str, Tensor]:
    """The results of the metrics and the means over all processes, which must differ in name."""
    results = named_results(trainer.metrics)
    kind = type(trainer).__name__
    for name, mean in means.compute_over_processes().items():
        if name in results:
            raise UserError(
                f"{kind}.evaluation_step returns {name!r}, which is a metric as well; give it "
                "another name, or remove the metric"
            )
        results[name] = torch.tensor(mean, dtype=torch.float64)
    if not results:
        raise UserError(f"{kind}.evaluation_step returns no values and updates no metrics")
    return results


def predict(trainer: Any, batch: Batch) -> Any:
    """The outputs for a batch on any device, on the CPU, in float32 at least."""
    with trainer.evaluating() as model:
        outputs = trainer.predict_step(model, to_device(batch, trainer.device))
        return map_tensors(_to_readable, outputs)


@contextmanager
def evaluating(trainer: Any) -> Iterator[nn.Module]:
    """The evaluated model in evaluation mode; modes and random generators are restored."""
    _ = trainer.parallel_model  # shards the model if necessary
    # Built here, because tensors made in inference mode cannot be updated.
    _ = trainer.metrics
    model = trainer.evaluated_model
    modes = {module: module.training for module in model.modules()}
    if trainer.evaluates_with_gradients:
        gradient_mode: AbstractContextManager[Any] = nullcontext()
    elif trainer.sharded:
        # FSDP2 uses the gathered parameters again in training, where inference tensors fail.
        gradient_mode = torch.no_grad()
    else:
        gradient_mode = torch.inference_mode()
    optimizers = vars(trainer).get("optimizers", [])  # those that have been built
    model.eval()
    try:
        with (
            evaluation_mode(optimizers),
            preserve_global_rng(trainer.device),
            gradient_mode,
            trainer.autocast(),
        ):
            yield model
    finally:
        for module, was_training in modes.items():
            module.training = was_training


def _to_readable(tensor: Tensor) -> Tensor:
    """A tensor on the CPU, in float32 if it has a smaller floating-point type."""
    if tensor.is_floating_point() and tensor.itemsize < 4:
        tensor = tensor.float()
    return tensor.detach().cpu()
