"""How long a run has trained, in all its starts together."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from utils.files import replace_file

FILE = "training_time.json"
MAX_STEPS = 1000  # in the file


class TrainingTime:
    """The seconds of training, validations included, in this start and those before.

    A checkpoint does not contain them, so that runs that make the same steps have the same
    checkpoints. A file in the run folder contains them by step: after a checkpoint was loaded, the
    time continues from that of its step.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / FILE
        self._seconds_by_step: dict[int, float] | None = None
        self._seconds_before = 0.0
        self._started: float | None = None

    @contextmanager
    def running(self, step: int) -> Iterator[None]:
        """Within this context, the time runs.

        Args:
            step: the step from which the run continues.
        """
        if self._seconds_by_step is None:  # otherwise this process has already trained
            self._seconds_by_step = _read(self.file)
            self._seconds_before = _seconds_at(step, self._seconds_by_step)
        self._started = time.monotonic()
        try:
            yield
        finally:
            self._seconds_before = self.seconds
            self._started = None

    @property
    def seconds(self) -> float:
        """The seconds until now."""
        if self._started is None:
            return self._seconds_before
        return self._seconds_before + time.monotonic() - self._started

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
