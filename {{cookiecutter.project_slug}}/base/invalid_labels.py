"""Finds the label that is not a class, when a step fails on it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor

from base.base_dataset import BaseDataset, Batch
from base.batch_loader import BatchLoader
from utils.errors import UserError, describe_error

NO_INDEX = -100  # the default `ignore_index` of torch


def first_invalid_label(labels: Tensor, classes: int, ignored: int | None = NO_INDEX) -> int | None:
    """The position of the first label that is not a class; None if there is none.

    Args:
        labels: classes, int64, shape (N,). Other dtypes and shapes contain none.
        classes: the number of classes.
        ignored: a label that a loss ignores; None if all count.
    """
    if classes == 0 or labels.ndim != 1:
        return None
    if labels.is_floating_point() or labels.is_complex():
        return None
    is_invalid = (labels < 0) | (labels >= classes)
    if ignored is not None:
        is_invalid &= labels != ignored
    if not is_invalid.any():
        return None
    return int(is_invalid.nonzero()[0])


def describe_invalid_label(dataset: BaseDataset, split: str, index: int, label: int) -> str:
    """A message that names a sample, its label and the labels that are allowed."""
    classes = len(dataset.classes)
    return (
        f"{dataset.title}, {split}: the target {label} of sample {index} is not a "
        f"class; there are {classes} classes, so targets must be 0 to {classes - 1}"
    )


@contextmanager
def naming_invalid_labels(loader: BatchLoader, split: str, step: int) -> Iterator[None]:
    """If the block fails on a step with a label that is not a class, the error names the sample.

    Labels are the ``target`` of a batch, or the last item of a batch that is a tuple or a list.

    Args:
        loader: where the step comes from, which is loaded again.
        split: the name of the split.
        step: the number of the step.

    Raises:
        UserError: if there is such a label. Otherwise, the error stays as it is.
    """
    try:
        yield
    except (IndexError, RuntimeError, ValueError, UserError) as error:  # those of torch, and ours
        problem = _find_problem(loader, split, step)
        if problem and not isinstance(error, UserError):
            # The label may be allowed, and something else be wrong.
            problem += f" ({describe_error(error)})"
        if problem:
            raise UserError(problem) from error
        raise


def _find_problem(loader: BatchLoader, split: str, step: int) -> str:
    dataset = loader.dataset
    for indices, batch in loader.source.local_batches(step):
        labels = _labels_of(batch)
        if labels is None or len(labels) != len(indices):
            continue
        row = first_invalid_label(labels, len(dataset.classes))
        if row is not None:
            index = int(indices[row])
            return describe_invalid_label(dataset, split, index, int(labels[row]))
    return ""


def _labels_of(batch: Batch) -> Tensor | None:
    labels = None
    if isinstance(batch, Mapping):
        labels = batch.get("target")
    elif isinstance(batch, list | tuple) and batch:
        labels = batch[-1]
    if isinstance(labels, Tensor):
        return labels
    return None
