"""Compares two evaluated runs sample by sample, from their predictions.csv."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from experiments import statistics
from experiments.predictions import FILE, Prediction, as_float, read_predictions
from experiments.runs import Evaluation, Run

# Of numeric targets, relative to the largest one: the file has six digits, and machines round
# float32 differently.
TARGET_PRECISION = 2e-5


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
        has_other_inputs: whether the samples have the same names and true values, but other inputs.
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
    has_other_inputs: bool = False
    first: Mapping[str, Prediction] = field(default_factory=dict)
    second: Mapping[str, Prediction] = field(default_factory=dict)

    @property
    def has_differences(self) -> bool:
        """Whether one of the runs is better on some sample."""
        return bool(self.only_first or self.only_second)

    def describe(self, name: str) -> str:
        """A sample in three lines: its name, the true class, and what was predicted instead."""
        wrong = self.first[name]
        if wrong.is_correct:
            wrong = self.second[name]
        return f"{name}\n{_as_text(wrong.true)}\nas {_as_text(wrong.predicted)}"


def compare_samples(first: Run, second: Run) -> list[SampleComparison]:
    """Compares two runs on each split on which both have been evaluated."""
    comparisons = []
    for split, evaluation in first.evaluations.items():
        if split in second.evaluations:
            comparisons.append(_compare_split(split, evaluation, second.evaluations[split]))
    return comparisons


def _compare_split(split: str, first: Evaluation, second: Evaluation) -> SampleComparison:
    try:
        first_predictions = read_predictions(first.folder / FILE)
        second_predictions = read_predictions(second.folder / FILE)
    except (OSError, ValueError, csv.Error) as error:
        return SampleComparison(split, f"{error}; run evaluate.py on both again")
    problem = _find_problem(first_predictions, second_predictions)
    if problem:
        return SampleComparison(split, problem)
    comparison = _compare_predictions(split, first_predictions, second_predictions)
    # The samples are the same, but the seed may decide on the statistics that scale their inputs.
    fingerprints = {first.metrics.get("fingerprint"), second.metrics.get("fingerprint")}
    has_other_inputs = None not in fingerprints and len(fingerprints) > 1
    return replace(comparison, has_other_inputs=has_other_inputs)


def _find_problem(first: Mapping[str, Prediction], second: Mapping[str, Prediction]) -> str:
    """Why the predictions of two runs cannot be compared; empty if they can."""
    if not first:
        return "there are no samples"
    if first.keys() != second.keys():
        return "they were evaluated on samples with different names"
    if _is_class(first) != _is_class(second):
        return "one of them predicts classes, and the other one numbers"
    tolerance = 0.0
    if not _is_class(first):
        tolerance = TARGET_PRECISION * _largest_number(first)
    for name, prediction in first.items():
        if not _are_equal(prediction.true, second[name].true, tolerance):
            return f"the true values of {name!r} differ"
    return ""


def _is_class(predictions: Mapping[str, Prediction]) -> bool:
    return all(prediction.is_class for prediction in predictions.values())


def _largest_number(predictions: Mapping[str, Prediction]) -> float:
    """The largest magnitude of the finite true values."""
    largest = 0.0
    for prediction in predictions.values():
        for text in prediction.true:
            number = abs(as_float(text))
            if math.isfinite(number):
                largest = max(largest, number)
    return largest


def _are_equal(first: Sequence[str], second: Sequence[str], tolerance: float) -> bool:
    """Whether the true values of a sample are equal; numbers may differ by the tolerance."""
    if len(first) != len(second):
        return False
    for text, other in zip(first, second, strict=True):
        # A text that is no number is NaN, which is within no tolerance.
        if text != other and not abs(as_float(text) - as_float(other)) <= tolerance:
            return False
    return True


def _compare_predictions(
    split: str, first: Mapping[str, Prediction], second: Mapping[str, Prediction]
) -> SampleComparison:
    only_first = []
    only_second = []
    both_correct = 0
    is_class = _is_class(first)
    for name, prediction in first.items():
        other = second[name]
        if is_class and prediction.is_correct and other.is_correct:
            both_correct += 1
        if _is_better(prediction, other, is_class):
            only_first.append(name)
        elif _is_better(other, prediction, is_class):
            only_second.append(name)

    def difference(name: str) -> float:
        if first[name].loss == second[name].loss:  # also if both are infinite
            return 0.0
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


def _as_text(values: Sequence[str]) -> str:
    """A class, or the numbers of all targets."""
    return ", ".join(values)


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
    sentences = [
        f"{samples.split}, {samples.samples} samples: {counts}",
        f"{test}: p = {samples.p_value:.2g}; {verdict} on these samples",
    ]
    if samples.has_other_inputs:
        sentences.append(
            "The names and true values of the samples are equal, but the inputs differ "
            "(fingerprint), as if they were scaled in another way."
        )
    return sentences


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
                    _as_text(prediction.true),
                    _as_text(prediction.predicted),
                    _as_text(samples.second[name].predicted),
                    better,
                ]
            )
    return table
