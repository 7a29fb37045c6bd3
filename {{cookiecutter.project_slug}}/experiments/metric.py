"""Which metric decides a comparison, and its value at the best step of a run."""

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from experiments.run_files import as_number
from experiments.runs import Run
from utils.errors import UserError

HIGHEST = "highest"
LOWEST = "lowest"
MODES = {"max": HIGHEST, "min": LOWEST}
# Those of the metrics of this project, for runs that have not recorded the direction themselves.
KNOWN_DIRECTIONS = {
    "loss": LOWEST,
    "mse": LOWEST,
    "rmse": LOWEST,
    "mae": LOWEST,
    "r2": HIGHEST,
    "accuracy": HIGHEST,
    "f1": HIGHEST,
}
TRAINING_SPLITS = ("train", "test")  # they do not choose between runs


@dataclass(frozen=True)
class Metric:
    """A metric on validation, at the step of each run that has the best ``checkpoint.monitor``.

    Attributes:
        name: as in ``checkpoint.monitor``: METRIC, or SET/METRIC of a further validation set.
        directions: whether the highest or lowest value of a metric is best, by its name. What is
            unknown is missing.
    """

    name: str
    directions: Mapping[str, str]

    @property
    def direction(self) -> str | None:
        """Whether its highest or lowest value is best; None if that is unknown."""
        return _direction(self.name, self.directions)

    def best_step(self, run: Run) -> int | None:
        """The step of a run with the best `checkpoint.monitor`, or the last one if unknown."""
        recorded = as_number(run.best.get("step"))
        if recorded is not None:
            return int(recorded)
        series = validation_series(run, run.monitor)
        if not series:
            return None
        direction = _direction(run.monitor, self.directions)
        if direction is None:
            return series[-1][0]
        return best_point(series, direction)[0]

    def value_of(self, run: Run) -> float | None:
        """The value of the metric at the best step of a run; None if there is none."""
        if run.best.get("metric") == self.name:
            value = as_number(run.best.get("value"))
            if value is not None:
                return value
        return value_at(run, self.name, self.best_step(run))


def choose_metric(
    runs: Sequence[Run], name: str | None, mode: str | None, data_title: str | None = None
) -> Metric:
    """The metric that decides the comparison of some runs.

    Args:
        runs: the runs, the newest first.
        name: its name; by default the ``checkpoint.monitor`` of most runs.
        mode: ``min`` or ``max``: which value is best, if the runs do not say so.
        data_title: the data set of the runs, if others were left out; for messages.

    Raises:
        UserError: if no run has it.
    """
    directions = find_directions(runs)
    if name is None:
        monitors = Counter(run.monitor for run in runs)
        monitors.pop("", None)  # of runs without readable settings
        name = "loss"
        if monitors:
            name = monitors.most_common(1)[0][0]
    else:
        name = name.removeprefix("validation/")
        _check_available(runs, name, data_title)
    if mode is not None:
        directions[name] = MODES[mode]
    return Metric(name, directions)


def find_directions(runs: Sequence[Run]) -> dict[str, str]:
    """Whether the highest or lowest value is best, by metric, as the runs have recorded it.

    Args:
        runs: the newest first; it decides if they disagree.
    """
    directions: dict[str, str] = {}
    for run in runs:
        for metric, direction in _recorded_directions(run).items():
            directions.setdefault(metric, direction)
    return directions


def disagreeing_runs(runs: Sequence[Run], name: str) -> dict[str, Run]:
    """The first run that has recorded each direction of a metric, by direction."""
    examples: dict[str, Run] = {}
    for run in runs:
        recorded = _recorded_directions(run)
        if name in recorded:
            examples.setdefault(recorded[name], run)
    return examples


def _recorded_directions(run: Run) -> dict[str, str]:
    """The directions in the settings of a run and in its result, which counts more."""
    directions: dict[str, str] = {}
    mode = run.settings.get("checkpoint.mode")
    if isinstance(mode, str) and mode in MODES:
        directions[run.monitor] = MODES[mode]
    direction = run.best.get("direction")
    if direction in (HIGHEST, LOWEST):
        directions[str(run.best.get("metric"))] = str(direction)
    return directions


def validation_series(run: Run, name: str) -> list[tuple[int, float]]:
    """The values of a metric on validation, as pairs of step and value.

    Args:
        run: the run.
        name: METRIC, or SET/METRIC.
    """
    series = run.logged(name, "validation")
    split, slash, metric = name.partition("/")
    if not series and slash:
        series = run.logged(metric, split)
    return series


def value_at(run: Run, name: str, step: int | None) -> float | None:
    """The value of a metric on validation at one step; None if there is none."""
    for logged_step, value in validation_series(run, name):
        if logged_step == step:
            return value
    return None


def best_point(series: Sequence[tuple[int, float]], direction: str) -> tuple[int, float]:
    """The pair of step and value with the best value; of equal ones, the first."""
    if direction == HIGHEST:
        return max(series, key=lambda point: point[1])
    return min(series, key=lambda point: point[1])


def validation_metrics(run: Run) -> list[str]:
    """The names of all metrics that a run has on validation, in the order of the file."""
    names: dict[str, None] = {}
    for row in run.values:
        if row.split == "validation":
            names[row.metric] = None
        elif row.split not in TRAINING_SPLITS:
            names[f"{row.split}/{row.metric}"] = None
    return list(names)


def _direction(name: str, directions: Mapping[str, str]) -> str | None:
    if name in directions:
        return directions[name]
    return KNOWN_DIRECTIONS.get(name.rpartition("/")[2])


def _check_available(runs: Sequence[Run], name: str, data_title: str | None) -> None:
    available: dict[str, None] = {}
    for run in runs:
        if run.best.get("metric") == name:
            return
        for metric in validation_metrics(run):
            available[metric] = None
    if name in available:
        return
    problem = "no run has it on validation"
    if data_title is not None:
        problem = (
            f"no run on {data_title}, the data set of the newest run, has it on validation; name "
            "the runs to compare others"
        )
    if name.startswith("test/"):
        problem = "the test set does not choose between runs"
    similar = difflib.get_close_matches(name, available, n=1)
    if similar:
        problem += f"; did you mean {similar[0]}?"
    raise UserError(f"--metric {name!r}: {problem}\nmetrics of the runs: {', '.join(available)}")
