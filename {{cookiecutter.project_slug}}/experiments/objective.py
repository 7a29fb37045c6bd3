"""What a sweep optimizes: the best validation value of `checkpoint.monitor` in a run."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from config.classes import list_classes
from config.schema import Settings
from experiments.metric import HIGHEST, LOWEST, MODES
from experiments.run_files import complete_lines, read_row
from utils.errors import UserError


@dataclass(frozen=True)
class Objective:
    """The monitored metric.

    Attributes:
        metric: `checkpoint.monitor`: METRIC, or SET/METRIC for one of data.validation_sets.
        direction: whether its highest or lowest value is best.
        split: the split in metrics.csv: ``validation``, or SET.
    """

    metric: str
    direction: str
    split: str = "validation"

    @property
    def higher_is_better(self) -> bool:
        """Whether its highest value is best."""
        return self.direction == HIGHEST

    def best(self, values: Sequence[float]) -> float | None:
        """The best of some values; None if none of them is finite."""
        finite_values = [value for value in values if math.isfinite(value)]
        if not finite_values:
            return None
        if self.higher_is_better:
            return max(finite_values)
        return min(finite_values)

    def validations(self, run: Path) -> list[float]:
        """The values of all validations of a run, oldest first; none before the first one.

        A value that is not finite is among them: successive halving counts validations.
        """
        try:
            lines = complete_lines(run / "metrics.csv")
        except FileNotFoundError:
            return []
        name = self.metric.removeprefix(f"{self.split}/")
        values: list[float] = []
        for line in lines:
            row = read_row(line)
            if row is not None and row.split == self.split and row.metric == name:
                values.append(row.value)
        return values


def find_objective(settings: Settings) -> Objective:
    """The monitored metric and its direction, before any trial has run.

    The direction is `checkpoint.mode`, or else what the classes in metrics/ declare.

    Raises:
        UserError: if no class, or not all of them, declare the same direction.
    """
    monitor = settings.checkpoint.monitor
    split = "validation"
    name = monitor
    first, slash, rest = monitor.partition("/")
    if slash and first in settings.data.validation_sets:
        split = first
        name = rest
    mode = settings.checkpoint.mode
    if mode is not None:
        return Objective(monitor, MODES[mode], split)
    if name == "loss":
        return Objective(monitor, LOWEST, split)
    directions = _declared_directions(name)
    if len(directions) != 1:
        raise UserError(
            f"checkpoint.monitor = {monitor!r}: a sweep must know whether higher is better before "
            "it starts; set checkpoint.mode=max or checkpoint.mode=min"
        )
    return Objective(monitor, directions.pop(), split)


def _declared_directions(name: str) -> set[str]:
    """The directions that the classes in metrics/ declare for a metric."""
    directions: set[str] = set()
    for metrics in list_classes("metrics", "torch.nn.Module").classes.values():
        declared = getattr(metrics, "higher_is_better", None)
        if not isinstance(declared, Mapping) or name not in declared:
            continue
        if declared[name]:
            directions.add(HIGHEST)
        else:
            directions.add(LOWEST)
    return directions


def count_validations(settings: Settings) -> int | None:
    """The number of validations of a run; None if it depends on the number of its steps."""
    trainer = settings.trainer
    if trainer.validate_every_steps is not None or trainer.max_steps is not None:
        return None
    return math.ceil(trainer.epochs / trainer.validate_every_epochs)
