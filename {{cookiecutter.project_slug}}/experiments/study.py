"""The study of a sweep in Optuna: which trial a worker runs next, and what came of it.

The journal, or a database, assigns the trials to the workers of all machines. A worker that dies
releases its trial:

- In the journal, the trial is still running, but nobody holds the lock in the sweep's folder any
  more, which the system releases.
- In a database, Optuna's heartbeat of the trial ends, and Optuna adds the same trial again.
"""

import math
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.halving import Candidate, find_stage
from experiments.objective import Objective
from experiments.sampling import (
    INDEX,
    SeededSampler,
    from_label,
    suggest,
    to_distribution,
    to_label,
)
from experiments.study_storage import open_storage
from experiments.sweep_plan import SweepPlan
from utils.errors import UserError
from utils.locks import is_locked

JOURNAL = "journal.log"
LOCKS = ".locks"
ERROR = "error"  # attribute of a trial in Optuna: why it has failed
SWEEP = "sweep"  # attribute of the study: the identity of the sweep
REMOVED = "removed"  # attribute of the study: the failed trials that were removed


@dataclass
class ClaimedTrial:
    """A trial that this worker runs; no other worker does until it is released.

    Attributes:
        index: its number in the sweep.
        values: its values of the settings that are searched.
        rung: the number of validations up to which it is to train; None for the whole run.
        trial: the trial in Optuna.
        lock: the lock that this process holds.
    """

    index: int
    values: dict[str, Any]
    rung: int | None
    trial: Trial
    lock: filelock.BaseFileLock


