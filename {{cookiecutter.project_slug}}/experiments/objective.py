"""What a sweep optimizes: the best validation value of `checkpoint.monitor` in a run."""

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.classes import list_classes
from config.schema import Settings
from utils.errors import UserError

CSV_COLUMNS = 6  # of metrics.csv


@dataclass(frozen=True)
class Objective:
    """The monitored metric.

    Attributes:
        metric: `checkpoint.monitor`: METRIC, or SET/METRIC for one of data.validation_sets.
        higher_is_better: the direction.
    """

    metric: str
    higher_is_better: bool

    def best(self, values: Sequence[float]) -> float | None:
        """The best of some values; None if none of them is finite."""
        finite_values = [value for value in values if math.isfinite(value)]
        if not finite_values:
            return None
        if self.higher_is_better:
            return max(finite_values)
        return min(finite_values)

    def validations(self, run: Path) -> list[float]:
        """The values of all validations of a run, oldest first; none before the first one."""
        split, _, name = self.metric.rpartition("/")
        values: list[float] = []
        try:
            content = (run / "metrics.csv").read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        for row in csv.reader(content.splitlines()):
            # A process that was killed may have written half a row.
            if len(row) == CSV_COLUMNS and row[1] == (split or "validation") and row[4] == name:
                values.append(_number(row[5]))
        return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def find_objective(settings: Settings) -> Objective:
    """The monitored metric and its direction, before any trial has run.

    The direction is `checkpoint.mode`, or else what the classes in metrics/ declare.

    Raises:
        UserError: if no class, or not all of them, declare the same direction.
    """
    monitor = settings.checkpoint.monitor
    mode = settings.checkpoint.mode
    if mode is not None:
        return Objective(monitor, mode == "max")
    name = monitor.rpartition("/")[2]
    if name == "loss":
        return Objective(monitor, higher_is_better=False)
    directions = set()
    for metrics in list_classes("metrics", "torch.nn.Module").classes.values():
        declared = getattr(metrics, "higher_is_better", None)
        if isinstance(declared, Mapping) and name in declared:
            directions.add(declared[name])
    if len(directions) != 1:
        raise UserError(
            f"checkpoint.monitor = {monitor!r}: a sweep must know whether higher is better before "
            "it starts; set checkpoint.mode=max or checkpoint.mode=min"
        )
    return Objective(monitor, higher_is_better=directions.pop())


def count_validations(settings: Settings) -> int | None:
    """The number of validations of a run; None if it depends on the number of its steps."""
    trainer = settings.trainer
    if trainer.validate_every_steps is not None or trainer.max_steps is not None:
        return None
    return math.ceil(trainer.epochs / trainer.validate_every_epochs)
