"""Which sample is in which split."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from utils.errors import UserError
from utils.randomness import RandomStream, make_generator

# One fold of all rows is for testing. One fold of the other rows is for validation.
FOLDS = 6
# Rows with neighbouring numbers are stratified as if they were one class.
ROWS_PER_STRATUM = 30


def split_indices(targets: Tensor, split: str, validation: int, seed: int) -> Tensor:
    """Selects the samples of a split from data that has a separate test set.

    Args:
        targets: classes of all samples of the training or of the test set, int64, shape (N,).
        split: train, validation or test. The first two divide the training set.
        validation: number of samples in the validation split, which is stratified by class.
        seed: random seed that selects the validation samples.

    Returns:
        Sorted indices, int64: all of them for ``test``.
    """
    if split == "test":
        return torch.arange(len(targets))
    train_indices, validation_indices = _hold_out(targets, validation, seed)
    if split == "validation":
        return validation_indices
    return train_indices


def split_rows(
    targets: Tensor, split: str, seed: int, classes: Sequence[str] = (), stratify: bool = True
) -> Tensor:
    """Selects the rows of a split from a table that has no separate test set.

    A sixth of the rows is the test split, whatever the seed. A sixth of the other rows is the
    validation split.

    Args:
        targets: classes (int64) or numbers (floating point) of all rows, shape (N,).
        split: train, validation or test.
        seed: random seed that selects the validation rows.
        classes: names of the classes.
        stratify: whether each split has the same distribution of targets as the whole table.

    Returns:
        Sorted indices of rows, int64.

    Raises:
        UserError: if a split has no row of one of the classes.
    """
    strata = _strata(targets, stratify)
    others, test = _hold_out(strata, len(targets) // FOLDS, seed=0)
    train, validation = _hold_out(strata[others], len(others) // FOLDS, seed)
    rows = {"test": test, "train": others[train], "validation": others[validation]}
    if classes:
        for indices in rows.values():
            _check_classes(targets, indices, classes)
    return rows[split]


def select_stratified(targets: Tensor, count: int, seed: int) -> Tensor:
    """Selects `count` samples with the same distribution of targets as all of them.

    Args:
        targets: classes (int64) or numbers (floating point) of all samples, shape (N,).
        count: number of samples to select.
        seed: random seed that selects them.

    Returns:
        Sorted indices, int64, shape (count,).
    """
    _, selected = _hold_out(_strata(targets, stratify=True), count, seed)
    return selected


def _hold_out(strata: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Divides samples into those to keep and `count` to hold out, stratified.

    Returns:
        The sorted indices of both.
    """
    order = torch.randperm(len(strata), generator=make_generator(seed, RandomStream.SPLIT))
    # NumPy sorts a million strata in 0.02 s, torch in 0.19 s.
    by_stratum = np.argsort(strata[order].numpy(), kind="stable")
    order = order[torch.from_numpy(by_stratum)]
    # The order is by stratum and random within each of them. So evenly spaced positions
    # select the same proportion of every stratum.
    positions = torch.arange(count) * len(strata) // count
    is_held_out = torch.zeros(len(strata), dtype=torch.bool)
    is_held_out[order[positions]] = True
    kept = (~is_held_out).nonzero().squeeze(1)
    held_out = is_held_out.nonzero().squeeze(1)
    return kept, held_out


def _strata(targets: Tensor, stratify: bool) -> Tensor:
    """Returns the number of each row's stratum, int64, shape (N,)."""
    if not stratify:
        return torch.zeros(len(targets), dtype=torch.int64)
    if targets.is_floating_point():
        # Unless the sort is stable, equal numbers may be ranked differently on another machine.
        ranks = targets.argsort(stable=True).argsort()
        return ranks // ROWS_PER_STRATUM
    return targets


def _check_classes(targets: Tensor, indices: Tensor, classes: Sequence[str]) -> None:
    """Raises a UserError if the rows at `indices` lack one of the classes."""
    counts = targets[indices].bincount(minlength=len(classes)).tolist()
    for label, name in enumerate(classes):
        if counts[label] == 0:
            total = int((targets == label).sum())
            raise UserError(
                f"class {name!r} has {total} of {len(targets)} rows, too few for every split to "
                f"have one; add rows ({2 * FOLDS} or more suffice), or remove this class"
            )