class SweepStudy:
    """The trials of a sweep.

    Args:
        plan: the sweep.
        objective: what is optimized.
        validations: the number of validations of a run; None if it is unknown.
    """

    def __init__(
        self, plan: SweepPlan, objective: Objective, validations: int | None = None
    ) -> None:
        self.plan = plan
        self.objective = objective
        self.validations = validations
        (plan.folder / LOCKS).mkdir(parents=True, exist_ok=True)
        self.lock = filelock.FileLock(plan.folder / LOCKS / "study")
        with self.lock:
            self.storage = open_storage(plan.options.storage, plan.folder / JOURNAL, self.lock)
            self.study = self._open_study()

    def _open_study(self) -> Study:
        direction = StudyDirection.MINIMIZE
        if self.objective.higher_is_better:
            direction = StudyDirection.MAXIMIZE
        distributions: dict[str, BaseDistribution] = {}
        for key, axis in self.plan.space.ranges.items():
            distributions[key] = to_distribution(axis)
        is_tpe = self.plan.options.method == "tpe"
        study = optuna.create_study(
            study_name=str(self.plan.options.name),
            storage=self.storage,
            sampler=SeededSampler(is_tpe, self.plan.options.sampler_seed, distributions),
            pruner=optuna.pruners.NopPruner(),
            direction=direction,
            load_if_exists=True,
        )
        if study.metric_names is None:
            study.set_metric_names([self.objective.metric])
        identity = study.user_attrs.get(SWEEP)
        if identity is None:
            study.set_user_attr(SWEEP, self.plan.identity)
        elif identity != self.plan.identity:
            raise UserError(
                f"--storage contains another sweep {self.plan.options.name}: with other ranges, "
                "in another order, with other settings, or with --halving and other --trials; use "
                "another --name"
            )
        return study

    # Trials

    def trials(self) -> dict[int, FrozenTrial]:
        """The trials by index.

        Trials that Optuna or the user has replaced by others of the same index are left out.
        """
        removed = self.study.user_attrs.get(REMOVED, [])
        found: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            lost_its_worker = trial.state == TrialState.FAIL and ERROR not in trial.user_attrs
            is_foreign = INDEX not in trial.user_attrs  # as of a script of the user
            if lost_its_worker or is_foreign or trial.number in removed:
                continue
            found.setdefault(trial.user_attrs[INDEX], trial)
        return dict(sorted(found.items()))

    def failed_trials(self) -> dict[int, FrozenTrial]:
        """The trials that have failed, by index."""
        found = {}
        for index, trial in self.trials().items():
            if trial.state == TrialState.FAIL:
                found[index] = trial
        return found

    def best_trial(self) -> tuple[int, float] | None:
        """The index and the value of the best complete trial; None if there is none."""
        values: dict[int, float] = {}
        for index, trial in self.trials().items():
            if trial.state == TrialState.COMPLETE and trial.value is not None:
                values[index] = trial.value
        best_value = self.objective.best(list(values.values()))
        for index, value in values.items():
            if value == best_value:
                return index, value
        return None

    def values_of(self, index: int) -> dict[str, Any]:
        """The values of the settings that are searched, in a trial."""
        labels = self.trials()[index].params
        values: dict[str, Any] = {}
        for key, axis in self.plan.space.ranges.items():
            values[key] = from_label(axis, labels[key])
        return values

    def unfinished_count(self) -> float:
        """The number of trials that have not ended; infinite if the sweep has no last trial."""
        if self.plan.trial_count is None:
            return math.inf
        trials = self.trials()
        ended = sum(trial.state.is_finished() for trial in trials.values())
        return max(self.plan.trial_count, len(trials)) - ended

    def is_complete(self) -> bool:
        """Whether all trials have ended."""
        return self.unfinished_count() == 0

    def left_behind_count(self) -> int:
        """The number of runs that still train, though the worker of their trial was killed.

        No worker holds the lock of such a trial, but its processes hold that of a run.
        """
        count = 0
        with self.lock:
            for index, trial in self.trials().items():
                is_running = trial.state == TrialState.RUNNING
                if is_running and not is_locked(self._lock_file(index)):
                    count += self._locked_runs(index)
        return count

    def _lock_file(self, index: int) -> Path:
        return self.plan.folder / LOCKS / f"{index:04d}"

    def _locked_runs(self, index: int) -> int:
        """How many runs of a trial are trained, on any machine that shares the folder."""
        return sum(map(is_locked, self.plan.trial_folder(index).rglob(".lock")))

    # Claiming

    def claim(self) -> ClaimedTrial | None:
        """Claims the next trial; None if there is none now.

        That does not mean that the sweep is complete: others may still be running, and a worker
        that dies releases its trials.
        """
        with self.lock:
            if isinstance(self.storage, RDBStorage):
                optuna.storages.fail_stale_trials(self.study)
            if self.plan.options.halving is not None:
                return self._claim_for_rung(self.plan.options.halving)
            claimed = self._claim_released(self.trials().keys())
            if claimed is not None:
                return claimed
            return self._claim_new()

    def _claim_for_rung(self, factor: int) -> ClaimedTrial | None:
        """Claims a trial that has not reached the present rung; ends those that do not go on."""
        trials = self.trials()
        count = self.plan.trial_count
        assert count is not None  # the plan has checked it
        candidates = [_to_candidate(index, trials.get(index)) for index in range(count)]
        stage = find_stage(candidates, factor, self.objective.higher_is_better, self.validations)
        for index in stage.eliminated:
            if not trials[index].state.is_finished():
                self._eliminate(trials[index])
        claimed = self._claim_released(stage.to_train, stage.rung)
        if claimed is not None:
            return claimed
        # Trials are missing at the first rung only, which all of them must reach.
        return self._claim_new(stage.rung)

    def _claim_released(
        self, indices: Collection[int], rung: int | None = None
    ) -> ClaimedTrial | None:
        """Claims the first of some trials that has not ended and that no worker runs."""
        for index, trial in self.trials().items():
            if index in indices and not trial.state.is_finished():
                claimed = self._try_to_claim(index, trial, rung)
                if claimed is not None:
                    return claimed
        return None

    def _claim_new(self, rung: int | None = None) -> ClaimedTrial | None:
        """Adds a trial and claims it; None if the sweep has all its trials."""
        trials = self.trials()
        index = 0
        while index in trials:  # not len(trials): a worker may have died while Optuna replaced one
            index += 1
        count = self.plan.trial_count
        if count is not None and index >= count:
            return None
        labels: dict[str, Any] = {}
        if self.plan.options.method == "grid":
            for key, value in self.plan.space.combination(index).items():
                labels[key] = to_label(self.plan.space.ranges[key], value)
        self.study.enqueue_trial(labels, user_attrs={INDEX: index})
        return self._try_to_claim(index, self.trials()[index], rung)

    def _try_to_claim(
        self, index: int, frozen: FrozenTrial, rung: int | None
    ) -> ClaimedTrial | None:
        """Claims a trial, unless another worker runs it."""
        lock = filelock.FileLock(self._lock_file(index))
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return None
        if not self._set_running(index, frozen):
            lock.release()
            return None
        trial = Trial(self.study, frozen._trial_id)  # lets the sampler choose its values
        values: dict[str, Any] = {}
        for key, axis in self.plan.space.ranges.items():
            values[key] = suggest(trial, key, axis)
        return ClaimedTrial(index, values, rung, trial, lock)

    def _set_running(self, index: int, trial: FrozenTrial) -> bool:
        """Takes over a trial that waits, or whose worker has died; whether it is this worker's now.

        The caller holds the lock of the trial, so a worker on this machine does not run it.
        """
        if trial.state == TrialState.WAITING:
            # First the heartbeat: without one, or with that of an earlier worker, a running trial
            # would never be released, or taken from this worker at once.
            self._record_heartbeat(trial._trial_id)
            try:
                return self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
            except optuna.exceptions.UpdateFinishedTrialError:
                return False  # another machine has just run it
        if isinstance(self.storage, RDBStorage):
            return False  # its worker may be on another machine
        return self._locked_runs(index) == 0  # by processes that the worker has left behind

    def record_heartbeat(self, trial: Trial) -> None:
        """Tells a database that the worker of a trial is alive."""
        self._record_heartbeat(trial._trial_id)

    def _record_heartbeat(self, trial_id: int) -> None:
        if isinstance(self.storage, RDBStorage):
            self.storage.record_heartbeat(trial_id)

    # The end of a trial

    def finish(self, claimed: ClaimedTrial, value: float) -> None:
        """Records the value of a trial that is complete."""
        with self.lock:
            self.study.tell(claimed.trial, value, state=TrialState.COMPLETE, skip_if_finished=True)
            claimed.lock.release()

    def fail(self, claimed: ClaimedTrial, error: str) -> None:
        """Records that a trial has failed, and why."""
        with self.lock:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                claimed.trial.set_user_attr(ERROR, error)
            self.study.tell(claimed.trial, state=TrialState.FAIL, skip_if_finished=True)
            claimed.lock.release()

    def release(self, claimed: ClaimedTrial, value: float | None = None) -> None:
        """Releases a trial that has stopped with its state saved, so that any worker resumes it.

        Args:
            claimed: the trial.
            value: its value if it has reached its rung; None if it was stopped before.
        """
        with self.lock:
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                if value is not None and claimed.rung is not None:
                    claimed.trial.report(value, claimed.rung)
                self.storage.set_trial_state_values(claimed.trial._trial_id, TrialState.WAITING)
            claimed.lock.release()

    def _eliminate(self, trial: FrozenTrial) -> None:
        """Ends a trial at its last rung, unless another worker has just done it."""
        if trial.state == TrialState.WAITING:  # from which Optuna allows no end
            with suppress(optuna.exceptions.UpdateFinishedTrialError):
                self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        self.study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)

    def remove(self, trials: Mapping[int, FrozenTrial]) -> None:
        """Removes failed trials; the same ones are waiting to be run again."""
        with self.lock:
            for index, trial in trials.items():
                self.study.enqueue_trial(trial.params, user_attrs={INDEX: index})
            # Only now: a process that is killed in between leaves a failed trial, and loses none.
            removed = self.study.user_attrs.get(REMOVED, [])
            numbers = [trial.number for trial in trials.values()]
            self.study.set_user_attr(REMOVED, [*removed, *numbers])


def _to_candidate(index: int, trial: FrozenTrial | None) -> Candidate:
    """How far a trial has come; None stands for one that has not started."""
    if trial is None:
        return Candidate(index)
    final = None
    if trial.state == TrialState.COMPLETE:
        final = trial.value
    has_failed = trial.state == TrialState.FAIL
    return Candidate(index, trial.intermediate_values, final, has_failed)
