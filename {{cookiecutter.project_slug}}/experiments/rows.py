"""The rows of a comparison: runs that repeat each other with other seeds or folds."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from experiments import statistics
from experiments.metric import Metric
from experiments.runs import Run, is_repeated

# Settings that say where and how a run is recorded; the results do not depend on them.
NOT_COMPARED = ("name", "device", "data.root", "data.workers", "trainer.profile")
NOT_COMPARED_PREFIXES = ("logger.", "checkpoint.every_", "checkpoint.keep")
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
        p_value: of the difference, corrected for all pairs of rows; None if there is none.
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
        runs: the runs; one that has not finished, or has damaged files, has a row of its own.
        values: the metric of those that have one.
        verdict: how it differs from the best row; None if it is not compared.
        exclusion: why it is not compared; empty if it is.
    """

    runs: Sequence[Run]
    values: Sequence[float]
    verdict: Verdict | None = None
    exclusion: str = ""

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
    def newest(self) -> Run:
        """The newest of its runs."""
        return self.runs[0]

    @property
    def typical(self) -> Run:
        """The run to show: the one closest to the mean, or the newest if one has no value."""
        if self.mean is None or len(self.values) < len(self.runs):
            return self.newest
        distances = [abs(value - self.mean) for value in self.values]
        return self.runs[distances.index(min(distances))]

    @property
    def state(self) -> str:
        """The state of its runs."""
        return self.newest.state

    @property
    def is_best(self) -> bool:
        """Whether it has the best mean."""
        return self.verdict is not None and self.verdict.text == BEST

    def setting(self, key: str) -> Any:
        """The value of a setting."""
        return self.newest.settings.get(key)


def make_rows(runs: Sequence[Run], by: Sequence[str], metric: Metric) -> list[Row]:
    """Groups runs into rows.

    Args:
        runs: the newest first.
        by: settings; runs with the same values of them are in one row, whatever else differs. If
            it is empty, runs are in one row if only their seed or fold differs.
        metric: what is compared.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_group_key(run, by), []).append(run)
    rows = []
    for group in groups.values():
        values = []
        for run in group:
            value = metric.value_of(run)
            if value is not None:
                values.append(value)
        rows.append(Row(group, values))
    return rows


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


def without_superseded(runs: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Separates the runs that a newer one repeats with the same seed.

    The same seed gives the same result, so that a second run says nothing about the noise.

    Args:
        runs: the newest first.

    Returns:
        The runs that are used, also those that are not finished, and those that are not.
    """
    used: list[Run] = []
    superseded: list[Run] = []
    found: set[object] = set()
    for run in runs:
        repetition = (_identity(run), run.repetition)
        if not run.is_complete:
            used.append(run)
        elif repetition in found:
            superseded.append(run)
        else:
            found.add(repetition)
            used.append(run)
    return used, superseded


def differing_keys(runs: Sequence[Run]) -> list[str]:
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


def format_setting(value: Any) -> str:
    """The value of a setting as it is written in a command."""
    if isinstance(value, dict) and set(value) == {"name"}:  # as data.sampler=shuffled
        value = value["name"]
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
