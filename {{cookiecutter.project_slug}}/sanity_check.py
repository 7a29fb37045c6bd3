"""The sanity check: one batch through the steps of a trainer, before training starts."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset
from base.base_trainer import BaseTrainer
from base.batch_loader import BatchLoader, Step
from config.schema import NO_CLASS
from logger.console import log
from metrics.average import WeightedMeans
from metrics.protocol import check_scalars, scalar_results
from storage.example_inputs import resolve_inputs
from storage.state import preserve_state
from utils.device import to_device
from utils.errors import UserError, describe_error
from utils.nested import digest
from utils.process_group import all_gather_object
from utils.randomness import GlobalRandomState, preserve_global_rng
from utils.ranks import world_size

MAX_EVALUATED_SAMPLES = 64
MAX_LISTED_PARAMETERS = 3


def check_trainer(trainer: BaseTrainer) -> None:
    """Runs an evaluation, a prediction and an optimizer step on a copy of a new trainer.

    It leaves nothing behind: neither in the trainer, nor in the training set, nor in the random
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
        trial = _copy_of(trainer)
        is_copied = trial.model is not trainer.model
        if is_copied:
            trial.model.register_forward_hook(_check_outputs_exist)
        for split, loader in trainer.loaders.items():
            if split != "train":
                _check_evaluation(trial, split, loader)
        if is_copied:
            _check_training(trial, step.to(trainer.device))
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


def _copy_of(trainer: BaseTrainer) -> BaseTrainer:
    """A copy with a model, optimizers and metrics of its own, but with the same data."""
    trial = copy.copy(trainer)
    shared: list[Any] = [trainer.settings, trainer.run_log, trainer.checkpointer, trainer.guard]
    for loader in trainer.loaders.values():
        shared += [loader, loader.dataset]
    copies = {id(item): item for item in shared}
    copies[id(trainer)] = trial
    for name, value in vars(trainer).items():
        try:
            vars(trial)[name] = copy.deepcopy(value, copies)
        except Exception as error:  # whatever the code of a class may raise
            log.warning(
                "the check before training cannot copy %s.%s, and uses it as it is: %s",
                type(trainer).__name__,
                name,
                describe_error(error),
            )
    return trial


# The parts of a trainer.


def _check_evaluation(trial: BaseTrainer, split: str, loader: BatchLoader) -> None:
    """Evaluates a few samples, and predicts them if predict.py can read inputs."""
    count = min(MAX_EVALUATED_SAMPLES, loader.source.batch_size)
    batch = to_device(loader.sample_batch(count), trial.device)
    with _describing_errors(trial, f"evaluation_step fails on samples of the {split} set"):
        results = _evaluate(trial, batch)
        if split == "validation":
            _check_monitor(trial, results)
        tables = trial.tables(results)
        if not isinstance(tables, Mapping):
            raise TypeError(f"`tables` must return a dict, not {type(tables).__name__}")
    if type(loader.dataset).read_inputs is not BaseDataset.read_inputs:
        with _describing_errors(trial, "predict_step or describe fails"):
            trial.describe(trial.predict(batch))


def _evaluate(trial: BaseTrainer, batch: Any) -> dict[str, Tensor]:
    metrics = trial.metrics
    metrics.reset()
    means = WeightedMeans()
    with trial.evaluating() as model:
        state_before = digest(metrics)
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
    parameters_with_gradient: set[str] = set()
    for name, parameter in trial.model.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(
                lambda _, name=name: parameters_with_gradient.add(name)
            )
    with _describing_errors(trial, "training_step or update fails on the first batch"):
        _ = trial.schedulers
        trial.set_learning_rates(0)
        trial.model.train()
        outputs: Any = trial.update(step)
        if not isinstance(outputs, Mapping):
            raise TypeError(f"`update` must return a dict, not {type(outputs).__name__}")
    loss = trial.settings.loss.name
    if loss not in (NO_CLASS, trial.default_loss) and "loss" not in vars(trial):
        raise UserError(
            f"loss.name = {loss!r} has no effect, because {type(trial).__name__} does not use "
            "self.loss; leave it out, or call self.loss(outputs, target) in training_step"
        )
    if world_size() > 1 and not trial.sharded:
        _check_gradients(trial, parameters_with_gradient)


def _check_example_inputs(trial: BaseTrainer) -> None:
    """Checks that the inputs for an export fit the exported model."""
    with _describing_errors(trial, "example_inputs or exported_model fails"):
        saved = trial.saved_example_inputs
        if saved is not None:
            source = f"{type(trial).__name__}.example_inputs"
            resolve_inputs(saved, trial.exported_model(trial.model), source)


def _check_gradients(trial: BaseTrainer, parameters_with_gradient: set[str]) -> None:
    missing = []
    for name, parameter in trial.model.named_parameters():
        if parameter.requires_grad and name not in parameters_with_gradient:
            missing.append(name)
    names: dict[str, None] = {}  # each once, in their order
    for names_of_process in all_gather_object(missing):
        names.update(dict.fromkeys(names_of_process))
    if not names or trial.options.find_unused_parameters:
        return
    listing = ", ".join(list(names)[:MAX_LISTED_PARAMETERS])
    raise UserError(
        f"{len(names)} parameters get no gradient in a training step ({listing}), but with several "
        "processes all must; use them, freeze them (model.freeze), or set "
        "trainer.find_unused_parameters=true"
    )


def _check_monitor(trial: BaseTrainer, results: Mapping[str, Tensor]) -> None:
    monitor = trial.settings.checkpoint.monitor
    metrics = list(scalar_results(results))
    names = list(metrics)
    for validation_set in trial.settings.data.validation_sets:
        names += [f"{validation_set}/{metric}" for metric in metrics]
    if not names:
        raise UserError(
            f"checkpoint.monitor = {monitor!r}: no result of an evaluation is a single number, but "
            f"{', '.join(results)} have several; add a scalar, such as a mean"
        )
    if monitor not in names:
        raise UserError(f"checkpoint.monitor = {monitor!r}: use one of {', '.join(names)}")
    direction: Any = trial.higher_is_better(trial.monitored_metric)
    if not isinstance(direction, bool):
        raise UserError(
            f"{type(trial).__name__}.higher_is_better({trial.monitored_metric!r}) returned "
            f"{direction!r}; return True or False, or set checkpoint.mode"
        )


# Contexts


@contextmanager
def _describing_errors(trial: BaseTrainer, what_fails: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever the code of a project may raise
        advice = ""
        is_training = what_fails.startswith("training_step")
        needs_gradients = "does not require grad" in str(error) and not is_training
        if needs_gradients and not trial.evaluates_with_gradients:
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
