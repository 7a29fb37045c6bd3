"""Runs the trials of a sweep: starts their processes, stops them, and records their values."""

import errno
import os
import shutil
import signal
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from tqdm import tqdm

from experiments.devices import job_variables
from experiments.search_space import to_overrides
from experiments.spare_process import SpareProcess
from experiments.study import ClaimedTrial, SweepStudy
from experiments.study_storage import HEARTBEAT_SECONDS
from experiments.sweep_plan import SweepPlan
from experiments.sweep_progress import SweepProgress
from experiments.trials import RunProcess, TrialRun
from utils.errors import UserError
from utils.locks import is_locked
from utils.signals import StopSignals

POLL_SECONDS = 0.2  # between two checks of signals, rungs and the time
CLAIM_INTERVAL_SECONDS = 1.0  # while other workers run the last trials
STOP_SECONDS = 100  # in which all processes save their state; slurm.sh leaves 120 seconds
MAX_STARTS_WITHOUT_PROGRESS = 3
MIN_FREE_BYTES = 2**20  # with less, lack of space is taken for the cause of a failure


@dataclass
class ActiveTrial:
    """A trial that this worker has claimed.

    Attributes:
        claimed: the trial.
        runs: all its runs.
        values: the value of each run that is done, by the position of the run.
        error: why the trial has failed; empty if it has not.
    """

    claimed: ClaimedTrial
    runs: list[TrialRun]
    values: dict[int, float] = field(default_factory=dict)
    error: str = ""


@dataclass
class Job:
    """One run of a trial, which waits or trains.

    Attributes:
        active: the trial.
        position: the position of the run in its trial.
        process: the process; None while the run waits, for a slot or for the end of a process
            that a killed sweep has left behind.
    """

    active: ActiveTrial
    position: int
    process: RunProcess | None

    @property
    def run(self) -> TrialRun:
        """The run."""
        return self.active.runs[self.position]


