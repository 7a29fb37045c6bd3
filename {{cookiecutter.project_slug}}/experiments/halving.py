"""Successive halving: which trials train on, and how far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Standing:
    """How far a trial has come.

    Attributes:
        index: the trial.
        values: its value after each rung that it has reached, by the number of validations.
        final: its value at the end of training; None before.
        failed: whether it has failed.
    """

    index: int
    values: Mapping[int, float] = field(default_factory=dict)
    final: float | None = None
    failed: bool = False

    def value_at(self, rung: int) -> float | None:
        """The value after a rung; that of the whole run if it has ended before."""
        return self.values.get(rung, self.final)


@dataclass(frozen=True)
class Stage:
    """What is to be done now.

    Attributes:
        rung: the number of validations up to which trials train; None for the whole run.
        open: the trials that have not come so far.
        eliminated: the trials that end at an earlier rung.
    """

    rung: int | None
    open: list[int]
    eliminated: list[int]


def find_stage(
    standings: Sequence[Standing], factor: int, higher_is_better: bool, validations: int | None
) -> Stage:
    """The stage of a sweep, which does not depend on the order in which trials have run.

    The rungs are 1, `factor`, `factor`² ... validations. After each of them, the best
    1/`factor` of the trials remain, at least one. A trial that fails counts as the worst.

    Args:
        standings: all trials of the sweep, also those that have not started.
        factor: 3 lets a third of the trials train on.
        higher_is_better: the direction of the values.
        validations: the number of validations of a whole run; None if it is unknown.
    """
    eliminated: list[int] = []
    remaining = list(standings)
    rung = 1
    while True:
        is_last = len(remaining) == 1 or (validations is not None and rung >= validations)
        if is_last:
            unfinished = [s.index for s in remaining if s.final is None and not s.failed]
            return Stage(None, unfinished, eliminated)
        missing = [s.index for s in remaining if s.value_at(rung) is None and not s.failed]
        if missing:
            return Stage(rung, missing, eliminated)
        if all(s.final is not None or s.failed for s in remaining):
            return Stage(None, [], eliminated)
        ranked = _ranked(remaining, rung, higher_is_better)
        kept = max(1, len(ranked) // factor)
        for standing in ranked[kept:]:
            if standing.final is None and not standing.failed:
                eliminated.append(standing.index)
        remaining = ranked[:kept]
        rung *= factor


def _ranked(standings: Sequence[Standing], rung: int, higher_is_better: bool) -> list[Standing]:
    """The trials, the best first; of equal values, the first trial."""

    def cost(standing: Standing) -> tuple[bool, float, int]:
        value = standing.value_at(rung)
        if value is None:
            return True, 0.0, standing.index
        if higher_is_better:
            value = -value
        return False, value, standing.index

    return sorted(standings, key=cost)
