"""Compares runs: rows of repetitions, what differs between them, and which differences are real."""

import difflib
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from experiments import statistics
from experiments.comparability import find_warnings
from experiments.metric import HIGHEST, Metric, choose_metric
from experiments.names import list_runs, short_names
from experiments.runs import Run, is_repeated
from utils.errors import UserError

# Settings that say where and how a run is recorded; the results do not depend on them.
NOT_COMPARED = ("name", "device", "data.root", "data.workers", "trainer.profile")
NOT_COMPARED_PREFIXES = ("logger.", "checkpoint.every_", "checkpoint.keep")
MAX_LISTED_KEYS = 8
BEST = "best"
WORSE = "worse"
WITHIN_NOISE = "within noise"
SINGLE_SEED = "single seed"
NO_SPREAD = "no spread"
EQUAL = "equal"


@dataclass(frozen=True)
class Verdict:
    """How a row differs from the best one.

    Attributes:
        text: best, worse, within noise, or why there is no answer.
        p_value: of the difference, corrected for the number of rows; None if there is none.
        is_pooled: whether the spread is that of several rows, because one has a single seed.
        seeds: how many seeds a row would need to tell; None if the answer is clear or unknown.
    """

    text: str
    p_value: float | None = None
    is_pooled: bool = False
    seeds: int | None = None


@dataclass
class Row:
    """Runs that differ only in their seed or fold, the newest first.

    Attributes:
        runs: the runs; a run that has not finished has a row of its own.
        values: the metric of those that have one.
        verdict: how it differs from the best row; None if it is not compared.
    """

    runs: Sequence[Run]
    values: Sequence[float]
    verdict: Verdict | None = None

    @property
    def mean(self) -> float | None:
        """The mean over the repetitions."""
        if not self.values:
            return None
        return fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """The standard deviation over the repetitions."""
        return statistics.deviation(self.values)

    @property
    def state(self) -> str:
        """The state of its runs."""
        return self.runs[0].state

    @property
    def is_best(self) -> bool:
        """Whether it has the best mean."""
        return self.verdict is not None and self.verdict.text == BEST

    def setting(self, key: str) -> Any:
        """The value of a setting."""
        return self.runs[0].settings.get(key)


@dataclass
class Comparison:
    """Some runs in rows.

    Attributes:
        runs: all of them.
        rows: the newest first.
        metric: what decides which row is best.
        keys: the settings in which rows differ.
        names: what each run is called, by its folder.
        warnings: why runs can hardly be compared.
    """

    runs: Sequence[Run]
    rows: list[Row]
    metric: Metric
    keys: Sequence[str]
    names: Mapping[Path, str]
    warnings: list[str] = field(default_factory=list)

    @property
    def best(self) -> Row | None:
        """The row with the best mean; None if no runs are compared."""
        for row in self.rows:
            if row.is_best:
                return row
        return None

    @property
    def compared(self) -> list[Row]:
        """The rows that are compared with the best one, and that row itself."""
        return [row for row in self.rows if row.verdict is not None]

    def sort_by_value(self) -> None:
        """Sorts the rows: the best first, those that are not compared last."""
        highest_first = self.metric.direction == HIGHEST

        def key(row: Row) -> tuple[bool, bool, float]:
            value = row.mean
            if value is None:
                return True, True, 0.0
            if highest_first:
                value = -value
            return row.verdict is None, False, value

        self.rows.sort(key=key)

    def label(self, row: Row) -> str:
        """What distinguishes a row from those that it is compared with, or else its name."""
        return self._labels[row.runs[0].folder]

    @cached_property
    def _labels(self) -> dict[Path, str]:
        """The labels of all rows, by the folder of their newest run."""
        return self._labels_of(self.rows) | self._labels_of(self.compared)

    def _labels_of(self, rows: Sequence[Row]) -> dict[Path, str]:
        columns = []
        for key in self.keys:
            column = [f"{key}={format_setting(row.setting(key))}" for row in rows]
            if len(set(column)) > 1:
                columns.append(column)
        settings = list(map(", ".join, zip(*columns, strict=True)))
        counts = Counter(settings)
        labels = {}
        for index, row in enumerate(rows):
            label = self.row_name(row)
            if columns and counts[settings[index]] == 1:
                label = settings[index]
            labels[row.runs[0].folder] = label
        return labels

    def row_name(self, row: Row) -> str:
        """The name of a row: that of the folder of its runs, or of the newest one."""
        newest = self.names[row.runs[0].folder]
        if len(row.runs) == 1:
            return newest
        folder = row.runs[0].folder.parent
        in_folder = [run for run in self.runs if run.folder.parent == folder]
        parent, slash, _ = newest.rpartition("/")
        if slash and {run.folder for run in in_folder} == {run.folder for run in row.runs}:
            return parent
        return f"{newest} +{len(row.runs) - 1}"


