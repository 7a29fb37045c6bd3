"""Samplers: which training samples an epoch has, and in which order.

`data.sampler` names a function of this file or, as FILE.function, of another file in data_loader/.
It returns the indices of the samples of an epoch in order, int64, shape (N,). N is the same for all
epochs, and may differ from the number of samples. A sampler is called with ``dataset`` and those of
the other arguments below that it has as parameters; its further parameters, which need annotations,
are settings.

    dataset: the training set; its tensors may be on an accelerator.
    seed: random seed of the run.
    epoch: number of the epoch, from 0.
    step_size: samples of an optimizer step: data.batch_size times trainer.accumulate.
    samples: indices of the samples to choose from, int64, shape (N,); None for all of them. A
        sampler with this parameter can be used with trainer.fraction.

The result must not depend on anything else. So a run can be resumed at any step, with any number of
workers and processes. A sampler whose orders depend on what happens in training is a class, see
`base.base_sampler.BaseSampler`.
"""
# ruff: noqa: D417  the arguments that all samplers share are described above

import difflib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from base.base_dataset import BaseDataset, class_labels
from base.batch_loader import StepSource
from config.schema import Count, NonNegative
from utils.errors import UserError
from utils.randomness import RandomStream, draw_with_replacement, make_generator

MAX_LISTED_CHARACTERS = 200  # of names in a message


def shuffled(dataset: BaseDataset, seed: int, epoch: int, step_size: int) -> Tensor:
    """Each sample once, in random order.

    With data.sampler=shuffled, the loader computes the same order in blocks, so that an order of
    10^8 samples takes no memory. This function is for samplers that start from it.
    """
    source = StepSource(dataset, step_size, seed)
    first_step = epoch * source.steps_per_epoch
    steps = range(first_step, first_step + source.steps_per_epoch)
    return torch.cat([source.sample_indices(step) for step in steps])


def sequential(dataset: BaseDataset) -> Tensor:
    """Each sample once, in the order of the data set."""
    return torch.arange(len(dataset))


def balanced(dataset: BaseDataset, seed: int, epoch: int) -> Tensor:
    """Random samples, drawn with replacement, of each class equally often on average.

    The data set needs `targets` for all samples: classes or class probabilities.

    Raises:
        UserError: if it has none.
    """
    labels = _labels(dataset)
    counts = labels.bincount()
    class_weights = 1 / counts.double()  # those of classes without samples are not used
    rng = make_generator(seed, RandomStream.SHUFFLING, epoch)
    return draw_with_replacement(class_weights[labels], len(dataset), rng)


def weighted(
    dataset: BaseDataset,
    seed: int,
    epoch: int,
    weights: tuple[NonNegative, ...] | dict[str, NonNegative] | None = None,
) -> Tensor:
    """Random samples, drawn with replacement, with probabilities in proportion to their weights.

    Args:
        weights: Weight of each sample of a class: a list in the order of the classes, or a mapping
            from their names. By default, the data set's `sample_weights`, one for each sample.

    Raises:
        UserError: if there are no weights, or they do not fit the data set.
    """
    if weights is None:
        sample_weights = _sample_weights(dataset)
        source = f"`sample_weights` of {dataset.title}"
    else:
        source = "data.sampler.weights"
        class_weights = _class_weights(dataset, weights)
        sample_weights = class_weights[_labels(dataset)]
    _check_weights(sample_weights, source)
    rng = make_generator(seed, RandomStream.SHUFFLING, epoch)
    return draw_with_replacement(sample_weights, len(dataset), rng)


def bucketed(
    dataset: BaseDataset, seed: int, epoch: int, step_size: int, pool_steps: Count = 50
) -> Tensor:
    """Each sample once, in steps of samples of similar length, so that batches have less padding.

    The samples are shuffled and divided into pools. Those of each pool are sorted by length and
    divided into steps, and all steps are shuffled. The smaller last step stays the last one.

    The data set needs `lengths`, int64, shape (N,).

    Args:
        pool_steps: Optimizer steps of a pool: more mean less padding, fewer mean more random steps.

    Raises:
        UserError: if it has none.
    """
    lengths = _lengths(dataset)
    rng = make_generator(seed, RandomStream.SHUFFLING, epoch)
    order = torch.randperm(len(dataset), generator=rng)
    full_steps = []
    last_step = order[:0]
    for pool in order.split(pool_steps * step_size):
        by_length = pool[lengths[pool].argsort(stable=True)]
        steps_of_pool, remainder = divmod(len(pool), step_size)
        if remainder > 0:
            # The samples that do not fill a step are as random as those of any other step.
            start = step_size * int(torch.randint(steps_of_pool + 1, (), generator=rng))
            last_step = by_length[start : start + remainder]
            by_length = torch.cat([by_length[:start], by_length[start + remainder :]])
        full_steps.append(by_length.reshape(steps_of_pool, step_size))
    steps = torch.cat(full_steps)
    steps = steps[torch.randperm(len(steps), generator=rng)]
    return torch.cat([steps.reshape(-1), last_step])


