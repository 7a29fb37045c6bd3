"""The sanity check: one batch through the steps of a trainer, before training starts."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset
from base.base_trainer import BaseTrainer
from base.batch_loader import BatchLoader, Step, StepSource
from base.invalid_labels import describe_invalid_label, first_invalid_label, naming_invalid_labels
from config.schema import NO_CLASS
from logger.console import log
from metrics.average import WeightedMeans
from metrics.protocol import check_scalars, scalar_results
from storage.example_inputs import resolve_inputs
from storage.state import preserve_state
from utils.device import to_device
from utils.errors import UserError, describe_error, is_lost_connection
from utils.finite import check_finite
from utils.nested import digest
from utils.parallel import describe_differing_gradients, describe_unused_parameters
from utils.process_group import all_gather_object
from utils.randomness import GlobalRandomState, preserve_global_rng
from utils.ranks import world_size

MAX_EVALUATED_SAMPLES = 64
MIN_LAST_BATCH = 1 / 16  # of data.batch_size; a warning reports smaller last batches


def check_trainer(trainer: BaseTrainer) -> None:
    """Runs an evaluation, a prediction and optimizer steps on a copy of a new trainer.

    The training batches are the first and the last of an epoch, which may be smaller. The check
    leaves nothing behind: neither in the trainer, nor in the training set, nor in the random
    generators. If the model cannot be copied, no optimizer step is made.

    Raises:
        UserError: if a method fails or returns something else than it must, `checkpoint.monitor` is
            not a scalar metric, or a parameter has no gradient although DDP waits for it.
    """
    dataset = trainer.loaders["train"].dataset
    with (
        preserve_global_rng(trainer.device),
        preserve_state(dataset, trainer.excluded_from_data_state),
        _without_compilation(trainer),
    ):
        step = _load_first_step(trainer.loaders["train"])
        last_step = _load_smaller_step(trainer)
        trial = copy_trainer(trainer)
        for split, loader in trainer.loaders.items():
            _check_labels(trial, split, loader)
        is_copied = trial.model is not trainer.model
        if is_copied:
            trial.model.register_forward_hook(_check_outputs_exist)
        for split, loader in trainer.loaders.items():
            if split != "train":
                _check_evaluation(trial, split, loader)
        if is_copied:
            _check_training(trial, step.to(trainer.device))
            if last_step is not None:
                _check_smaller_step(trial, last_step.to(trainer.device))
            _check_example_inputs(trial)


def _load_first_step(loader: BatchLoader) -> Step:
    """The first training step; checks what the data set states about random numbers."""
    generators = GlobalRandomState(torch.device("cpu"))
    state_before = generators.state_dict()
    first_step = next(loader.steps(0, 1))
    if not loader.dataset.uses_global_rng and _differ(state_before, generators.state_dict()):
        raise UserError(
            f"{type(loader.dataset).__name__} draws from a global random generator; set "
            "uses_global_rng = True in the class, or draw from the rng of `transform`"
        )
    return first_step


def _load_smaller_step(trainer: BaseTrainer) -> Step | None:
    """The last training step of an epoch; None if the first one is as small, or it is not made."""
    loader = trainer.loaders["train"]
    last = loader.steps_per_epoch - 1
    is_smaller = loader.source.last_batch_size < loader.source.batch_size
    if last == 0 or not is_smaller or last >= trainer.total_steps:
        return None
    return next(loader.steps(last, last + 1))


def copy_trainer(trainer: BaseTrainer) -> BaseTrainer:
    """A copy with a model, optimizers and metrics of its own, but with the same data."""
    trial = copy.copy(trainer)
    shared: list[Any] = [trainer.settings, trainer.run_log, trainer.checkpointer, trainer.guard]
    for loader in trainer.loaders.values():
        shared += [loader, loader.dataset]
    memo = {id(item): item for item in shared}
    memo[id(trainer)] = trial
    for name, value in vars(trainer).items():
        try:
            copied = copy.deepcopy(value, memo)
            _check_leaves(copied)
            vars(trial)[name] = copied
        except Exception as error:  # whatever the code of a class may raise
            log.warning(
                "a check cannot copy %s.%s, and uses it as it is: %s",
                type(trainer).__name__,
                name,
                describe_error(error),
            )
    return trial


def _check_leaves(copied: Any) -> None:
    """Raises a TypeError if the parameters of a copied module get no gradients of their own."""
    if not isinstance(copied, nn.Module):
        return
    for name, parameter in copied.named_parameters():
        if not parameter.is_leaf:  # as torch copies modules of TorchScript
            raise TypeError(f"the copy of {name} is not a leaf tensor")


# The parts of a trainer.


def _check_evaluation(trial: BaseTrainer, split: str, loader: BatchLoader) -> None:
    """Evaluates a few samples, and predicts them if predict.py can read inputs."""
    count = min(MAX_EVALUATED_SAMPLES, loader.source.batch_size)
    batch = to_device(loader.sample_batch(count), trial.device)
    batches = [batch]
    smallest_count = max(1, loader.last_step_size // world_size())
    if smallest_count < count:
        batches.append(to_device(loader.sample_batch(smallest_count), trial.device))
    with _describing_errors(trial, f"evaluation_step fails on samples of the {split} set"):
        results = evaluate_batches(trial, batches)
        if split == "validation":
            _check_monitor(trial, results)
        tables = trial.tables(results)
        if not isinstance(tables, Mapping):
            raise TypeError(f"`tables` must return a dict, not {type(tables).__name__}")
    if type(loader.dataset).read_inputs is not BaseDataset.read_inputs:
        with _describing_errors(trial, "predict_step or describe fails"):
            trial.describe(trial.predict(batch))


def _check_labels(trial: BaseTrainer, split: str, loader: BatchLoader) -> None:
    """Evaluates samples whose label is not a class, because a trainer may allow it.

    Losses of torch ignore one label in training; metrics may not.

    Raises:
        UserError: if that fails.
    """
    dataset = loader.dataset
    targets = getattr(dataset, "targets", None)
    if not isinstance(targets, Tensor):
        return
    checked = [first_invalid_label(targets, len(dataset.classes))]
    if split != "train":
        checked.append(first_invalid_label(targets, len(dataset.classes), ignored=None))
    for index in checked:
        if index is not None:
            message = describe_invalid_label(dataset, split, index, int(targets[index]))
            _evaluate_sample(trial, dataset, index, message)


def _evaluate_sample(trial: BaseTrainer, dataset: BaseDataset, index: int, message: str) -> None:
    """Evaluates one sample; if that fails, raises a UserError with the message."""
    samples = dataset.__getitems__(torch.tensor([index], device=dataset.device))
    batch = to_device(dataset.transform(samples, None), trial.device)
    try:
        with trial.evaluating() as model:
            trial.evaluation_step(model, batch)
            digest(trial.metrics)  # waits for the device
    except Exception as error:  # whatever the code of a project may raise
        raise UserError(message) from error
    trial.metrics.reset()


def evaluate_batches(trial: BaseTrainer, batches: Sequence[Any]) -> dict[str, Tensor]:
    """The metrics of some batches, on the device; each batch counts equally."""
    metrics = trial.metrics
    metrics.reset()
    means = WeightedMeans()
    with trial.evaluating() as model:
        state_before = digest(metrics)
        for batch in batches:
            values = trial.evaluation_step(model, batch)
            if not values and digest(metrics) == state_before:
                raise UserError(
                    f"{type(trial).__name__}.evaluation_step returns nothing and does not update "
                    "self.metrics; return scalars by name, or call self.metrics.update(...)"
                )
            if values is not None:
                check_scalars(values, trial.evaluation_step)
                means.add(values, weight=1)
        results = trial.collect_results(means)
        metrics.reset()
    return results


def _check_training(trial: BaseTrainer, step: Step) -> None:
    """Makes an optimizer step, as in training."""
    source = trial.loaders["train"].source
    what_fails = "training_step or update fails on the first batch"
    advice = ""
    if source.steps_per_epoch == 1 and source.last_batch_size < source.batch_size:
        what_fails, advice = _describe_smaller_batch(source)
    parameters_with_gradient: set[str] = set()
    for name, parameter in trial.model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda _, name=name: parameters_with_gradient.add(name)
            )
    sampler_before = ""
    if hasattr(trial.sampler, "record_losses"):
        sampler_before = digest(trial.sampler.state_dict())
    with _describing_errors(trial, what_fails, advice, in_training=True):
        _ = trial.schedulers
        trial.set_learning_rates(0)
        with naming_invalid_labels(trial.loaders["train"], "train", 0):
            outputs: Any = trial.update(step)
        if not isinstance(outputs, Mapping):
            raise TypeError(f"`update` must return a dict, not {type(outputs).__name__}")
    _check_loss_is_used(trial)
    if sampler_before and digest(trial.sampler.state_dict()) == sampler_before:
        raise UserError(
            f"data.sampler = {trial.settings.data.sampler.name!r} needs the losses of the samples, "
            f"which {type(trial).__name__} does not record; call self.record_losses(outputs, "
            "target) in training_step"
        )
    if world_size() > 1:
        _check_gradients(trial, parameters_with_gradient)


def _check_loss_is_used(trial: BaseTrainer) -> None:
    loss = trial.settings.loss.name
    was_built = "loss" in vars(trial)
    if loss not in (NO_CLASS, trial.default_loss) and not was_built:
        raise UserError(
            f"loss.name = {loss!r} has no effect, because {type(trial).__name__} does not use "
            "self.loss; leave it out, or call self.loss(outputs, target) in training_step"
        )


def _check_smaller_step(trial: BaseTrainer, step: Step) -> None:
    """Makes the last optimizer step of an epoch, whose last batch is smaller than the others.

    Batch normalisation, for example, needs more than one value per channel. It may be frozen at
    first, so the step is that of the last epoch.
    """
    source = trial.loaders["train"].source
    epochs = trial.total_steps // trial.steps_per_epoch
    trial.progress.step = epochs * trial.steps_per_epoch - 1
    if source.last_batch_size < MIN_LAST_BATCH * source.batch_size:
        log.warning(
            "the last batch of an epoch has %d of %d samples, but changes the weights as much as "
            "the others; data.drop_last=true leaves it out",
            source.last_batch_size,
            source.batch_size,
        )
    what_fails, advice = _describe_smaller_batch(source)
    with _describing_errors(trial, what_fails, advice, in_training=True):
        outputs = trial.update(step)
        has_single_samples = source.last_batch_size <= world_size()
        if has_single_samples and trial.options.non_finite == "stop":
            # The standard deviation of one sample, for example, is NaN.
            values: dict[str, Tensor] = {}
            if sum(step.sample_counts) > 0:  # otherwise a mean over no samples is NaN
                values.update(outputs)
            for name, buffer in trial.model.named_buffers():
                if name.endswith("running_var"):
                    values[name] = buffer
            check_finite(values, "the last batch:")


def _describe_smaller_batch(source: StepSource) -> tuple[str, str]:
    """What fails on the last batch of an epoch, and what to do."""
    what_fails = (
        "training_step or update fails on the last batch of an epoch, which has "
        f"{source.last_batch_size} of {source.samples_per_epoch} samples "
        f"(data.batch_size = {source.batch_size}"
    )
    if world_size() > 1:
        what_fails += f", {world_size()} processes"
    advice = "; use data.drop_last=true, or another data.batch_size"
    if source.samples_per_epoch < source.batch_size:
        advice = "; use a smaller data.batch_size"
    return f"{what_fails})", advice


def _check_example_inputs(trial: BaseTrainer) -> None:
    """Checks that the inputs for an export fit the exported model."""
    with _describing_errors(trial, "example_inputs or exported_model fails"):
        saved = trial.saved_example_inputs
        if saved is not None:
            source = f"{type(trial).__name__}.example_inputs"
            resolve_inputs(saved, trial.exported_model(trial.model), source)


def _check_gradients(trial: BaseTrainer, parameters_with_gradient: set[str]) -> None:
    """Checks that all processes exchange the gradients of the same parameters.

    DDP waits for the gradients of all parameters. FSDP exchanges those that exist, and would add
    the gradients of different parameters.
    """
    missing = []
    for name, parameter in trial.model.named_parameters():
        if parameter.requires_grad and name not in parameters_with_gradient:
            missing.append(name)
    missing_by_process = all_gather_object(missing)
    names: dict[str, None] = {}  # each once, in their order
    for missing in missing_by_process:
        names.update(dict.fromkeys(missing))
    if trial.sharded:
        differing = []
        for name in names:
            if not all(name in missing for missing in missing_by_process):
                differing.append(name)
        if differing:
            raise UserError(describe_differing_gradients(differing))
    elif names and not trial.options.find_unused_parameters:
        raise UserError(describe_unused_parameters(list(names)))


def _check_monitor(trial: BaseTrainer, results: Mapping[str, Tensor]) -> None:
    monitor = trial.settings.checkpoint.monitor
    metrics = list(scalar_results(results))
    names = list(metrics)
    for validation_set in trial.settings.data.validation_sets:
        names += [f"{validation_set}/{metric}" for metric in metrics]
    if not names:
        raise UserError(
            f"checkpoint.monitor = {monitor!r}: no result of an evaluation is a single "
            f"number, but {', '.join(results)} have several; add a scalar, such as a mean"
        )
    if monitor not in names:
        raise UserError(f"checkpoint.monitor = {monitor!r}: use one of {', '.join(names)}")
    direction: Any = trial.higher_is_better(trial.monitored_metric)
    if not isinstance(direction, bool):
        raise UserError(
            f"{type(trial).__name__}.higher_is_better({trial.monitored_metric!r}) "
            f"returned {direction!r}; return True or False, or set checkpoint.mode"
        )


# Contexts


@contextmanager
def _describing_errors(
    trial: BaseTrainer, what_fails: str, advice: str = "", in_training: bool = False
) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the code of a project may raise
        if is_lost_connection(error):
            raise
        needs_gradients = "does not require grad" in str(error)
        if needs_gradients and in_training:
            advice = "; no trained parameter is connected with the loss: look for detach, no_grad, "
            advice += "argmax and item, or a model.freeze of all parameters"
        elif needs_gradients and not trial.evaluates_with_gradients:
            advice = "; to use autograd in evaluation, set evaluates_with_gradients = True"
        raise UserError(
            f"the model and the data do not fit together: {type(trial).__name__}.{what_fails}: "
            f"{describe_error(error)}{advice}"
        ) from error


def _without_compilation(trainer: BaseTrainer) -> Any:
    """Compiled code would be specialised on these batches, which are smaller than others."""
    if trainer.options.compile:
        return torch.compiler.set_stance("force_eager")
    return nullcontext()


def _check_outputs_exist(model: nn.Module, _: Any, outputs: Any) -> None:
    if outputs is None:
        raise UserError(f"{type(model).__name__}.forward returns None; add a return statement")


def _differ(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    if first["python"] != second["python"] or first["numpy"] != second["numpy"]:
        return True
    return not torch.equal(first["cpu"], second["cpu"])
