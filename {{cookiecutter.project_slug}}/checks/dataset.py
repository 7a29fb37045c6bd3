"""The samples: counts, classes, duplicates, broken samples and ranges."""

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, class_labels
from base.base_trainer import BaseTrainer
from base.batch_loader import BatchLoader
from builders import build_dataset
from checks.trial import copied, labels_of
from checks.verdict import Verdict, list_some
from logger.console import progress_bar
from utils.errors import describe_error
from utils.nested import digest, named_tensors
from utils.randomness import make_generator, permute, preserve_global_rng

SECONDS_PER_SPLIT = 3.0
MAX_LEAK = 0.01  # fraction of a split that may also be in the training set, by chance
MAX_IMBALANCE = 20.0  # ratio of the largest to the smallest class
RANGE_SAMPLES = 1024
MAX_FEATURES = 10_000  # whose ranges are examined one by one
LARGE_MEAN = 3.0  # of normalised inputs
LARGE_STD = 5.0
SMALL_STD = 0.05
FAILED_FACTOR = 3.0  # from a warning to a failure
ORDER_STEPS = 3
MIN_ORDER_BATCH = 16


@dataclass
class Reading:
    """What was read of a split.

    Attributes:
        total: its number of samples.
        read: how many of them were read.
        broken: messages about those that cannot be read.
        targets: the class of each sample, or the digest of another target; by sample that was read.
        hashes: the digest of the inputs of each, without augmentation; of the whole sample if there
            are no classes.
    """

    total: int
    read: int = 0
    broken: list[str] = field(default_factory=list)
    targets: list[Any] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)


def check_data(trainer: BaseTrainer) -> Verdict:
    """Reads the samples of each split for some seconds, and looks at some batches."""
    verdict = Verdict("data")
    datasets = {split: loader.dataset for split, loader in trainer.loaders.items()}
    _add_test_split(trainer, datasets)
    readings = {}
    with copied(trainer):
        for split in reversed(datasets):  # the training set is usually the largest
            readings[split] = read_split(datasets[split], split)
    for split in datasets:
        reading = readings[split]
        count = f"{reading.total:,}"
        if reading.read < reading.total:
            count += f" ({reading.read:,} read)"
        verdict.figures[split] = count
        if reading.broken:
            verdict.failures.append(
                f"{len(reading.broken)} {split} samples cannot be read, such as {reading.broken[0]}"
            )
    _check_classes(verdict, datasets, readings)
    _check_duplicates(verdict, readings)
    with copied(trainer) as trial:
        for split in trainer.loaders:
            _check_ranges(verdict, trial.loaders[split], split)
        _check_order(verdict, trial)
    return verdict


def _add_test_split(trainer: BaseTrainer, datasets: dict[str, BaseDataset]) -> None:
    """Adds the test set, of which only counts and copies of training samples are reported."""
    try:
        test = build_dataset(trainer.settings, "test")
        test.load_state_dict(trainer.dataset.state_dict())
        if len(test):
            datasets["test"] = test
    except Exception:  # whatever the code of a data set may raise: it may have no test set
        return


# Reading


def read_split(dataset: BaseDataset, split: str) -> Reading:
    """Reads samples in random order until all are read or the time is over."""
    count = len(dataset)
    reading = Reading(count)
    order = permute(torch.arange(count), count, make_generator(0))
    end = time.perf_counter() + SECONDS_PER_SPLIT
    with preserve_global_rng(), progress_bar(count, f"reading {split}") as bar:
        for index in order.tolist():
            try:
                sample = dataset[index]
            except Exception as error:  # whatever the code of a data set may raise
                reading.broken.append(f"{dataset.sample_name(index)}: {describe_error(error)}")
                continue
            finally:
                reading.read += 1
                bar.update()
            inputs, target = _split_sample(sample)
            if not dataset.classes:
                inputs = sample  # the same numbers with another target are another measurement
            reading.hashes.append(digest(inputs))
            reading.targets.append(target)
            if time.perf_counter() > end:
                break
    return reading


