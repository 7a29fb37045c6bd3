"""The study of a sweep in Optuna: which trial a worker runs next, and what came of it.

The journal, or a database, assigns the trials to the workers of all machines. A worker that dies
releases its trial:

- In the journal, the trial is still running, but nobody holds the lock in the sweep's folder any
  more, which the system releases.
- In a database, Optuna's heartbeat of the trial ends, and Optuna adds the same trial again.
"""

import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from experiments.halving import Standing, find_stage
from experiments.objective import Objective
from experiments.search_space import Choices, FloatRange, Range
from experiments.sweep_plan import SweepPlan
from utils.errors import UserError, first_line
from utils.locks import is_locked

JOURNAL = "journal.log"
LOCKS = ".locks"
OUTPUT = "output"  # folder of what the trials print
HEARTBEAT_SECONDS = 60
INDEX = "index"  # attribute of a trial in Optuna: its number in the sweep
ERROR = "error"  # why a trial has failed
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
        self.grid = plan.space.grid()
        (plan.folder / LOCKS).mkdir(parents=True, exist_ok=True)
        self.lock = filelock.FileLock(plan.folder / LOCKS / "study")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
        place = str(plan.folder / JOURNAL)
        if plan.options.storage is not None:
            place = f"--storage {plan.options.storage}"
        with self.lock, _explaining(place):
            self.storage = _open_storage(plan, self.lock)
            self.study = self._open_study()

    def _open_study(self) -> Study:
        direction = StudyDirection.MINIMIZE
        if self.objective.higher_is_better:
            direction = StudyDirection.MAXIMIZE
        distributions: dict[str, BaseDistribution] = {}
        for key, axis in self.plan.space.ranges.items():
            distributions[key] = _distribution(axis)
        sampler = SeededSampler(
            self.plan.options.method == "tpe", self.plan.options.sampler_seed, distributions
        )
        study = optuna.create_study(
            study_name=str(self.plan.options.name),
            storage=self.storage,
            sampler=sampler,
            pruner=optuna.pruners.NopPruner(),
            direction=direction,
            load_if_exists=True,
        )
        if study.metric_names is None:
            study.set_metric_names([self.objective.metric])
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

    def best_trial(self) -> tuple[int, float] | None:
        """The index and the value of the best complete trial; None if there is none."""
        best: tuple[int, float] | None = None
        for index, trial in self.trials().items():
            if trial.state != TrialState.COMPLETE or trial.value is None:
                continue
            if best is None or self._is_better(trial.value, best[1]):
                best = (index, trial.value)
        return best

    def _is_better(self, value: float, other: float) -> bool:
        if self.objective.higher_is_better:
            return value > other
        return value < other

    def values_of(self, index: int) -> dict[str, Any]:
        """The values of the settings that are searched, in a trial."""
        parameters = self.trials()[index].params
        values: dict[str, Any] = {}
        for key, axis in self.plan.space.ranges.items():
            values[key] = parameters[key]
            if isinstance(axis, Choices):
                values[key] = axis.values[axis.labels.index(parameters[key])]
        return values

    def is_complete(self) -> bool:
        """Whether all trials have ended."""
        trials = self.trials()
        count = self.plan.trial_count
        if count is None or len(trials) < count:
            return False
        return all(trial.state.is_finished() for trial in trials.values())

    def claim(self) -> ClaimedTrial | None:
        """Claims the next trial; None if there is none now.

        That does not mean that the sweep is complete: others may still be running, and a worker
        that dies releases its trials.
        """
        with self.lock:
            if isinstance(self.storage, RDBStorage):
                optuna.storages.fail_stale_trials(self.study)
            if self.plan.options.halving is not None:
                return self._claim_in_stage()
            return self._claim_first(None, None)

    def _claim_in_stage(self) -> ClaimedTrial | None:
        trials = self.trials()
        count = self.plan.trial_count
        assert count is not None  # the plan has checked it
        standings = []
        for index in range(count):
            standings.append(_standing(index, trials.get(index)))
        halving = self.plan.options.halving
        assert halving is not None
        stage = find_stage(standings, halving, self.objective.higher_is_better, self.validations)
        for index in stage.eliminated:
            if not trials[index].state.is_finished():
                self._eliminate(trials[index])
        return self._claim_first(stage.open, stage.rung)

    def _claim_first(self, indices: Sequence[int] | None, rung: int | None) -> ClaimedTrial | None:
        """Claims the first trial that is waiting or was released, or else adds one.

        Args:
            indices: the trials in question; None for all.
            rung: what the trial is claimed for.
        """
        trials = self.trials()
        for index, trial in trials.items():
            if indices is not None and index not in indices:
                continue
            if not trial.state.is_finished():
                claimed = self._try_to_claim(index, trial, rung)
                if claimed is not None:
                    return claimed
        count = self.plan.trial_count
        if count is not None and len(trials) >= count:
            return None
        index = len(trials)
        values: dict[str, Any] = {}
        if self.plan.options.method == "grid" and self.grid is not None:
            values = self._to_labels(self.grid[index])
        self.study.enqueue_trial(values, user_attrs={INDEX: index})
        return self._try_to_claim(index, self.trials()[index], rung)

    def _try_to_claim(
        self, index: int, frozen: FrozenTrial, rung: int | None
    ) -> ClaimedTrial | None:
        lock = filelock.FileLock(self.plan.folder / LOCKS / f"{index:04d}")
        try:
            lock.acquire(blocking=False)
        except filelock.Timeout:
            return None  # another worker runs it
        if not self._take(index, frozen):
            lock.release()
            return None
        trial = Trial(self.study, frozen._trial_id)
        self.record_heartbeat(trial)
        values = {}
        for key, axis in self.plan.space.ranges.items():
            values[key] = _suggest(trial, key, axis)
        return ClaimedTrial(index, values, rung, trial, lock)

    def _take(self, index: int, trial: FrozenTrial) -> bool:
        """Whether the trial is this worker's, after another one has released it or has died."""
        if trial.state == TrialState.WAITING:
            return self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        if isinstance(self.storage, RDBStorage):
            return False  # its worker may be on another machine
        folder = self.plan.folder / f"{index:04d}"
        return not any(is_locked(file) for file in folder.rglob(".lock"))

    def record_heartbeat(self, trial: Trial) -> None:
        """Tells a database that the worker of a trial is alive."""
        if isinstance(self.storage, RDBStorage):
            self.storage.record_heartbeat(trial._trial_id)

    def _to_labels(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Values as Optuna stores them."""
        labels = dict(values)
        for key, axis in self.plan.space.ranges.items():
            if isinstance(axis, Choices):
                labels[key] = axis.labels[axis.values.index(values[key])]
        return labels

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
        """Ends a trial at its last rung."""
        if trial.state == TrialState.WAITING:
            self.storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        self.study.tell(trial.number, state=TrialState.PRUNED, skip_if_finished=True)

    def failed_trials(self) -> dict[int, FrozenTrial]:
        """The trials that have failed, by index."""
        found = {}
        for index, trial in self.trials().items():
            if trial.state == TrialState.FAIL:
                found[index] = trial
        return found

    def remove(self, trials: Mapping[int, FrozenTrial]) -> None:
        """Removes failed trials; the same ones are waiting to be run again."""
        with self.lock:
            removed = self.study.user_attrs.get(REMOVED, [])
            numbers = [trial.number for trial in trials.values()]
            self.study.set_user_attr(REMOVED, [*removed, *numbers])
            for index, trial in trials.items():
                self.study.enqueue_trial(trial.params, user_attrs={INDEX: index})


def remove_trial_files(plan: SweepPlan, index: int) -> None:
    """Deletes the run folders and the output of a trial."""
    name = f"{index:04d}"
    shutil.rmtree(plan.folder / name, ignore_errors=True)
    for output in (plan.folder / OUTPUT).glob(f"{name}*.log"):
        output.unlink()


def _standing(index: int, trial: FrozenTrial | None) -> Standing:
    """How far a trial has come; None stands for one that has not started."""
    if trial is None:
        return Standing(index)
    final = None
    if trial.state == TrialState.COMPLETE:
        final = trial.value
    return Standing(index, trial.intermediate_values, final, failed=trial.state == TrialState.FAIL)


def _distribution(axis: Range) -> BaseDistribution:
    if isinstance(axis, Choices):
        return CategoricalDistribution(axis.labels)
    if isinstance(axis, FloatRange):
        return FloatDistribution(axis.low, axis.high, log=axis.log)
    return IntDistribution(axis.low, axis.high)


def _suggest(trial: Trial, key: str, axis: Range) -> Any:
    """The value of a setting in a trial, which Optuna chooses unless it is known already."""
    if isinstance(axis, Choices):
        label = trial.suggest_categorical(key, axis.labels)
        return axis.values[axis.labels.index(label)]
    if isinstance(axis, FloatRange):
        return trial.suggest_float(key, axis.low, axis.high, log=axis.log)
    return trial.suggest_int(key, axis.low, axis.high)


class SeededSampler(BaseSampler):
    """Chooses all values of a trial at once, with a random seed of its own.

    What was killed or which worker runs a trial has therefore no effect on its values. Those of
    TPE depend on which trials have ended before.

    Args:
        is_tpe: whether TPE chooses the values; otherwise, they are random.
        seed: the seed of the sweep.
        space: the distributions of all settings that are searched.
    """

    def __init__(self, is_tpe: bool, seed: int, space: Mapping[str, BaseDistribution]) -> None:
        self.is_tpe = is_tpe
        self.seed = seed
        self.space: dict[str, BaseDistribution] = {}
        for key, distribution in space.items():
            if not distribution.single():
                self.space[key] = distribution

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole search space, so that `sample_relative` chooses all values."""
        return self.space

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values of a trial."""
        seeds = np.random.SeedSequence([self.seed, trial.user_attrs[INDEX]])
        seed = int(seeds.generate_state(1)[0])
        sampler: BaseSampler = RandomSampler(seed=seed)
        if self.is_tpe:
            sampler = TPESampler(seed=seed)
        values = sampler.sample_relative(study, trial, search_space)
        for key, distribution in search_space.items():
            if key not in values:  # TPE starts with random trials
                values[key] = sampler.sample_independent(study, trial, key, distribution)
        return values

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Is not called: `sample_relative` chooses all values.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(param_name)


# Storage


def _open_storage(plan: SweepPlan, lock: filelock.BaseFileLock) -> JournalStorage | RDBStorage:
    url = plan.options.storage
    if url is not None:
        return RDBStorage(
            url,
            heartbeat_interval=HEARTBEAT_SECONDS,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(
                inherit_intermediate_values=True
            ),
        )
    file = plan.folder / JOURNAL
    return JournalStorage(JournalFileBackend(str(file), lock_obj=JournalLock(file, lock)))


def check_storage(url: str) -> None:
    """Opens a database, which creates its tables.

    Raises:
        UserError: if it is unavailable, or its driver is not installed.
    """
    with _explaining(f"--storage {url}"):
        RDBStorage(url).remove_session()


class JournalLock(JournalFileOpenLock):
    """The lock of a journal file, which also repairs the file before it is written.

    The system releases it when its process dies. Optuna's own lock would stay for 30 seconds.

    Args:
        file: the journal.
        lock: the lock of the study.
    """

    def __init__(self, file: Path, lock: filelock.BaseFileLock) -> None:
        super().__init__(str(file))
        self.file = file
        self.lock = lock

    def acquire(self) -> bool:
        """Waits for the lock; the file then ends with a complete line."""
        self.lock.acquire()
        remove_incomplete_line(self.file)
        return True

    def release(self) -> None:
        """Releases the lock."""
        self.lock.release()


def remove_incomplete_line(file: Path) -> None:
    """Removes the end of a file after its last line break, which a killed process has left.

    Optuna cannot read a journal in which another line follows it.
    """
    with file.open("r+b") as stream:
        size = stream.seek(0, 2)
        if size == 0:
            return
        stream.seek(size - 1)
        if stream.read(1) == b"\n":
            return
        stream.seek(0)
        content = stream.read()
        stream.truncate(content.rfind(b"\n") + 1)


@contextmanager
def _explaining(place: str) -> Iterator[None]:
    """Reports errors of a storage that cannot be opened or read as errors of the user."""
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:  # whatever a database driver may raise
        raise UserError(f"{place} cannot be opened: {first_line(error)}") from error
