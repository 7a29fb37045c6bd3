"""How long a run has trained, in all its starts together."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from logger.console import log
from utils.files import replace_file
from utils.process_group import broadcast_object

FILE = "training_time.json"
MAX_STEPS = 1000  # in the file


class TrainingTime:
    """The seconds of training, validations included, in this start and those before.

    A checkpoint does not contain them, so that runs that make the same steps have the same
    checkpoints. A file in the run folder contains them by step: after a checkpoint was loaded, the
    time continues from that of its step.

    Args:
        folder: the run folder.
        max_minutes: `trainer.max_minutes`, after which the run ends; None if there is no limit.

    Attributes:
        agreed_seconds: the time after the last step that all processes know of, the same in each.
        is_running: whether training is in progress.
    """

    def __init__(self, folder: Path, max_minutes: float | None = None) -> None:
        self.file = folder / FILE
        self.max_minutes = max_minutes
        self.agreed_seconds = 0.0
        self.is_running = False
        self._seconds_by_step: dict[int, float] | None = None
        self._seconds_before = 0.0
        self._started = 0.0

    def continue_from(self, step: int) -> None:
        """Continues from the time at a step; later calls have no effect."""
        if self._seconds_by_step is None:
            self._seconds_by_step = broadcast_object(_read(self.file))
            self._seconds_before = _seconds_at(step, self._seconds_by_step)
            self.agreed_seconds = self._seconds_before

    @contextmanager
    def running(self, step: int) -> Iterator[None]:
        """Within this context, the time runs.

        Args:
            step: the step from which the run continues.
        """
        self.continue_from(step)
        self._started = time.monotonic()
        self.is_running = True
        try:
            yield
        finally:
            self._seconds_before = self.seconds
            self.is_running = False

    @property
    def seconds(self) -> float:
        """The seconds until now, by the clock of this process."""
        if not self.is_running:
            return self._seconds_before
        return self._seconds_before + time.monotonic() - self._started

    @property
    def fraction(self) -> float:
        """The agreed time as a fraction of the limit; 0 if there is none."""
        if self.max_minutes is None:
            return 0.0
        return self.agreed_seconds / (60 * self.max_minutes)

    @property
    def is_up(self) -> bool:
        """Whether the limit is reached, in all processes at the same step."""
        return self.fraction >= 1

    def agree_on(self, seconds: float, step: int) -> None:
        """Sets the time of all processes after a step; logs that the limit is reached."""
        was_up = self.is_up
        self.agreed_seconds = max(seconds, self.agreed_seconds)
        if self.is_up and not was_up:
            log.info("%s", self.describe_end(step))

    def describe_end(self, step: int) -> str:
        """Why the run ends at a step."""
        return f"trainer.max_minutes = {self.max_minutes:g} ends the run at step {step}"

    def record(self, step: int) -> None:
        """Writes the time at a step, which is about to be saved; for the main process.

        Raises:
            OSError: if the file cannot be written.
        """
        earlier = {}
        for earlier_step, seconds in (self._seconds_by_step or {}).items():
            if earlier_step < step:
                earlier[earlier_step] = seconds
        self._seconds_by_step = {**earlier, step: round(self.seconds, 3)}
        while len(self._seconds_by_step) > MAX_STEPS:
            del self._seconds_by_step[min(self._seconds_by_step)]
        replace_file(self.file, json.dumps(self._seconds_by_step).encode())


def _read(file: Path) -> dict[int, float]:
    """The seconds by step; empty if the file is missing or damaged."""
    try:
        content = json.loads(file.read_bytes())
        return {int(step): float(seconds) for step, seconds in content.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _seconds_at(step: int, seconds_by_step: dict[int, float]) -> float:
    """The time at the last recorded step up to this one."""
    earlier = [recorded for recorded in seconds_by_step if recorded <= step]
    if not earlier:
        return 0.0
    return seconds_by_step[max(earlier)]