def _split_sample(sample: Any) -> tuple[Any, Any]:
    """The inputs of a sample, and its target as a value that can be compared."""
    if not isinstance(sample, Mapping) or "target" not in sample:
        return sample, None
    inputs = {name: value for name, value in sample.items() if name not in ("target", "index")}
    target = sample["target"]
    if isinstance(target, Tensor) and target.numel() == 1 and not target.is_complex():
        return inputs, target.item()
    if isinstance(target, Tensor) and target.ndim == 1 and target.is_floating_point():
        return inputs, tuple(target.tolist())
    return inputs, digest(target)


# Classes


def _check_classes(
    verdict: Verdict, datasets: Mapping[str, BaseDataset], readings: Mapping[str, Reading]
) -> None:
    training = datasets["train"]
    if not training.classes:
        _check_constant_target(verdict, readings["train"])
        return
    classes = len(training.classes)
    counts = _count_classes(training, readings["train"], classes)
    if counts is None or counts.sum() == 0:
        return
    largest = int(counts.max())
    smallest = int(counts.min())
    verdict.figures["classes"] = classes
    verdict.figures["samples per class"] = f"{smallest:,} to {largest:,}"
    missing = [str(training.classes[i]) for i in (counts == 0).nonzero().flatten().tolist()]
    if int((counts > 0).sum()) == 1 and classes > 1:
        only = training.classes[int(counts.argmax())]
        verdict.failures.append(f"all training samples have the class {only}")
    elif missing and readings["train"].read == len(training):
        verdict.failures.append(
            f"no training sample has the class {list_some(missing)}; remove it from `classes`, or "
            "divide the splits by class"
        )
    elif smallest > 0 and largest > MAX_IMBALANCE * smallest:
        rare = training.classes[int(counts.argmin())]
        verdict.warnings.append(
            f"the class {rare} has {smallest} of {int(counts.sum())} samples; loss.balanced=true "
            "or data.sampler=balanced gives it more weight"
        )


def _count_classes(dataset: BaseDataset, reading: Reading, classes: int) -> Tensor | None:
    """The number of samples of each class; None if the targets are no classes."""
    targets = getattr(dataset, "targets", None)
    if not isinstance(targets, Tensor) or len(targets) != len(dataset):
        labels = [target for target in reading.targets if isinstance(target, int)]
        if len(labels) < len(reading.targets):
            return None
        targets = torch.tensor(labels, dtype=torch.int64)
    has_probabilities = targets.is_floating_point() and targets.ndim == 2
    if not has_probabilities and (targets.ndim != 1 or targets.is_floating_point()):
        return None
    labels_of_all = class_labels(targets)
    valid = labels_of_all[(labels_of_all >= 0) & (labels_of_all < classes)]
    return valid.bincount(minlength=classes)


def _check_constant_target(verdict: Verdict, reading: Reading) -> None:
    values = {target for target in reading.targets if target is not None}
    if len(values) == 1 and len(reading.targets) > 1:
        verdict.failures.append("all training samples have the same target")


# Duplicates


def _check_duplicates(verdict: Verdict, readings: Mapping[str, Reading]) -> None:
    """Counts samples with the same inputs, in the training set and between the splits."""
    training = readings["train"]
    counts = Counter(training.hashes)
    repeated = sum(count for count in counts.values() if count > 1)
    natural = repeated / max(len(training.hashes), 1)
    if repeated:
        surplus = repeated - sum(1 for count in counts.values() if count > 1)
        message = f"{surplus} training samples are copies of others"
        contradictory = _count_contradictions(training)
        if contradictory:
            message += f", {contradictory} inputs with different targets"
        verdict.warnings.append(message)
    for split, reading in readings.items():
        if split == "train" or not reading.hashes:
            continue
        shared = sum(1 for content in reading.hashes if content in counts)
        # Of a training set that is read in part, some copies are not seen.
        fraction = shared / len(reading.hashes) * training.total / training.read
        if shared == 0:
            continue
        message = f"{shared} of {len(reading.hashes)} {split} samples are also in the training set"
        if fraction > MAX_LEAK and fraction > 2 * natural:
            verdict.failures.append(f"{message}: a leak between the splits")
        else:
            verdict.warnings.append(message)


def _count_contradictions(reading: Reading) -> int:
    """The number of inputs that occur with different targets."""
    targets: dict[str, Any] = {}
    contradictory = set()
    for content, target in zip(reading.hashes, reading.targets, strict=True):
        if targets.setdefault(content, target) != target:
            contradictory.add(content)
    return len(contradictory)


