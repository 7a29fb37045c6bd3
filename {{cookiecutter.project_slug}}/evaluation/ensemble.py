"""The evaluation of an ensemble: several trained models whose outputs are averaged."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset, list_names
from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from base.evaluation import begin_evaluation, end_evaluation, evaluate_step
from builders import restore_trainer
from logger.console import progress_bar
from metrics.average import WeightedMeans
from storage.checkpoint_file import read_digest
from storage.run_folder import find_checkpoints
from utils.device import to_device
from utils.errors import UserError, naming_source
from utils.process_group import failing_together

TARGET_PRECISION = 1e-5  # relative to the largest target


class MeanOutputs(nn.Module):
    """Stands for the model of an ensemble in `evaluation_step`.

    Attributes:
        outputs: the combined outputs for the batch that is evaluated; None at other times.
    """

    def __init__(self) -> None:
        super().__init__()
        self.outputs: Any = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs for the batch that is evaluated, whatever the arguments.

        Raises:
            UserError: outside the evaluation of a batch.
        """
        if self.outputs is None:
            raise UserError(
                "an ensemble has outputs for the evaluated batches only; use the results or the "
                "recorded samples, and not the model, in `figures` and `tables`"
            )
        return self.outputs


def restore_members(
    runs: Sequence[Path], split: str, overrides: Sequence[str]
) -> tuple[list[BaseTrainer], list[Path]]:
    """The trainers of the models of an ensemble, and their checkpoints.

    Args:
        runs: run folders or checkpoint files.
        split: the split to evaluate.
        overrides: settings as KEY=VALUE that replace those of the runs.

    Raises:
        UserError: if a model is given twice.
    """
    trainers: list[BaseTrainer] = []
    checkpoints: dict[bytes, Path] = {}
    for run in runs:
        settings = list(overrides)
        if trainers:  # the members get the same samples at each step
            settings.append(f"data.batch_size={trainers[0].settings.data.batch_size}")
        trainer, checkpoint = restore_trainer(find_checkpoints(run), split, settings)
        digest = read_digest(checkpoint)
        if digest in checkpoints:
            raise UserError(
                f"{checkpoints[digest]} and {checkpoint} are the same model; an ensemble needs "
                "different ones, so leave one out"
            )
        trainers.append(trainer)
        checkpoints[digest] = checkpoint
    return trainers, list(checkpoints.values())


def build_ensemble(members: Sequence[BaseTrainer], split: str) -> BaseTrainer:
    """A trainer for the results of an ensemble, whose model is a `MeanOutputs`.

    Args:
        members: trainers with trained models, each with a loader of the split.
        split: the split to evaluate.

    Raises:
        UserError: if the members do not fit together.
    """
    first = members[0]
    for member in members[1:]:
        difference = _find_difference(first, member, split)
        if difference:
            raise UserError(f"{first.run} and {member.run} cannot form an ensemble: {difference}")
    ensemble = copy.copy(first)
    ensemble.model = MeanOutputs()  # type: ignore[assignment]  # only evaluation_step calls it
    ensemble.sample_values = {}
    return ensemble


def evaluate_ensemble(
    ensemble: BaseTrainer, members: Sequence[BaseTrainer], split: str
) -> dict[str, Tensor]:
    """The metrics of an ensemble for all samples of a split, on the CPU.

    Each member predicts batches that its own data set has prepared: vocabularies and statistics
    come from its training samples, which may be others.

    Args:
        ensemble: the result of `build_ensemble`.
        members: the trainers of its models.
        split: the split to evaluate.
    """
    count = members[0].loaders[split].steps_per_epoch
    steps_of_members = []
    for member in members:
        steps_of_members.append(member.loaders[split].steps(0, count))
    means = WeightedMeans()
    begin_evaluation(ensemble, split)
    with torch.no_grad(), failing_together(), progress_bar(count, "ensemble") as bar:
        # The same samples at a time, from the data set of each member.
        for number, steps in enumerate(zip(*steps_of_members, strict=True)):
            if sum(steps[0].sample_counts) > 0:
                model: Any = ensemble.model
                model.outputs = _combine_outputs(ensemble, members, steps)
                evaluate_step(ensemble, model, split, number, steps[0], means)
                model.outputs = None
            bar.update()
    return end_evaluation(ensemble, means)


