"""The interface of what shows the log of a run: TensorBoard, and trackers such as MLflow."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from logger.figures import Figure


class LogEntry(NamedTuple):
    """Values that were logged at one step."""

    timestamp: float  # in seconds since 1970
    split: str
    epoch: int
    step: int
    values: Mapping[str, float]


class LogWriter:
    """Receives the log of a run.

    If a method raises an exception, the log continues without the writer, after a warning.

    Attributes:
        description: what a warning calls it.
        failures: exceptions of the constructor of a tracker, such as those of a server that does
            not answer. A new run then ends with an error in one line; a resumed run continues
            without the tracker. Other exceptions end both with a traceback.
    """

    description = "the tracker"
    failures: tuple[type[Exception], ...] = (OSError,)

    def scalars(self, entries: Sequence[LogEntry]) -> None:
        """Writes the values of one or more entries."""
        raise NotImplementedError

    def figure(self, name: str, figure: Figure, step: int) -> None:
        """Writes a figure."""
        raise NotImplementedError

    def add_results(self, results: Mapping[str, float]) -> None:
        """Writes the final results of a run that has finished."""

    def flush(self) -> None:
        """Makes everything durable that was written so far."""

    def close(self, state: str) -> None:
        """Ends the log of a run that is ``finished``, ``stopped`` or ``failed``."""
        raise NotImplementedError

    def abandon(self) -> None:
        """Ends the log after one of the other methods has failed; the run continues without it."""
        self.close("failed")
