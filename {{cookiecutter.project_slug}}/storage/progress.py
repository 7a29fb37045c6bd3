"""How far a run has come."""

import copy
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

OF_THE_BEST = ("best", "best_step", "best_values", "validations_without_improvement")


@dataclass
class Progress:
    """Counters of a training run.

    Attributes:
        step: optimizer steps that have been made.
        validated_step: the step at which the last validation ended.
        criterion: what the best value is the best of: metric, direction and data.
        best: the best value of `checkpoint.monitor`; NaN before the first finite one.
        best_step: the step of that value; 0 before the first finite one.
        best_values: the best values by step, the best first; `checkpoint.keep_best` of them.
        validations_without_improvement: validations since that value.
        skipped_steps: steps that were undone because of a non-finite value.
        stop_reason: why the trainer has ended the run before its last step, or empty.
    """

    step: int = 0
    validated_step: int = 0
    criterion: str = ""
    best: float = math.nan
    best_step: int = 0
    best_values: dict[int, float] = field(default_factory=dict)
    validations_without_improvement: int = 0
    skipped_steps: int = 0
    stop_reason: str = ""

    def __post_init__(self) -> None:
        """Keeps what `undo_improvement` returns to, which is not saved."""
        self._before_improvement: dict[str, Any] = {}

    def compare_by(self, criterion: str) -> None:
        """Forgets the best value and the patience if they are of another criterion."""
        if criterion != self.criterion:
            self.criterion = criterion
            self.forget_best()

    def forget_best(self) -> None:
        """Lets the next validation be the best one."""
        self.best = math.nan
        self.best_step = 0
        self.best_values = {}
        self.validations_without_improvement = 0

    def record_validation(self, value: float, higher_is_better: bool, keep_best: int) -> bool:
        """Records the monitored value of a validation; returns whether it is an improvement.

        Only a finite value that is better than the best one is an improvement. This alone decides
        on ``best.pt``, on the patience of early stopping and on the wording of the log.

        Args:
            value: the monitored value.
            higher_is_better: whether higher values are better.
            keep_best: the number of values in `best_values`; of equal ones, the first are kept.
        """
        self.validated_step = self.step
        is_improvement = self._is_improvement(value, higher_is_better)
        if is_improvement:
            self._before_improvement = {name: getattr(self, name) for name in OF_THE_BEST}
        if math.isfinite(value):
            values = {**self.best_values, self.step: value}
            steps = sorted(values, key=values.__getitem__, reverse=higher_is_better)
            self.best_values = {step: values[step] for step in steps[:keep_best]}
        if is_improvement:
            self.best = value
            self.best_step = self.step
            self.validations_without_improvement = 0
        else:
            self.validations_without_improvement += 1
        return is_improvement

    def undo_improvement(self) -> None:
        """Takes the last improvement back, because its checkpoint could not be written.

        Otherwise, ``best.pt`` would be worse than the best value, and never be replaced by a
        better one that is not as good as the lost one.
        """
        for name, value in self._before_improvement.items():
            setattr(self, name, value)

    def _is_improvement(self, value: float, higher_is_better: bool) -> bool:
        if not math.isfinite(value):
            return False
        if math.isnan(self.best):
            return True
        if higher_is_better:
            return value > self.best
        return value < self.best

    def state_dict(self) -> dict[str, Any]:
        """All counters by name."""
        return asdict(self)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the counters."""
        for counter in fields(self):
            if counter.name == "best_values" and counter.name not in state:
                continue  # the run began before there was `checkpoint.keep_best`
            setattr(self, counter.name, copy.copy(state[counter.name]))
