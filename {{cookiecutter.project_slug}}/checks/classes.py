"""The classes of the training samples: how many of each, and whether they are sorted."""

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, class_labels
from base.base_trainer import BaseTrainer
from checks.outputs import labels_of
from checks.samples import Reading
from checks.verdict import Verdict, list_some

MAX_IMBALANCE = 20.0  # ratio of the largest to the smallest class
ORDER_STEPS = 3
MIN_BATCH_SIZE = 16  # to judge the order
REFERENCE_SAMPLES = 1024


def check_targets(verdict: Verdict, dataset: BaseDataset, reading: Reading) -> None:
    """Counts the classes of the training set; without classes, targets must vary."""
    if not dataset.classes:
        values = {target for target in reading.targets if target is not None}
        if len(values) == 1 and len(reading.targets) > 1:
            verdict.failures.append("all training samples have the same target")
        return
    counts = _count_classes(dataset, reading)
    if counts is None or counts.sum() == 0:
        return
    largest = int(counts.max())
    smallest = int(counts.min())
    verdict.figures["classes"] = len(dataset.classes)
    verdict.figures["samples per class"] = f"{smallest:,} to {largest:,}"
    missing = [str(dataset.classes[index]) for index in (counts == 0).nonzero().flatten().tolist()]
    if len(missing) == len(dataset.classes) - 1 and missing:
        only = dataset.classes[int(counts.argmax())]
        verdict.failures.append(f"all training samples have the class {only}")
    elif missing and reading.read == len(dataset):
        verdict.failures.append(
            f"no training sample has the class {list_some(missing)}; remove it from `classes`, or "
            "divide the splits by class"
        )
    elif smallest > 0 and largest > MAX_IMBALANCE * smallest:
        rare = dataset.classes[int(counts.argmin())]
        verdict.warnings.append(
            f"the class {rare} has {smallest} of {int(counts.sum())} samples; loss.balanced=true "
            "or data.sampler=balanced gives it more weight"
        )


def _count_classes(dataset: BaseDataset, reading: Reading) -> Tensor | None:
    """The samples of each class, int64, shape (C,); None if the targets are no classes."""
    targets = getattr(dataset, "targets", None)
    if not isinstance(targets, Tensor) or len(targets) != len(dataset):
        labels = [target for target in reading.targets if isinstance(target, int)]
        if len(labels) < len(reading.targets):
            return None
        targets = torch.tensor(labels, dtype=torch.int64)
    has_probabilities = targets.is_floating_point() and targets.ndim == 2
    has_classes = not targets.is_floating_point() and targets.ndim == 1
    if not has_probabilities and not has_classes:
        return None
    all_labels = class_labels(targets)
    classes = len(dataset.classes)
    is_class = (all_labels >= 0) & (all_labels < classes)
    return all_labels[is_class].bincount(minlength=classes)


def check_order(verdict: Verdict, trial: BaseTrainer) -> None:
    """Finds sorted samples that are not shuffled: most of a batch has the same class."""
    loader = trial.loaders["train"]
    reference = labels_of(trial, loader.sample_batch(REFERENCE_SAMPLES))
    if reference is None or loader.source.batch_size < MIN_BATCH_SIZE:
        return
    fractions = []
    for step in loader.steps(0, min(ORDER_STEPS, loader.steps_per_epoch)):
        for batch in step.batches:
            labels = labels_of(trial, batch)
            if labels is not None and len(labels) >= MIN_BATCH_SIZE:
                fractions.append(_fraction_of_largest_class(labels))
    if not fractions:
        return
    mean = sum(fractions) / len(fractions)
    halfway_to_one_class = (1 + _fraction_of_largest_class(reference)) / 2
    if mean > halfway_to_one_class:
        verdict.failures.append(
            "most samples of each of the first training batches have the same class: sorted "
            "samples are not shuffled; use data.sampler=shuffled"
        )


def _fraction_of_largest_class(labels: Tensor) -> float:
    return labels.clamp(min=0).bincount().max().item() / len(labels)
