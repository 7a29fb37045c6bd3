"""The progress line of a sweep."""

import time
from typing import Any

from tqdm import tqdm

from experiments.search_space import describe_values
from experiments.study import ClaimedTrial, SweepStudy
from experiments.sweep_plan import SweepPlan

REFRESH_SECONDS = 1.0


class SweepProgress:
    """Shows how many trials have ended: a progress bar, or a line per trial without a terminal.

    Args:
        plan: the sweep.
        study: its trials.
    """

    def __init__(self, plan: SweepPlan, study: SweepStudy) -> None:
        self.plan = plan
        self.study = study
        self._next_refresh_time = 0.0
        self._has_shown_waiting = False
        self._has_shown_left_behind = False

    def __enter__(self) -> "SweepProgress":
        self._bar: tqdm[Any] = tqdm(
            total=self.plan.trial_count,
            desc=f"sweep {self.plan.options.name}",
            unit="trial",
            leave=False,
            disable=None,  # without a terminal
        )
        self._update()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def refresh(self) -> None:
        """Updates the time in the bar once a second."""
        if not self._bar.disable and time.monotonic() >= self._next_refresh_time:
            self._bar.refresh()
            self._next_refresh_time = time.monotonic() + REFRESH_SECONDS

    def show_end(self, claimed: ClaimedTrial, value: float | None, error: str) -> None:
        """Shows that a trial has ended or reached its rung.

        Args:
            claimed: the trial. It may have been given to another worker meanwhile.
            value: its value; None if it has failed.
            error: why it has failed; empty if it has not.
        """
        ended = self._update()
        if not self._bar.disable:
            return
        result = f"failed: {error}"
        if value is not None:
            result = f"{self.study.objective.metric} {value:.6g}"
            if claimed.rung is not None:
                result += f" after {claimed.rung} validations"
        values = describe_values(claimed.values)
        total = self.plan.trial_count or "?"
        print(f"trial {claimed.index:04d}: {result}  ({values}; {ended} of {total})", flush=True)

    def show_waiting(self, has_own_trials: bool) -> None:
        """Says once that this worker has nothing to do while others run the last trials."""
        if has_own_trials or self._has_shown_waiting or self.study.is_complete():
            return
        self._has_shown_waiting = True
        tqdm.write("waiting for the trials of other workers, in case one of them dies")

    def show_left_behind(self, count: int) -> None:
        """Says once that runs of a killed sweep still train, and use the slots of this one."""
        if self._has_shown_left_behind:
            return
        self._has_shown_left_behind = True
        tqdm.write(
            f"waiting: runs of a killed sweep that still train: {count}; they count for --jobs"
        )

    def _update(self) -> int:
        """Updates the numbers of the bar; returns the number of trials that have ended."""
        ended = 0
        for trial in self.study.trials().values():
            if trial.state.is_finished():
                ended += 1
        facts = []
        best = self.study.best_trial()
        if best is not None:
            index, value = best
            facts.append(f"best {self.study.objective.metric} {value:.4g} ({index:04d})")
        failed = len(self.study.failed_trials())
        if failed > 0:
            facts.append(f"{failed} failed")
        self._bar.n = ended
        self._bar.set_postfix_str(", ".join(facts))
        return ended
