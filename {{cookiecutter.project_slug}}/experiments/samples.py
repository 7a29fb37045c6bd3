"""Compares two evaluated runs sample by sample, from their predictions.csv."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from experiments import statistics
from experiments.runs import Evaluation, Run, as_number

COLUMNS = ("name", "true", "predicted", "loss")
FILE = "predictions.csv"


@dataclass(frozen=True)
class Prediction:
    """What a model has predicted for one sample.

    Attributes:
        true: the class or the number.
        predicted: likewise.
        loss: the loss of this sample; NaN if it is missing.
        is_class: whether these are classes.
    """

    true: str
    predicted: str
    loss: float
    is_class: bool

    @property
    def is_correct(self) -> bool:
        """Whether the class is correct."""
        return self.true == self.predicted


@dataclass(frozen=True)
class SampleComparison:
    """Two runs on the same samples.

    For classes, a run is better on a sample if only this run is correct. For numbers, it is better
    if its loss is lower.

    Attributes:
        split: the evaluated split.
        problem: why the samples cannot be compared; empty if they can.
        samples: their number.
        only_first: the names of those on which the first run is better, the clearest first.
        only_second: likewise.
        both_correct: the number of samples that both classify correctly.
        p_value: of McNemar's exact test, or the sign test for numbers.
        is_class: whether the targets are classes.
        first: the predictions of the first run by name.
        second: likewise.
    """

    split: str
    problem: str = ""
    samples: int = 0
    only_first: Sequence[str] = ()
    only_second: Sequence[str] = ()
    both_correct: int = 0
    p_value: float = 1.0
    is_class: bool = True
    first: Mapping[str, Prediction] = field(default_factory=dict)
    second: Mapping[str, Prediction] = field(default_factory=dict)

    def describe(self, name: str) -> str:
        """A sample in three lines: its name, the true class, and what was predicted instead."""
        wrong = self.first[name]
        if wrong.is_correct:
            wrong = self.second[name]
        return f"{name}\n{wrong.true}\nas {wrong.predicted}"


def compare_samples(first: Run, second: Run) -> list[SampleComparison]:
    """Compares two runs on each split on which both have been evaluated."""
    comparisons = []
    for split, evaluation in first.evaluations.items():
        if split in second.evaluations:
            comparisons.append(_compare_split(split, evaluation, second.evaluations[split]))
    return comparisons


def _compare_split(split: str, first: Evaluation, second: Evaluation) -> SampleComparison:
    fingerprints = (first.metrics.get("fingerprint"), second.metrics.get("fingerprint"))
    if fingerprints[0] != fingerprints[1]:
        return SampleComparison(split, "they were evaluated on different samples (fingerprint)")
    try:
        first_predictions = read_predictions(first.folder / FILE)
        second_predictions = read_predictions(second.folder / FILE)
    except (OSError, ValueError, csv.Error) as error:
        advice = "run evaluate.py on both again"
        return SampleComparison(split, f"{error}; {advice}")
    if not first_predictions:
        return SampleComparison(split, "there are no samples")
    if first_predictions.keys() != second_predictions.keys():
        return SampleComparison(split, "they were evaluated on samples with different names")
    for name, prediction in first_predictions.items():
        if prediction.true != second_predictions[name].true:
            return SampleComparison(split, f"the true values of {name!r} differ")
    return _compare_predictions(split, first_predictions, second_predictions)


def _compare_predictions(
    split: str, first: Mapping[str, Prediction], second: Mapping[str, Prediction]
) -> SampleComparison:
    only_first = []
    only_second = []
    both_correct = 0
    is_class = next(iter(first.values())).is_class
    for name, prediction in first.items():
        other = second[name]
        if is_class and prediction.is_correct and other.is_correct:
            both_correct += 1
        if _is_better(prediction, other, is_class):
            only_first.append(name)
        elif _is_better(other, prediction, is_class):
            only_second.append(name)

    def difference(name: str) -> float:
        return abs(first[name].loss - second[name].loss)

    return SampleComparison(
        split=split,
        samples=len(first),
        only_first=sorted(only_first, key=difference, reverse=True),
        only_second=sorted(only_second, key=difference, reverse=True),
        both_correct=both_correct,
        p_value=statistics.mcnemar_exact(len(only_first), len(only_second)),
        is_class=is_class,
        first=first,
        second=second,
    )


def _is_better(prediction: Prediction, other: Prediction, is_class: bool) -> bool:
    if is_class:
        return prediction.is_correct and not other.is_correct
    return prediction.loss < other.loss


def read_predictions(file: Path) -> dict[str, Prediction]:
    """The predictions of evaluate.py by the name of the sample.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not complete, or two samples have the same name.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing")
    predictions: dict[str, Prediction] = {}
    with file.open(encoding="utf-8", errors="replace", newline="") as stream:
        reader = csv.DictReader(stream)
        columns = reader.fieldnames or []
        for column in COLUMNS:
            if column not in columns:
                raise ValueError(f"{file} has no column {column}")
        for row in reader:
            if None in row.values():
                raise ValueError(f"{file}, line {reader.line_num}: the row is incomplete")
            if row["name"] in predictions:
                raise ValueError(f"{file}: two samples have the name {row['name']!r}")
            predictions[row["name"]] = Prediction(
                true=row["true"],
                predicted=row["predicted"],
                loss=_as_loss(row["loss"]),
                is_class="probability" in columns,
            )
    return predictions


def _as_loss(text: str) -> float:
    try:
        value = as_number(float(text))
    except ValueError:
        value = None
    if value is None:
        return float("inf")  # worse than any other
    return value


def describe_samples(samples: SampleComparison, names: Sequence[str]) -> list[str]:
    """How two runs differ on the samples of a split, in words.

    Args:
        samples: their comparison.
        names: of the two runs.
    """
    if samples.problem:
        return [f"{samples.split}, sample by sample: {samples.problem}"]
    first = len(samples.only_first)
    second = len(samples.only_second)
    if samples.is_class:
        both_wrong = samples.samples - samples.both_correct - first - second
        counts = (
            f"{samples.both_correct} correct in both, {both_wrong} wrong in both, "
            f"{first} only in {names[0]}, {second} only in {names[1]}"
        )
        test = "McNemar's exact test"
    else:
        counts = f"lower loss in {names[0]} on {first}, in {names[1]} on {second}"
        test = "sign test"
    verdict = "the difference is within noise"
    if samples.p_value < statistics.ALPHA:
        better = names[1]
        if first > second:
            better = names[0]
        verdict = f"{better} is better"
    return [
        f"{samples.split}, {samples.samples} samples: {counts}",
        f"{test}: p = {samples.p_value:.2g}; {verdict} on these samples",
    ]


def sample_table(samples: SampleComparison, names: Sequence[str], limit: int) -> list[list[str]]:
    """The samples on which one run is better, those with the largest difference in loss first.

    Args:
        samples: the comparison.
        names: of the two runs.
        limit: how many samples are listed for each run.
    """
    table = [["sample", "true", *names, "better"]]
    for better, found in ((names[0], samples.only_first), (names[1], samples.only_second)):
        for name in found[:limit]:
            prediction = samples.first[name]
            table.append(
                [
                    name,
                    prediction.true,
                    prediction.predicted,
                    samples.second[name].predicted,
                    better,
                ]
            )
    return table
