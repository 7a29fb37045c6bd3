"""Splits: sizes, stratification, and what the seed decides."""
# ruff: noqa: D103  the names of the tests say what they test

import pytest
import torch
from torch import Tensor

from data_loader.splits import split_indices, split_rows
from utils.errors import UserError

SPLITS = ("train", "validation", "test")


def all_rows(splits: dict[str, Tensor]) -> Tensor:
    """The rows of all splits together, sorted."""
    return torch.cat([*splits.values()]).sort().values


def test_the_validation_split_is_stratified_and_complements_training() -> None:
    targets = torch.tensor([0] * 600 + [1] * 60)[torch.randperm(660)]
    train = split_indices(targets, "train", 110, seed=1)
    validation = split_indices(targets, "validation", 110, seed=1)
    assert targets[validation].bincount().tolist() == [100, 10]
    assert torch.equal(all_rows({"train": train, "validation": validation}), torch.arange(660))
    assert not torch.equal(validation, split_indices(targets, "validation", 110, seed=2))
    assert torch.equal(split_indices(targets, "test", 110, seed=1), torch.arange(660))


def test_rows_are_divided_with_the_class_frequencies_of_the_table() -> None:
    targets = torch.cat([torch.zeros(600), torch.ones(60)]).long()[torch.randperm(660)]
    splits = {split: split_rows(targets, split, seed=1) for split in SPLITS}
    assert torch.equal(all_rows(splits), torch.arange(660))
    counts = {split: targets[rows].bincount().tolist() for split, rows in splits.items()}
    assert counts["test"] == [100, 10]
    assert abs(counts["validation"][1] - 8) <= 1
    assert sum(counts["validation"]) == 91


def test_a_class_that_a_split_would_lack_is_refused() -> None:
    targets = torch.tensor([0] * 60 + [1] * 12)
    rare = torch.cat([targets, torch.tensor([2])])
    for split in SPLITS:
        assert {*targets[split_rows(targets, split, 1, "ab")].tolist()} == {0, 1}
        with pytest.raises(UserError) as error:
            split_rows(rare, split, 1, "abc")
        for part in ("'c'", "1 of 73 rows", "12 or more"):
            assert part in str(error.value)
        assert error.value.exit_code == 2


def test_class_frequencies_vary_without_stratification() -> None:
    targets = torch.tensor([0] * 600 + [1] * 60)
    splits = {split: split_rows(targets, split, 1, "ab", stratify=False) for split in SPLITS}
    assert torch.equal(all_rows(splits), torch.arange(660))
    counts = set()
    for seed in range(20):
        rows = split_rows(targets, "validation", seed, stratify=False)
        counts.add(int(targets[rows].sum()))
    assert len(counts) > 3


def test_equal_numbers_are_divided_in_the_order_of_their_rows() -> None:
    """A sort that is not stable may order them differently on another machine."""
    equal = torch.zeros(600)
    ascending = torch.arange(600).float()
    for split in SPLITS:
        assert torch.equal(split_rows(equal, split, 1), split_rows(ascending, split, 1))


def test_the_seed_selects_the_validation_rows_but_not_the_test_rows() -> None:
    targets = torch.rand(600)  # numbers are stratified, too
    validation = split_rows(targets, "validation", seed=1)
    test = split_rows(targets, "test", seed=1)
    assert torch.equal(test, split_rows(targets, "test", seed=2))
    assert not torch.equal(validation, split_rows(targets, "validation", seed=2))
    for rows in (test, validation):
        assert targets[rows].mean().item() == pytest.approx(targets.mean().item(), abs=0.02)