class Scheduler:
    """Runs the trials of a sweep until all have ended, or it is stopped.

    Args:
        plan: the sweep.
        study: its trials.
        devices: the GPUs, as in CUDA_VISIBLE_DEVICES; empty if the CPU trains.

    Attributes:
        stop_signal: the number of the signal that has stopped the sweep, or 0.
        stop_reason: why the sweep has stopped before its end; empty if it has not.
    """

    def __init__(self, plan: SweepPlan, study: SweepStudy, devices: Sequence[str]) -> None:
        self.plan = plan
        self.study = study
        self.objective = study.objective
        self.devices = devices
        self.stop_signal = 0
        self.stop_reason = ""
        self.active: list[ActiveTrial] = []
        self.waiting: deque[Job] = deque()  # runs of active trials that have no slot yet
        self.slots: list[Job | None] = [None for _ in range(plan.options.jobs)]
        self.spares: list[SpareProcess | None] = [None for _ in self.slots]
        self.failures_in_a_row = 0
        self._process_ended = threading.Event()
        self._next_claim_time = 0.0
        self._next_heartbeat_time = 0.0

    def run(self) -> None:
        """Runs trials; afterwards, no process of this sweep is left.

        Raises:
            OSError: if the study cannot be written; what the processes have saved is not lost.
            UserError: if a trial has found a full disk.
        """
        started = time.monotonic()
        with StopSignals() as signals, SweepProgress(self.plan, self.study) as self.progress:
            try:
                while True:
                    self.stop_signal = signals.received
                    self.stop_reason = self._find_stop_reason(started)
                    if self.stop_reason or not self._has_work():
                        break
                    self._start_runs()
                    self._wait()
                    self._check_slots()
                    self._record_heartbeats()
                self._stop_runs()
                self._check_slots()
                for active in list(self.active):
                    self._release(active, None)
            finally:
                self._stop_runs()  # after an error, too
                self._end_spares()
            self.stop_signal = signals.received

    def _find_stop_reason(self, started: float) -> str:
        options = self.plan.options
        if self.stop_signal:
            return f"stopped by {signal.Signals(self.stop_signal).name}"
        minutes = (time.monotonic() - started) / 60
        if options.minutes is not None and minutes >= options.minutes:
            return f"--minutes {options.minutes:g} are over"
        if self.has_too_many_failures():
            return f"--max-failures {options.max_failures}: as many trials in a row have failed"
        return ""

    def has_too_many_failures(self) -> bool:
        """Whether so many trials have failed in a row that the sweep stops."""
        return self.failures_in_a_row >= self.plan.options.max_failures

    def _has_work(self) -> bool:
        if self.active or time.monotonic() < self._next_claim_time:
            return True
        return not self.study.is_complete()

    # Starting

    def _start_runs(self) -> None:
        """Fills the free slots, with runs of new trials if none is waiting."""
        for slot, job in enumerate(self.slots):
            if job is not None:
                continue
            if not self.waiting:
                self._claim_trials()
            if not self.waiting:
                return
            self._start(slot, self.waiting.popleft())

    def _claim_trials(self) -> None:
        """Claims trials until one of them has a run to start, or there is no trial."""
        while not self.waiting and time.monotonic() >= self._next_claim_time:
            if self._left_behind_runs_need_slots():
                self._next_claim_time = time.monotonic() + CLAIM_INTERVAL_SECONDS
                return
            claimed = self.study.claim()
            if claimed is None:
                self.progress.show_waiting(has_own_trials=bool(self.active))
                self._next_claim_time = time.monotonic() + CLAIM_INTERVAL_SECONDS
                return
            self._activate(ActiveTrial(claimed, self._make_runs(claimed)))

    def _left_behind_runs_need_slots(self) -> bool:
        """Whether runs of a killed sweep, which still train, and own runs are enough together.

        Otherwise more than --jobs runs would compete for the cores and the memory.
        """
        used_slots = sum(job is not None for job in self.slots)
        left_behind = self.study.left_behind_count()
        if left_behind == 0 or used_slots + left_behind < len(self.slots):
            return False
        self.progress.show_left_behind(left_behind)
        return True

    def _make_runs(self, claimed: ClaimedTrial) -> list[TrialRun]:
        trial_folder = self.plan.trial_folder(claimed.index)
        runs = []
        for repetition in self.plan.space.repeated_settings():
            folder = trial_folder
            output_name = trial_folder.name
            if repetition:
                name = ",".join(f"{key}={value}" for key, value in repetition.items())
                folder = trial_folder / name
                output_name += f"_{name}"
            output = self.plan.output_folder / f"{output_name}.log"
            settings = {**self.plan.space.fixed, **claimed.values, **repetition}
            runs.append(TrialRun(folder, output, to_overrides(settings)))
        return runs

    def _activate(self, active: ActiveTrial) -> None:
        """Queues the runs of a claimed trial, and records those that are done already."""
        self.active.append(active)
        for position, run in enumerate(active.runs):
            job = Job(active, position, None)
            if run.is_finished() or self._has_reached_rung(job):
                self._record(job)
            else:
                self.waiting.append(job)
        self._finish_if_done(active)

    def _start(self, slot: int, job: Job) -> None:
        self.slots[slot] = job
        if is_locked(job.run.folder / ".lock"):
            return  # a process that a killed sweep has left behind still trains it
        spare = self.spares[slot] or self._prepare_spare(slot)
        self.spares[slot] = None
        job.process = RunProcess(
            job.run,
            self.plan.trial_settings_file,
            self.plan.options.processes,
            spare,
            self._process_ended,
        )
        if self.waiting or self.study.unfinished_count() > len(self.active):
            self.spares[slot] = self._prepare_spare(slot)  # for the next run

    def _prepare_spare(self, slot: int) -> SpareProcess:
        options = self.plan.options
        return SpareProcess(job_variables(slot, options.jobs, options.processes, self.devices))

    def _end_spares(self) -> None:
        for spare in self.spares:
            if spare is not None:
                spare.end()

    # Waiting

    def _wait(self) -> None:
        """Waits for the end of a process, but not for long."""
        self._process_ended.wait(POLL_SECONDS)
        self._process_ended.clear()
        self.progress.refresh()

    def _check_slots(self) -> None:
        """Frees the slots of runs that have ended, and stops those that have reached their rung."""
        for slot, job in enumerate(self.slots):
            if job is None:
                continue
            if job.process is None:
                if not is_locked(job.run.folder / ".lock"):
                    self.slots[slot] = None
                    self.waiting.appendleft(job)
                continue
            exit_code = job.process.process.poll()
            if exit_code is not None:
                self.slots[slot] = None
                self._handle_end(job, job.process, exit_code)
            elif not job.process.stop_requested and self._has_reached_rung(job):
                job.process.request_stop()

    def _has_reached_rung(self, job: Job) -> bool:
        rung = job.active.claimed.rung
        return rung is not None and len(self.objective.validations(job.run.folder)) >= rung

    # The end of a run

    def _handle_end(self, job: Job, process: RunProcess, exit_code: int) -> None:
        """Records the value of a run, lets it wait until it is resumed, or reports its error."""
        if not job.active.error:  # otherwise, another run of the trial has failed
            self._handle_exit_code(job, process, exit_code)
        if self._disk_is_full(job.active.error):
            raise UserError(
                f"the disk of {self.plan.folder} is full: {job.active.error}\n"
                "       free some space, and repeat the command; nothing is lost"
            )
        self._finish_if_done(job.active)

    def _handle_exit_code(self, job: Job, process: RunProcess, exit_code: int) -> None:
        if exit_code == 0 or self._has_reached_rung(job):
            self._record(job)
        elif process.can_be_resumed(exit_code) or is_locked(job.run.folder / ".lock"):
            self._resume(job, process)
        else:
            job.active.error = process.describe_failure(exit_code)

    def _record(self, job: Job) -> None:
        """Records the value of a run that is done."""
        validations = self.objective.validations(job.run.folder)
        value = self.objective.best(validations[: job.active.claimed.rung])
        if value is None:
            job.active.error = (
                f"no validation of {job.run.folder} has a finite {self.objective.metric}"
            )
        else:
            job.active.values[job.position] = value

    def _resume(self, job: Job, process: RunProcess) -> None:
        """Lets a run wait again, unless it is killed each time before it saves a step."""
        run = job.run
        if process.has_made_progress() or process.stop_requested:
            run.starts_without_progress = 0
        else:
            run.starts_without_progress += 1
        if run.starts_without_progress < MAX_STARTS_WITHOUT_PROGRESS:
            self.waiting.appendleft(Job(job.active, job.position, None))
        else:
            job.active.error = (
                f"killed {run.starts_without_progress} times before it saved a step, see "
                f"{run.output}"
            )

    def _disk_is_full(self, error: str) -> bool:
        """Whether a run has failed because the disk is full: it can be resumed later."""
        if not error:
            return False
        if os.strerror(errno.ENOSPC) in error:
            return True
        return shutil.disk_usage(self.plan.folder).free < MIN_FREE_BYTES

    # The end of a trial

    def _finish_if_done(self, active: ActiveTrial) -> None:
        """Records the result of a trial if no run of it is left to do."""
        if active.error:
            self._drop_other_runs(active)
        if self._has_unfinished_runs(active):
            return
        claimed = active.claimed
        value = None
        if active.error:
            self.failures_in_a_row += 1
            self.active.remove(active)
            self.study.fail(claimed, active.error)
        else:
            self.failures_in_a_row = 0
            value = statistics.fmean(active.values.values())
            if claimed.rung is not None:
                self._release(active, value)
            else:
                self.active.remove(active)
                self.study.finish(claimed, value)
        self._next_claim_time = 0.0
        self.progress.show_end(claimed, value, active.error)

    def _drop_other_runs(self, failed: ActiveTrial) -> None:
        """Stops the other runs of a trial that has failed: it has no value without this one."""
        self.waiting = deque(job for job in self.waiting if job.active is not failed)
        for slot, job in enumerate(self.slots):
            if job is None or job.active is not failed:
                continue
            if job.process is None:
                self.slots[slot] = None
            else:
                job.process.request_stop()

    def _has_unfinished_runs(self, active: ActiveTrial) -> bool:
        unfinished = [job.active for job in self.waiting]
        unfinished += [job.active for job in self.slots if job is not None]
        return any(other is active for other in unfinished)

    def _release(self, active: ActiveTrial, value: float | None) -> None:
        self.active.remove(active)
        self.study.release(active.claimed, value)

    def _record_heartbeats(self) -> None:
        if time.monotonic() < self._next_heartbeat_time:
            return
        for active in self.active:
            self.study.record_heartbeat(active.claimed.trial)
        self._next_heartbeat_time = time.monotonic() + HEARTBEAT_SECONDS / 2

    # Stopping

    def _stop_runs(self) -> None:
        """Stops all processes with their state saved; kills those that take too long."""
        processes = []
        for job in self.slots:
            if job is not None and job.process is not None:
                processes.append(job.process)
        for process in processes:
            process.request_stop()
        end = time.monotonic() + STOP_SECONDS
        for process in processes:
            if not process.wait(max(0.0, end - time.monotonic())):
                process.kill()
                process.wait(None)
                _warn_about_killed_run(process.run)


def _warn_about_killed_run(run: TrialRun) -> None:
    """Says which run has not stopped in time, and what of it is saved."""
    step = run.saved_step()
    place = f"resumes it after step {step}"
    if step < 0:
        place = "starts it from the beginning"
    tqdm.write(
        f"warning: {run.folder} did not stop within {STOP_SECONDS} seconds and was killed; the "
        f"next start {place}",
        file=sys.stderr,
    )
