"""Compares runs: rows of repetitions, what differs between them, and which differences are real."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from experiments.comparability import find_warnings
from experiments.metric import HIGHEST, Metric, choose_metric, disagreeing_runs
from experiments.names import list_runs, short_names
from experiments.rows import Row, differing_keys, format_setting, make_rows, without_superseded
from experiments.runs import Run
from experiments.verdicts import exclude_rows, judge_rows
from utils.errors import UserError

MAX_LISTED_KEYS = 8


@dataclass
class Comparison:
    """Some runs in rows.

    Attributes:
        runs: all of them.
        rows: the newest first, until `sort_by_value` sorts them.
        metric: what decides which row is best.
        keys: the settings in which rows differ.
        names: what each run is called, by its folder.
        data_title: the data set that all compared runs use; None if that does not matter.
        warnings: why runs can hardly be compared.
    """

    runs: Sequence[Run]
    rows: list[Row]
    metric: Metric
    keys: Sequence[str]
    names: Mapping[Path, str]
    data_title: str | None = None
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
        """Sorts the rows: the best first, then those that are not compared, without value last.

        They stay as they are if it is unknown whether higher values are better.
        """
        if self.metric.direction is None:
            return
        highest_first = self.metric.direction == HIGHEST
        others = [row for row in self.rows if row.verdict is None and row.values]
        without_value = [row for row in self.rows if not row.values]
        self.rows = [
            *sorted(self.compared, key=_mean, reverse=highest_first),
            *sorted(others, key=_mean, reverse=highest_first),
            *without_value,
        ]

    def label(self, row: Row) -> str:
        """What distinguishes a row from those that it is compared with, or else its name."""
        return self._labels[row.newest.folder]

    @cached_property
    def _labels(self) -> dict[Path, str]:
        """The labels of all rows, by the folder of their newest run."""
        labels = self._distinguish(self.rows)
        labels.update(self._distinguish(self.compared))
        return labels

    def _distinguish(self, rows: Sequence[Row]) -> dict[Path, str]:
        """A label for each row: the settings in which the rows differ, if no other has the same."""
        keys = []
        for key in self.keys:
            if len({format_setting(row.setting(key)) for row in rows}) > 1:
                keys.append(key)
        settings = []
        for row in rows:
            settings.append(", ".join(f"{key}={format_setting(row.setting(key))}" for key in keys))
        counts = Counter(settings)
        labels = {}
        for row, text in zip(rows, settings, strict=True):
            if not keys or counts[text] > 1:
                text = self.row_name(row)
            labels[row.newest.folder] = text
        return labels

    def row_name(self, row: Row) -> str:
        """The name of a row: that of the folder that contains just its runs, or of the newest."""
        name = self.names[row.newest.folder]
        if len(row.runs) == 1:
            return name
        folder = row.newest.folder.parent
        in_row = {run.folder for run in row.runs}
        in_folder = {run.folder for run in self.runs if run.folder.parent == folder}
        parent, _, _ = name.rpartition("/")
        if parent and in_row == in_folder:
            return parent
        return f"{name} +{len(row.runs) - 1}"


def _mean(row: Row) -> float:
    return row.mean or 0.0  # for the type checker: all sorted rows have values


def compare_runs(
    runs: Sequence[Run],
    by: Sequence[str] = (),
    metric_name: str | None = None,
    mode: str | None = None,
    same_data: bool = False,
) -> Comparison:
    """Compares runs.

    Args:
        runs: the newest first.
        by: settings; runs with the same values of them are in one row, whatever else differs. By
            default, runs are in one row if only their seed or fold differs.
        metric_name: what decides, see `choose_metric`.
        mode: ``min`` or ``max``, if the runs do not say which value is best.
        same_data: whether only runs on the data set of the newest one are compared.

    Raises:
        UserError: if no run has the metric or a setting of `by`.
    """
    _check_keys(runs, by)
    data_title = None
    candidates = runs
    if same_data:
        # First of all: runs on other data may be more, and have another metric.
        data_title = newest_data_title(runs)
        candidates = [run for run in runs if run.data_title == data_title]
    metric = choose_metric(candidates, metric_name, mode, data_title)
    used, superseded = without_superseded(runs)
    rows = make_rows(used, by, metric)
    keys = by or differing_keys(runs)
    comparison = Comparison(runs, rows, metric, keys, short_names(runs), data_title)
    compared = exclude_rows(rows, metric.name, data_title)
    if metric.direction is None:
        comparison.warnings.append(
            f"no run says whether higher or lower {metric.name} is better; add --mode max or min"
        )
    else:
        judge_rows(compared, metric.direction)
    if mode is None:
        comparison.warnings += _disagreement(candidates, metric, comparison.names)
    comparison.warnings += find_warnings(_runs_of(compared or rows), comparison.names)
    if superseded:
        listed = list_runs(superseded, comparison.names)
        comparison.warnings.append(
            f"not used, as a newer run has the same settings, code and seed: {listed}"
        )
    if by:
        comparison.warnings += _mixed_settings(rows, by)
    return comparison


def newest_data_title(runs: Sequence[Run]) -> str | None:
    """The data set of the newest run that has recorded it; None if none has."""
    for run in runs:
        if run.data_title is not None:
            return run.data_title
    return None


def _disagreement(runs: Sequence[Run], metric: Metric, names: Mapping[Path, str]) -> list[str]:
    """A warning if runs have recorded different directions of the metric."""
    examples = disagreeing_runs(runs, metric.name)
    if len(examples) < 2:
        return []
    parts = [f"{direction} in {names[run.folder]}" for direction, run in examples.items()]
    return [
        f"the best {metric.name} is the {', the '.join(parts)}; the newest of these runs decides, "
        "unless you add --mode max or min"
    ]


def _runs_of(rows: Sequence[Row]) -> list[Run]:
    return [run for row in rows for run in row.runs]


def _check_keys(runs: Sequence[Run], by: Sequence[str]) -> None:
    """Raises a UserError if no run has one of the settings."""
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


def _mixed_settings(rows: Sequence[Row], by: Sequence[str]) -> list[str]:
    """A warning if runs in one row differ in other settings than the seed."""
    mixed: dict[str, None] = {}
    for row in rows:
        mixed.update(dict.fromkeys(differing_keys(row.runs)))
    for key in by:
        mixed.pop(key, None)
    if not mixed:
        return []
    keys = list(mixed)
    text = ", ".join(keys[:MAX_LISTED_KEYS])
    if len(keys) > MAX_LISTED_KEYS:
        text += f" and {len(keys) - MAX_LISTED_KEYS} more"
    return [f"--by: runs of one row also differ in {text}"]
