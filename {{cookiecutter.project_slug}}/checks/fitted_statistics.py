"""Whether numbers are standardized with statistics of the training samples, and of no others."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from base.base_dataset import BaseDataset
from base.batch_loader import BatchLoader
from checks.verdict import Verdict
from utils.nested import named_tensors

LOADED_SAMPLES = 4096  # at once
TOLERANCE = 1e-4  # of a mean and a standard deviation: rounding in float32


@dataclass
class Sums:
    """The sums of the columns of some samples.

    Attributes:
        count: the number of samples.
        values: the sum of each column, float64, shape (K,).
        squares: that of the squares.
    """

    count: int
    values: Tensor
    squares: Tensor

    def add(self, other: "Sums") -> "Sums":
        """The sums of the samples of both."""
        return Sums(
            self.count + other.count, self.values + other.values, self.squares + other.squares
        )

    def are_standardized(self) -> Tensor:
        """Whether mean and standard deviation are 0 and 1, bool, shape (K,)."""
        mean = self.values / self.count
        variance = self.squares / self.count - mean.square()
        # The standard deviation may have been computed with one degree of freedom less.
        tolerance = TOLERANCE + 1 / self.count
        return (mean.abs() < TOLERANCE) & ((variance.clamp(min=0).sqrt() - 1).abs() < tolerance)


def check_fitted_statistics(verdict: Verdict, datasets: Mapping[str, BaseDataset]) -> None:
    """Finds columns of tables, and numbers to predict, that other splits have standardized.

    That is so if their mean and standard deviation are 0 and 1 in other samples than those of the
    training set, to many digits.

    Args:
        verdict: what a failure is added to.
        datasets: by split.
    """
    loaders = {split: BatchLoader(dataset, LOADED_SAMPLES) for split, dataset in datasets.items()}
    columns = _names_of_columns(loaders["train"])
    if not columns:
        return
    sums = {split: _add_up(loader, columns) for split, loader in loaders.items()}
    for name in columns:
        _compare(verdict, name, {split: sums_by_name[name] for split, sums_by_name in sums.items()})


def _names_of_columns(loader: BatchLoader) -> list[str]:
    """The names of the tensors of a batch whose rows consist of numbers."""
    names = []
    for name, tensor in named_tensors(loader.sample_batch(2)):
        if tensor.is_floating_point() and tensor.ndim == 2:
            names.append(name)
    return names


def _add_up(loader: BatchLoader, names: list[str]) -> dict[str, Sums]:
    totals: dict[str, Sums] = {}
    for indices in torch.arange(len(loader.dataset)).split(LOADED_SAMPLES):
        tensors = dict(named_tensors(loader.load_batch(indices)))
        for name in names:
            values = tensors[name].double()
            sums = Sums(len(values), values.sum(0), values.square().sum(0))
            if name in totals:
                sums = totals[name].add(sums)
            totals[name] = sums
    return totals


def _compare(verdict: Verdict, name: str, sums: Mapping[str, Sums]) -> None:
    """Adds a failure if a column is standardized in other samples than those of training."""
    others = {split: value for split, value in sums.items() if split != "train"}
    combinations = dict(others)
    together = sums["train"]
    for split, value in others.items():
        together = together.add(value)
        combinations[f"train and {split}"] = sums["train"].add(value)
    combinations["all splits"] = together
    is_correct = sums["train"].are_standardized()
    for samples, value in combinations.items():
        columns = (value.are_standardized() & ~is_correct).nonzero().flatten().tolist()
        if columns:
            verdict.failures.append(
                f"column {columns[0]} of {name!r} has mean 0 and standard deviation 1 in the "
                f"samples of {samples}, but not in the training samples: a leak; compute its "
                "statistics in `fit`, from the training samples"
            )
            return
