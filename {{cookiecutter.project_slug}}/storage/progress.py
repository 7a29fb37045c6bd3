"""How far a run has come."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass
class Progress:
    """Counters of a training run.

    Attributes:
        step: optimizer steps that have been made.
        validated_step: the step at which the last validation ended.
        best: the best value of `checkpoint.monitor`; NaN before the first finite one.
        validations_without_improvement: validations since that value.
        skipped_steps: steps that were undone because of a non-finite value.
        stop_reason: why the trainer has ended the run before its last step, or empty.
    """

    step: int = 0
    validated_step: int = 0
    best: float = math.nan
    validations_without_improvement: int = 0
    skipped_steps: int = 0
    stop_reason: str = ""

    def record_validation(self, value: float, higher_is_better: bool) -> bool:
        """Records the monitored value of a validation; returns whether it equals the best one.

        A value that equals the best one is no improvement, but its checkpoint becomes the best.
        """
        self.validated_step = self.step
        if self._is_improvement(value, higher_is_better):
            self.best = value
            self.validations_without_improvement = 0
        else:
            self.validations_without_improvement += 1
        return value == self.best

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
        for field in fields(self):
            setattr(self, field.name, state[field.name])
