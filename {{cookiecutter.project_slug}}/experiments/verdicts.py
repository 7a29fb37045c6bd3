"""Judges which rows of a comparison are worse than the best one, and which are within noise."""

import math
from collections.abc import Sequence
from statistics import fmean

from experiments import statistics
from experiments.metric import HIGHEST
from experiments.rows import BEST, EQUAL, NO_SPREAD, SINGLE_SEED, WITHIN_NOISE, WORSE, Row, Verdict
from experiments.runs import Run


def exclude_rows(rows: Sequence[Row], metric_name: str, data_title: str | None = None) -> list[Row]:
    """Sets why rows are not compared; returns the others.

    Runs on a part of the data are compared only if there are no others.

    Args:
        rows: all rows.
        metric_name: what is compared.
        data_title: the data set of the rows to compare; None for any.
    """
    compared = []
    for row in rows:
        row.exclusion = _why_incomplete(row.newest)
        is_on_other_data = data_title is not None and row.newest.data_title != data_title
        if not row.exclusion and is_on_other_data:
            row.exclusion = f"data set {row.newest.data_title}"
        if not row.exclusion and not row.values:
            row.exclusion = f"no finite {metric_name}"
        if not row.exclusion:
            compared.append(row)
    unmarked = [row for row in compared if not row.newest.mark]
    if not unmarked:
        return compared
    for row in compared:
        row.exclusion = row.newest.mark  # empty for ordinary runs, which are compared
    return unmarked


def _why_incomplete(run: Run) -> str:
    if not run.is_finished:
        return "not finished"
    if run.problems:
        return "damaged files"
    return ""


def judge_rows(rows: Sequence[Row], direction: str) -> None:
    """Sets the verdict of each row.

    Args:
        rows: those that are compared, all with values.
        direction: whether the highest or the lowest mean is best.
    """
    if not rows:
        return
    best = find_best(rows, direction)
    best.verdict = Verdict(BEST)
    pooled = statistics.pooled_deviation([row.values for row in rows])
    tested: list[Row] = []
    p_values: list[float] = []
    for row in rows:
        if row is best:
            continue
        p_value = _p_value(row.values, best.values, pooled)
        if p_value is None:
            row.verdict = Verdict(_why_unknown(row, best, pooled))
        else:
            tested.append(row)
            p_values.append(p_value)
    pairs = math.comb(len(rows), 2)  # the best row was chosen from the same values
    for row, p_value in zip(tested, statistics.holm(p_values, pairs), strict=True):
        is_pooled = min(len(row.values), len(best.values)) == 1
        if p_value < statistics.ALPHA:
            row.verdict = Verdict(WORSE, p_value, is_pooled)
        else:
            alpha = statistics.ALPHA / pairs  # as for the smallest p value
            seeds = _seeds_needed(row.values, best.values, pooled, alpha)
            row.verdict = Verdict(WITHIN_NOISE, p_value, is_pooled, seeds)


def find_best(rows: Sequence[Row], direction: str) -> Row:
    """The row with the best mean; of equal ones, the first."""
    if direction == HIGHEST:
        return max(rows, key=lambda row: fmean(row.values))
    return min(rows, key=lambda row: fmean(row.values))


def _p_value(
    values: Sequence[float], best: Sequence[float], pooled: tuple[float, int] | None
) -> float | None:
    if len(values) > 1 and len(best) > 1:
        return statistics.welch_test(values, best)
    if pooled is None:
        return None
    return statistics.pooled_test(values, best, *pooled)


def _why_unknown(row: Row, best: Row, pooled: tuple[float, int] | None) -> str:
    if row.mean == best.mean:
        return EQUAL
    if pooled is None:
        return SINGLE_SEED
    return NO_SPREAD


def _seeds_needed(
    values: Sequence[float], best: Sequence[float], pooled: tuple[float, int] | None, alpha: float
) -> int | None:
    spread = _common_deviation(values, best)
    if spread is None and pooled is not None:
        spread, _ = pooled
    if not spread:
        return None
    return statistics.seeds_needed(fmean(values) - fmean(best), spread, alpha)


def _common_deviation(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The root mean square of two standard deviations; None if a sample has a single value."""
    first_deviation = statistics.deviation(first)
    second_deviation = statistics.deviation(second)
    if first_deviation is None or second_deviation is None:
        return None
    return math.hypot(first_deviation, second_deviation) / math.sqrt(2)