# Ranges of what the model gets


def _check_ranges(verdict: Verdict, loader: BatchLoader, split: str) -> None:
    """Looks for values that are not finite, and inputs that are constant or not normalised."""
    count = min(RANGE_SAMPLES, len(loader.dataset))
    try:
        batch = loader.sample_batch(count)
    except Exception as error:  # a broken sample, which has been reported
        verdict.failures.append(f"{split} samples cannot be loaded: {describe_error(error)}")
        return
    for name, tensor in named_tensors(batch):
        if not tensor.is_floating_point() or tensor.numel() == 0:
            continue
        values = tensor.detach().double()
        if not bool(values.isfinite().all()):
            verdict.failures.append(f"{name!r} of {split} samples contains NaN or infinity")
        elif name.split()[0] != "target" and split == "train" and tensor.ndim > 1:
            _check_input(verdict, name, values)


def _check_input(verdict: Verdict, name: str, values: Tensor) -> None:
    """Examines an input, float64, shape (N, ...), of the training samples."""
    mean = values.mean().item()
    std = values.std().item()
    verdict.figures[f"{name} mean, std"] = f"{mean:.3g}, {std:.3g}"
    features = values.flatten(1)
    if len(values) > 1 and bool((features == features[0]).all()):
        verdict.failures.append(f"{name!r} is the same for all training samples")
        return
    if values.ndim == 2 and 1 < features.shape[1] <= MAX_FEATURES:
        _check_columns(verdict, name, features)
        return
    badness = distance_from_normal(mean, std)
    if badness > 1:
        message = f"{name!r} is not normalised: mean {mean:.3g}, std {std:.3g} (usual are 0 and 1)"
        message += "; normalise it in `transform`, by what `fit` computes"
        _add(verdict, message, badness)


def _check_columns(verdict: Verdict, name: str, features: Tensor) -> None:
    """Examines each feature, shape (N, F)."""
    constant = []
    worst = 0
    worst_badness = 0.0
    for column in range(features.shape[1]):
        values = features[:, column]
        std = values.std().item()
        if std == 0:
            constant.append(str(column))
            continue
        badness = distance_from_normal(values.mean().item(), std)
        if set(values.unique().tolist()) == {0.0, 1.0}:
            continue  # one-hot
        if badness > worst_badness:
            worst = column
            worst_badness = badness
    if constant:
        verdict.warnings.append(
            f"constant in all samples: features {list_some(constant)} of {name!r}"
        )
    if worst_badness > 1:
        values = features[:, worst]
        message = f"{name!r} is not normalised: feature {worst} has mean {values.mean():.3g}, std "
        message += f"{values.std():.3g} (usual are 0 and 1); normalise it by what `fit` computes"
        _add(verdict, message, worst_badness)


def distance_from_normal(mean: float, std: float) -> float:
    """How far mean and standard deviation are from 0 and 1; above 1 is unusual."""
    return max(abs(mean) / LARGE_MEAN, std / LARGE_STD, SMALL_STD / max(std, 1e-12))


def _add(verdict: Verdict, message: str, badness: float) -> None:
    if badness > FAILED_FACTOR:
        verdict.failures.append(message)
    else:
        verdict.warnings.append(message)


# The order of training


def _check_order(verdict: Verdict, trial: BaseTrainer) -> None:
    """Finds sorted samples that are not shuffled: most of a batch has the same class."""
    loader = trial.loaders["train"]
    reference = labels_of(trial, loader.sample_batch(RANGE_SAMPLES))
    if reference is None or loader.source.batch_size < MIN_ORDER_BATCH:
        return
    shares = []
    for step in loader.steps(0, min(ORDER_STEPS, loader.steps_per_epoch)):
        for batch in step.batches:
            labels = labels_of(trial, batch)
            if labels is not None and len(labels) >= MIN_ORDER_BATCH:
                shares.append(_share_of_largest_class(labels))
    expected = _share_of_largest_class(reference)
    if shares and sum(shares) / len(shares) > (1 + expected) / 2:
        verdict.failures.append(
            "most samples of each of the first training batches have the same class: sorted "
            "samples are not shuffled; use data.sampler=shuffled"
        )


def _share_of_largest_class(labels: Tensor) -> float:
    return labels.clamp(min=0).bincount().max().item() / len(labels)
