"""The checkpointer: when a checkpoint is due, its files, and the deletion of old ones."""

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from config.schema import CheckpointSettings
from logger.console import log
from storage.background_save import BackgroundSave
from storage.checkpoint_file import load_first_usable, read_verified, save_checkpoint
from storage.progress import Progress
from storage.run_folder import find_checkpoints, step_in_name
from utils.command import next_command
from utils.errors import TRAINING_FAILED, UserError
from utils.files import replacing
from utils.process_group import all_gather_object, broadcast_object
from utils.ranks import is_main_process, world_size

SHARD_FOLDERS = "shards-*"


class Checkpointer:
    """Saves the checkpoints of a run: ``step_*.pt``, ``last.pt`` and ``best.pt``.

    A failure to write, such as a full disk, does not end training: the next save tries again. As
    a context, it waits at the end for a checkpoint that is still being written.

    Args:
        folder: where the files are written.
        settings: when a checkpoint is due, and how many are kept.
        sharded: whether each process writes its own shards, always in the background. Otherwise
            the main process writes the whole state.
    """

    def __init__(self, folder: Path, settings: CheckpointSettings, sharded: bool) -> None:
        self.folder = folder
        self.settings = settings
        self.sharded = sharded
        self._failure = ""  # why the last save failed
        self._is_best = False  # whether the last save was that of a best checkpoint
        self._background_save: Any = None
        self._last_save_time = time.monotonic()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    @property
    def failure(self) -> str:
        """Why the last save failed in this process; empty if it did not."""
        return self._failure

    def take_lost_best(self) -> bool:
        """Whether the last save was that of a best checkpoint and failed; true once for each.

        All processes call it. It waits for a save in the background.
        """
        self.finish()
        is_lost = any(all_gather_object(self._is_best and self._failure != ""))
        self._is_best = False
        return is_lost

    def saved_steps(self) -> list[int]:
        """The steps of the checkpoints ``step_*.pt``."""
        return [*_step_files(self.folder)]

    def abandoned_best_step(self, step: int) -> int:
        """The step of ``best.pt`` if it is later than a step to which the run returns, else 0.

        All processes call it.
        """
        best_step = 0
        if is_main_process() and max(self.saved_steps(), default=0) > step:
            with contextlib.suppress(UserError):  # a file that is missing or damaged is not used
                best_step = read_verified(self.folder / "best.pt")["progress"]["step"]
        best_step = broadcast_object(best_step)
        if best_step <= step:
            return 0
        return best_step

    def is_due(self, step: int, is_log_step: bool) -> bool:
        """Whether to save without a validation; the answer is the same in all processes.

        Args:
            step: optimizer steps made so far.
            is_log_step: whether the processes wait for each other anyway: their clocks differ, so
                only then do several of them compare the time.
        """
        every_steps = self.settings.every_steps
        if every_steps is not None and step % every_steps == 0:
            return True
        if self.settings.every_minutes is None:
            return False
        minutes = (time.monotonic() - self._last_save_time) / 60
        is_late = minutes >= self.settings.every_minutes
        if world_size() == 1:
            return is_late
        return is_log_step and any(all_gather_object(is_late))

    def save(
        self, state: Mapping[str, Any], step: int, is_best: bool, flush_logs: Callable[[], None]
    ) -> None:
        """Saves a state.

        Args:
            state: the state of the run, the same in all processes except for sharded tensors.
            step: optimizer steps made so far.
            is_best: whether it becomes ``best.pt`` as well.
            flush_logs: makes the log entries up to this step durable, before the state is.
        """
        self.finish()
        self._failure = ""  # a failure of the last save was logged
        self._is_best = is_best
        self._last_save_time = time.monotonic()
        with self._continuing_on_failure(step):
            if is_main_process():
                flush_logs()
        if any(all_gather_object(self._failure)):
            return

        best_steps: list[int] = []
        if self.settings.keep_best > 1:  # otherwise best.pt is enough
            best_steps += state["progress"]["best_values"]

        def publish(whole_state: Mapping[str, Any]) -> None:
            keep = self.settings.keep
            write_step_files(self.folder, whole_state, step, keep, is_best, best_steps)

        with self._continuing_on_failure(step):
            if self.sharded:
                from storage.sharded import ShardedSave  # imports 1 s of torch.distributed

                self._background_save = ShardedSave(self.folder, state, step, publish)
            elif is_main_process() and self.settings.background:
                self._background_save = BackgroundSave(state, step, publish)
            elif is_main_process():
                publish(state)

    def finish(self) -> None:
        """Waits for the save in the background, if there is one."""
        save = self._background_save
        self._background_save = None
        if save is not None:
            with self._continuing_on_failure(save.step):
                save.wait()

    def raise_failure(self, exit_code: int = TRAINING_FAILED) -> None:
        """Raises a UserError in all processes if the last save failed in one of them."""
        for failure in all_gather_object(self._failure):
            if failure and self.saved_steps():
                resume = next_command("train.py", "--resume", self.folder.parent)
                raise UserError(f"{failure}\nresume: {resume}", exit_code)
            if failure:
                raise UserError(failure, exit_code)

    @contextmanager
    def _continuing_on_failure(self, step: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failure = f"the checkpoint of step {step} could not be saved: {error}"
            log.warning("%s; training continues, and the next save tries again", self._failure)


def best_checkpoints(folder: Path) -> dict[Path, float]:
    """The checkpoints that `checkpoint.keep_best` keeps, with their monitored values.

    Args:
        folder: the run folder.

    Returns:
        The values by file, the best first; files that were deleted are left out.

    Raises:
        UserError: if the run has no usable checkpoint.
    """
    _, state = load_first_usable(find_checkpoints(folder, best=False))
    best: dict[Path, float] = {}
    progress = Progress()
    progress.load_state_dict(state["progress"])
    for step, value in progress.best_values.items():
        file = folder / f"checkpoints/step_{step:08d}.pt"
        if file.exists():
            best[file] = value
    return best


def write_step_files(
    folder: Path,
    state: Mapping[str, Any],
    step: int,
    keep: int,
    is_best: bool,
    best_steps: Collection[int] = (),
) -> None:
    """Writes ``step_*.pt``, also named ``last.pt`` and, if it is the best, ``best.pt``.

    The last `keep` of the ``step_*.pt`` are kept, and those of `best_steps`. Others are deleted
    after the new one is safe; if that is impossible, there is a warning.

    Raises:
        OSError: if it cannot be written, or files of later steps cannot be deleted.
    """
    names = ["last.pt", f"step_{step:08d}.pt"]
    if is_best:
        # It comes first: a run that is killed after last.pt was written would resume with this
        # best value, and might never write best.pt again.
        names.insert(0, "best.pt")
    first_file = folder / names[0]
    save_checkpoint(first_file, state)
    for name in names[1:]:
        _link_or_copy(first_file, folder / name)
    _delete_later_steps(folder, step)
    try:
        _delete_old_steps(folder, keep, best_steps)
        _delete_unused_shards(folder)
    except OSError as error:  # the new checkpoint is safe
        log.warning("old checkpoints in %s could not be deleted: %s", folder, error)


def _step_files(folder: Path) -> dict[int, Path]:
    """The files ``step_*.pt`` by step."""
    files = {}
    for file in folder.glob("step_*.pt"):
        step = step_in_name(file)
        if step is not None:  # otherwise the name is not one of ours
            files[step] = file
    return files


def _delete_later_steps(folder: Path, step: int) -> None:
    """Deletes ``step_*.pt`` of later steps, to which the run would otherwise return."""
    for file_step, file in _step_files(folder).items():
        if file_step > step:
            log.info("deleted %s: the run has returned to step %d", file, step)
            file.unlink()


def _delete_old_steps(folder: Path, keep: int, best_steps: Collection[int]) -> None:
    """Deletes all ``step_*.pt`` but the last and the best."""
    files = _step_files(folder)
    for step in sorted(files)[:-keep]:
        if step not in best_steps:
            files[step].unlink()


def _link_or_copy(file: Path, other_name: Path) -> None:
    with replacing(other_name) as temporary:
        try:
            os.link(file, temporary)
        except OSError:  # a file system without hard links
            shutil.copy2(file, temporary)


def _delete_unused_shards(folder: Path) -> None:
    """Deletes the shards of deleted checkpoints, and of those that were not completed."""
    unused = set(folder.glob(SHARD_FOLDERS))
    if not unused:
        return
    for file in folder.glob("*.pt"):
        try:
            state = read_verified(file)
        except UserError:  # it cannot be read now, so its shards are unknown
            return
        if "shards" in state:
            unused.discard(folder / state["shards"]["folder"])
    for shard_folder in unused:
        shutil.rmtree(shard_folder)
