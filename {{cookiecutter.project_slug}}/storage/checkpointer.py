"""When a checkpoint is due, how it is written, and what becomes of a run where that fails."""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from config.schema import CheckpointSettings
from logger.console import log
from storage.checkpoint_file import save_step
from utils.errors import RANK, WORLD
from utils.parallel import gather


class Saver:
    """Writes the checkpoints of a run; of several processes the first does, or each its part.

    Args:
        folder: where the files go.
        settings: when a checkpoint is due, and how many stay.
        sharded: whether each process writes what it holds, while training goes on.
    """

    def __init__(self, folder: Path, settings: CheckpointSettings, sharded: bool) -> None:
        self.folder, self.settings, self.sharded = folder, settings, sharded
        self.failure, self.pending = "", None  # why the last one failed; what is being written
        self.saved = time.monotonic()

    def due(self, step: int, compare: bool) -> bool:
        """Whether it is time for a checkpoint within an epoch; the same in all processes.

        Their clocks differ; they are compared where `compare` says so.
        """
        minutes = (time.monotonic() - self.saved) / 60
        late = minutes >= (self.settings.every_minutes or math.inf)
        if WORLD > 1:
            late = compare and self.settings.every_minutes is not None and any(gather(late))
        return late or bool(self.settings.every_steps and step % self.settings.every_steps == 0)

    def save(self, state: Mapping[str, Any], best: bool, sync: Callable[[], None]) -> None:
        """Writes a state, after `sync` has made durable what was logged up to it."""
        self.finish()
        self.failure, self.saved = "", time.monotonic()
        with self._noting_failure(state["step"]):
            if not RANK:
                sync()
        if any(gather(self.failure)):  # of the first process
            return
        write = partial(save_step, self.folder, keep=self.settings.keep, best=best)
        with self._noting_failure(state["step"]):
            self.pending = write_state(self.folder, state, write, self.sharded)

    def finish(self) -> None:
        """Waits for what is being written."""
        pending, self.pending = self.pending, None
        if pending:
            with self._noting_failure(pending.step):
                pending.finish()

    @contextmanager
    def _noting_failure(self, step: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.failure = f"step {step} could not be saved: {error}"
            log.warning("%s; training goes on, and the next save tries again", self.failure)


def write_state(
    folder: Path, state: Mapping[str, Any], write: Callable[[Any], None], sharded: bool
) -> Any:
    """Has the first process write a state or, if `sharded`, begins to have each write its part.

    The parts, the result, are safe when they are finished.

    Raises:
        OSError: if it cannot be written.
    """
    if sharded:
        from storage.sharded import Saving  # with what takes a while to import

        return Saving(folder, state, write)
    if not RANK:
        write(state)
    return None