def _combine_outputs(
    ensemble: BaseTrainer, members: Sequence[BaseTrainer], steps: Sequence[Step]
) -> Any:
    """The outputs of an ensemble for a step, on the device."""
    outputs = []
    for member, step in zip(members, steps, strict=True):
        outputs.append(member.predict(step.batches[0]))
    with naming_source(f"{type(ensemble).__name__}.ensemble_outputs"):
        combined = ensemble.ensemble_outputs(outputs, members)
    return to_device(combined, ensemble.device)


def _find_difference(first: BaseTrainer, member: BaseTrainer, split: str) -> str:
    """What prevents two trained models from forming an ensemble; empty if nothing does."""
    if type(first).ensemble_outputs is not type(member).ensemble_outputs:
        return (
            f"{type(first).__name__} and {type(member).__name__} combine outputs in different ways"
        )
    if first.evaluates_with_gradients or member.evaluates_with_gradients:
        return "their evaluation uses gradients, which mean outputs do not have"
    return _find_difference_of_data(first.loaders[split].dataset, member.loaders[split].dataset)


def _find_difference_of_data(first: BaseDataset, other: BaseDataset) -> str:
    """How the samples of two data sets differ; empty if they are the same samples.

    What is fitted to training samples, such as a vocabulary, may differ.
    """
    if first.title != other.title:
        return f"the data are {first.title} and {other.title}"
    if list(first.classes) != list(other.classes):
        return f"the classes are {list_names(first.classes)} and {list_names(other.classes)}"
    if len(first) != len(other):
        return f"{first.title} has {len(first)} and {len(other)} samples"
    if first.source != other.source:
        return f"the content of the file of {first.title} differs"
    for index in range(len(first)):
        name = first.sample_name(index)
        other_name = other.sample_name(index)
        if name != other_name:
            return f"the samples of {first.title} differ, such as {name} and {other_name}"
    # The fingerprints of samples from one file may differ, because of fitted values in them.
    if not first.source and first.fingerprint != other.fingerprint:
        return (
            f"the samples of {first.title} differ; if they depend on the seed of each run, "
            "evaluate the test split"
        )
    return ""


def check_same_targets(members: Sequence[BaseTrainer], split: str) -> None:
    """Compares the recorded targets of the evaluated members, in the units of the data.

    Raises:
        UserError: that names the first sample with different targets.
    """
    first = members[0]
    expected = _targets_of(first, split)
    for member in members[1:]:
        targets = _targets_of(member, split)
        if expected.keys() != targets.keys():
            raise UserError(
                f"{first.run} and {member.run} cannot form an ensemble: they have the targets "
                f"{', '.join(expected)} and {', '.join(targets)}"
            )
        for name, values in expected.items():
            index = _first_difference(values, targets[name])
            if index is not None:
                sample = first.loaders[split].dataset.sample_name(index)
                raise UserError(
                    f"{first.run} and {member.run} cannot form an ensemble: the target of {sample} "
                    f"is {values[index]} and {targets[name][index]}"
                )


def _first_difference(values: Sequence[Any], others: Sequence[Any]) -> int | None:
    """The index of the first target that differs by more than the rounding of float32."""
    are_numbers = isinstance(values[0], float)
    tolerance = 0.0
    if are_numbers:
        tolerance = TARGET_PRECISION * max(map(abs, values))
    for index, (value, other) in enumerate(zip(values, others, strict=True)):
        differs = value != other
        if differs and are_numbers:
            differs = abs(value - other) > tolerance
        if differs:
            return index
    return None


def _targets_of(member: BaseTrainer, split: str) -> dict[str, list[Any]]:
    """The columns ``true`` or ``true_0``, ``true_1``, ... of the recorded samples."""
    samples = member.samples(split)
    if not samples:
        return {}
    columns = member.sample_columns(samples)
    targets = {}
    for name, values in columns.items():
        if name.partition("_")[0] == "true":
            targets[name] = list(values)
    return targets