def _labels(dataset: BaseDataset) -> Tensor:
    """The class of each sample, int64, shape (N,), on the CPU.

    Raises:
        UserError: if `targets` of the data set are missing, or are no classes.
    """
    targets = _read_tensor(dataset, "targets", "the class of each sample")
    classes = len(dataset.classes)
    if targets.is_floating_point():
        _check_shape(dataset, "targets", targets, (len(dataset), classes))
    else:
        _check_shape(dataset, "targets", targets, (len(dataset),))
    labels = class_labels(targets).long()
    lowest = int(labels.min())
    highest = int(labels.max())
    if lowest < 0 or (classes > 0 and highest >= classes):
        raise UserError(
            f"`targets` of {dataset.title} are from {lowest} to {highest}; "
            f"there are {classes} classes, from 0"
        )
    return labels


def _lengths(dataset: BaseDataset) -> Tensor:
    """The length of each sample, int64, shape (N,), on the CPU.

    Raises:
        UserError: if `lengths` of the data set are missing, or of another kind.
    """
    lengths = _read_tensor(dataset, "lengths", "the length of each sample, int64")
    _check_shape(dataset, "lengths", lengths, (len(dataset),))
    if lengths.dtype != torch.int64:
        raise UserError(f"`lengths` of {dataset.title} are {lengths.dtype}; they must be int64")
    return lengths


def _sample_weights(dataset: BaseDataset) -> Tensor:
    """The weight of each sample, float64, shape (N,), on the CPU.

    Raises:
        UserError: if `sample_weights` of the data set are missing, or have another shape.
    """
    meaning = "the weight of each sample, or set data.sampler.weights"
    weights = _read_tensor(dataset, "sample_weights", meaning)
    _check_shape(dataset, "sample_weights", weights, (len(dataset),))
    return weights.double()


def _read_tensor(dataset: BaseDataset, name: str, meaning: str) -> Tensor:
    """An attribute of a data set, on the CPU, wherever its tensors are by now."""
    tensor = getattr(dataset, name, None)
    if not isinstance(tensor, Tensor):
        raise UserError(f"{dataset.title} has no tensor `{name}`; define {meaning}")
    return tensor.cpu()


def _check_shape(
    dataset: BaseDataset, name: str, tensor: Tensor, expected: tuple[int, ...]
) -> None:
    shape = tuple(tensor.shape)
    if shape != expected:
        raise UserError(
            f"`{name}` of {dataset.title} has the shape {shape} ({tensor.dtype}); "
            f"it must have the shape {expected}"
        )


def _class_weights(dataset: BaseDataset, weights: Sequence[float] | Mapping[str, float]) -> Tensor:
    """The weight of each class, float64, shape (C,).

    Raises:
        UserError: if a class has no weight, or there are more weights than classes.
    """
    names = list(dataset.classes)
    values = weights
    if isinstance(weights, Mapping):
        _check_class_names(weights, names)
        values = [weights[name] for name in names]
    if len(values) != len(names):
        raise UserError(
            f"data.sampler.weights: there are {len(values)} weights; "
            f"{dataset.title} has {len(names)} classes: {_listing(names)}"
        )
    return torch.tensor(values, dtype=torch.float64)


def _check_class_names(weights: Mapping[str, float], names: Sequence[str]) -> None:
    for name in weights:
        if name not in names:
            message = f"data.sampler.weights: there is no class {name!r}"
            similar = difflib.get_close_matches(name, names, n=1)
            if similar:
                message += f"; did you mean {similar[0]!r}?"
            raise UserError(f"{message} Available: {_listing(names)}")
    for name in names:
        if name not in weights:
            raise UserError(
                f"data.sampler.weights: the class {name!r} has no weight; "
                f"give one for each of {_listing(names)}"
            )


def _listing(names: Sequence[str]) -> str:
    return ", ".join(names)[:MAX_LISTED_CHARACTERS] or "(none)"


def _check_weights(weights: Tensor, source: str) -> None:
    """Raises a UserError if the weights of the samples cannot be probabilities.

    Args:
        weights: float64, shape (N,).
        source: where they come from, for messages.
    """
    is_allowed = weights.isfinite() & (weights >= 0)
    if not is_allowed.all():
        index = int((~is_allowed).nonzero()[0])
        weight = weights[index].item()
        raise UserError(
            f"{source} has the weight {weight} for sample {index}; "
            "weights are finite and not negative"
        )
    if not weights.any():
        raise UserError(f"{source} has the weight 0 for all samples; one must be positive")