def compare_runs(
    runs: Sequence[Run],
    by: Sequence[str] = (),
    metric_name: str | None = None,
    mode: str | None = None,
) -> Comparison:
    """Compares runs.

    Args:
        runs: the newest first.
        by: settings; runs with the same values of them are in one row, whatever else differs. By
            default, runs are in one row if only their seed or fold differs.
        metric_name: what decides, see `choose_metric`.
        mode: ``min`` or ``max``, if the runs do not say which value is best.

    Raises:
        UserError: if no run has the metric or a setting of `by`.
    """
    _check_keys(runs, by)
    metric = choose_metric(runs, metric_name, mode)
    used, superseded = _without_repeated(runs)
    groups: dict[str, list[Run]] = {}
    for run in used:
        groups.setdefault(_group_key(run, by), []).append(run)
    rows = []
    for group in groups.values():
        rows.append(Row(group, _values(group, metric)))
    keys = by or _differing_keys(runs)
    comparison = Comparison(runs, rows, metric, keys, short_names(runs))
    compared = _comparable_rows(rows)
    if metric.direction is None:
        compared = []
        comparison.warnings.append(
            f"no run says whether higher or lower {metric.name} is better; add --mode max or min"
        )
    _compare_with_best(compared, metric)
    compared_runs: list[Run] = []
    for row in compared or rows:
        compared_runs += row.runs
    comparison.warnings += find_warnings(compared_runs, comparison.names)
    if superseded:
        listed = list_runs(superseded, comparison.names)
        comparison.warnings.append(
            f"not used, as a newer run has the same settings, code and seed: {listed}"
        )
    if by:
        comparison.warnings += _mixed_settings(rows, by)
    return comparison


def format_setting(value: Any) -> str:
    """The value of a setting as it is written in a command."""
    if isinstance(value, dict) and set(value) == {"name"}:  # as data.sampler=shuffled
        value = value["name"]
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _check_keys(runs: Sequence[Run], by: Sequence[str]) -> None:
    known: dict[str, None] = {}
    for run in runs:
        known.update(dict.fromkeys(run.settings))
    for key in by:
        if key in known:
            continue
        message = f"--by {key!r}: no run has this setting"
        similar = difflib.get_close_matches(key, known, n=1)
        if similar:
            message += f"; did you mean {similar[0]}?"
        raise UserError(message)


def _group_key(run: Run, by: Sequence[str]) -> str:
    """The same text for all runs of one row."""
    if not run.is_complete:
        return str(run.folder)
    if by:
        return json.dumps([run.mark, *map(run.settings.get, by)], default=str)
    return _identity(run)


def _identity(run: Run) -> str:
    """What the result of a run depends on, besides its seed."""
    settings = {}
    for key, value in run.settings.items():
        if _is_compared(key) and value is not None:
            settings[key] = value
    return json.dumps([settings, run.code, run.patch_hash], sort_keys=True, default=str)


def _is_compared(key: str) -> bool:
    is_record = key in NOT_COMPARED or key.startswith(NOT_COMPARED_PREFIXES)
    return not is_record and not is_repeated(key)


def _without_repeated(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """The runs without those that a newer one repeats with the same seed, and these.

    The same seed gives the same result, so that a second run says nothing about the noise.
    """
    used: dict[object, Run] = {}
    superseded = []
    for run in runs:
        key: object = run.folder
        if run.is_complete:
            key = (_identity(run), run.repetition)
        if key in used:
            superseded.append(run)
        else:
            used[key] = run
    return list(used.values()), superseded


def _values(runs: Sequence[Run], metric: Metric) -> list[float]:
    values = []
    for run in runs:
        value = metric.value_of(run)
        if value is not None:
            values.append(value)
    return values


def _differing_keys(runs: Sequence[Run]) -> list[str]:
    """The settings that differ between runs.

    One that a run lacks does not count: another setting says why, such as the name of a class.
    """
    values: dict[str, list[Any]] = {}
    for run in runs:
        for key, value in run.settings.items():
            values.setdefault(key, []).append(value)
    differing = []
    for key, found in values.items():
        if _is_compared(key) and any(value != found[0] for value in found):
            differing.append(key)
    return differing


def _comparable_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of complete runs; those on a part of the data only if all are."""
    complete = []
    for row in rows:
        if row.values and row.runs[0].is_complete:
            complete.append(row)
    unmarked = [row for row in complete if not row.runs[0].mark]
    return unmarked or complete


def _compare_with_best(rows: Sequence[Row], metric: Metric) -> None:
    """Sets the verdict of each row."""
    if not rows:
        return
    if metric.direction == HIGHEST:
        best = max(rows, key=lambda row: fmean(row.values))
    else:
        best = min(rows, key=lambda row: fmean(row.values))
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
    for row, p_value in zip(tested, statistics.holm(p_values), strict=True):
        is_pooled = min(len(row.values), len(best.values)) == 1
        if p_value < statistics.ALPHA:
            row.verdict = Verdict(WORSE, p_value, is_pooled)
        else:
            seeds = _seeds_needed(row.values, best.values, pooled)
            row.verdict = Verdict(WITHIN_NOISE, p_value, is_pooled, seeds)


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
    values: Sequence[float], best: Sequence[float], pooled: tuple[float, int] | None
) -> int | None:
    own = statistics.deviation(values)
    of_best = statistics.deviation(best)
    if own is not None and of_best is not None:
        spread = math.hypot(own, of_best) / math.sqrt(2)
    elif pooled is not None:
        spread, _ = pooled
    else:
        return None
    if spread == 0:
        return None
    return statistics.seeds_needed(fmean(values) - fmean(best), spread)


def _mixed_settings(rows: Sequence[Row], by: Sequence[str]) -> list[str]:
    """A warning if runs in one row differ in other settings than the seed."""
    mixed: dict[str, None] = {}
    for row in rows:
        mixed.update(dict.fromkeys(_differing_keys(row.runs)))
    for key in by:
        mixed.pop(key, None)
    if not mixed:
        return []
    keys = list(mixed)
    text = ", ".join(keys[:MAX_LISTED_KEYS])
    if len(keys) > MAX_LISTED_KEYS:
        text += f" and {len(keys) - MAX_LISTED_KEYS} more"
    return [f"--by: runs of one row also differ in {text}"]
