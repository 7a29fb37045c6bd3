"""Successive halving: which trials train on, and how far."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Candidate:
    """A trial, and how far it has come.

    Attributes:
        index: the number of the trial.
        values: its value after each rung that it has reached, by the number of validations.
        final: its value at the end of training; None before.
        has_failed: whether it has failed.
    """

    index: int
    values: Mapping[int, float] = field(default_factory=dict)
    final: float | None = None
    has_failed: bool = False

    @property
    def has_result(self) -> bool:
        """Whether it has trained to its end or has failed; an eliminated trial has not."""
        return self.final is not None or self.has_failed

    def value_at(self, rung: int) -> float | None:
        """The value after a rung; that of the whole run if it has ended before."""
        return self.values.get(rung, self.final)


@dataclass(frozen=True)
class Stage:
    """What is to be done now.

    Attributes:
        rung: the number of validations up to which trials train; None for the whole run.
        to_train: the trials that have not come so far, in the order in which to train them.
        eliminated: the trials that end at an earlier rung.
    """

    rung: int | None
    to_train: list[int]
    eliminated: list[int]


def find_stage(
    candidates: Sequence[Candidate], factor: int, higher_is_better: bool, validations: int | None
) -> Stage:
    """The stage of a sweep, which does not depend on the order in which trials have run.

    Nothing is stored: each call goes through all rungs again, so that every worker finds the same.

    The rungs are 1, `factor`, `factor`² ... validations. After each of them, the best
    1/`factor` of the trials remain, at least one. A trial that fails counts as the worst.

    Args:
        candidates: all trials of the sweep, also those that have not started.
        factor: 3 lets a third of the trials train on.
        higher_is_better: the direction of the values.
        validations: the number of validations of a whole run; None if it is unknown.
    """
    eliminated: list[int] = []
    remaining = list(candidates)
    rung = 1
    while True:
        is_last_rung = validations is not None and rung >= validations
        all_have_results = all(candidate.has_result for candidate in remaining)
        if len(remaining) == 1 or is_last_rung or all_have_results:
            to_train = [candidate.index for candidate in remaining if not candidate.has_result]
            return Stage(None, to_train, eliminated)
        to_train = []
        for candidate in remaining:
            if candidate.value_at(rung) is None and not candidate.has_failed:
                to_train.append(candidate.index)
        if to_train:
            return Stage(rung, to_train, eliminated)
        ranked = _ranked(remaining, rung, higher_is_better)
        kept = max(1, len(ranked) // factor)
        for candidate in ranked[kept:]:
            if not candidate.has_result:
                eliminated.append(candidate.index)
        remaining = ranked[:kept]
        rung *= factor


def _ranked(candidates: Sequence[Candidate], rung: int, higher_is_better: bool) -> list[Candidate]:
    """The trials, the best first; of equal values, the first trial."""

    def cost(candidate: Candidate) -> tuple[bool, float, int]:
        value = candidate.value_at(rung)
        if value is None:
            return True, 0.0, candidate.index
        if higher_is_better:
            value = -value
        return False, value, candidate.index

    return sorted(candidates, key=cost)
