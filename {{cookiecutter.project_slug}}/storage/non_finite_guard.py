"""The non-finite guard: finds the step that caused NaN or infinity, and undoes it."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from logger.console import log
from storage.checkpoint_file import load_first_usable, read_step, save_checkpoint
from storage.non_finite_cause import find_cause
from storage.run_folder import find_checkpoints, step_in_name
from utils.command import next_command
from utils.errors import TRAINING_FAILED, NonFiniteError, UserError
from utils.finite import check_finite
from utils.nested import as_plain_data, named_tensors
from utils.process_group import all_gather_object
from utils.ranks import is_main_process

MAX_SAVED_STEPS = 10  # of the steps that are skipped
MAX_SKIPPED_FIRST_STEPS = 10  # if none of the first steps is finite, skipping does not help


class NonFiniteGuard:
    """Checks each step up to `checked_until`, which synchronises the host with the device.

    Training checks its values only at log entries and before a save. If one is not finite, it
    repeats the steps since the last checkpoint, which are reproducible, and checks each of them.
    The step with the value is made once more, to find the operation and the layer.

    Args:
        folder: the run folder, for the file with the batches and the state before the step.
        skips: whether training continues without the step, and does not end.
        sharded: whether each process saves its own shards.
    """

    def __init__(self, folder: Path, skips: bool, sharded: bool) -> None:
        self.folder = folder
        self.skips = skips
        self.sharded = sharded
        self.checked_until = 0  # the last step to check

    def update(self, trainer: Any, step: Any) -> dict[str, Tensor] | None:
        """Makes a step and checks it; a step with a non-finite value is undone.

        An undone step counts as a step, and the moving average is updated as after any other.

        Args:
            trainer: a `BaseTrainer`.
            step: the batches of the step, a `Step`.

        Returns:
            The outputs of the step; None if it was skipped.

        Raises:
            UserError: if training ends, with step, value, learning rate and file.
        """
        state_before = copy.deepcopy(trainer.state_dict())
        number = trainer.progress.step + 1
        outputs: dict[str, Tensor] = trainer.update(step)
        try:
            check_finite(outputs if sum(step.sample_counts) else {}, f"step {number}:")
            trainer.check_weights(number)
        except NonFiniteError as error:
            rate = trainer.optimizers[0].param_groups[0]["lr"]
            description = f"{error} (learning rate {rate:.4g})"
            self._undo(trainer, step, state_before, description)
            return None
        return outputs

    def _undo(
        self, trainer: Any, step: Any, state_before: Mapping[str, Any], description: str
    ) -> None:
        progress = trainer.progress
        number = progress.step + 1
        batches = []
        for process_batches in all_gather_object(as_plain_data(step.batches)):
            batches.extend(process_batches)
        non_finite_inputs = _non_finite_names(batches)
        if non_finite_inputs:
            names = " and ".join(non_finite_inputs)
            description += f"; the batch from the data set has non-finite values in {names}"
        else:
            trainer.load_state_dict(copy.deepcopy(state_before))  # which shares its tensors
            cause = find_cause(trainer, step)
            if cause:
                description += f"; {cause}"
        file = self.folder / f"non_finite_{number:08d}.pt"
        if progress.skipped_steps < MAX_SAVED_STEPS:
            self._save(file, {**state_before, "batches": batches}, number)
            description += f"; {file} contains the batch and the state before the step"
        skipped_all_steps = progress.step == progress.skipped_steps
        if not self.skips or (skipped_all_steps and number >= MAX_SKIPPED_FIRST_STEPS):
            resume = next_command("train.py", "--resume", file)
            raise UserError(
                f"{description}\n{resume} repeats the "
                "step; try a lower optimizer.lr, trainer.clip_norm, trainer.precision=fp32 or "
                "trainer.non_finite=skip",
                TRAINING_FAILED,
            )
        trainer.load_state_dict(state_before)
        progress.skipped_steps += 1
        log.warning("%s; skipped (%d so far)", description, progress.skipped_steps)

    def _save(self, file: Path, state: Mapping[str, Any], step: int) -> None:
        if self.sharded:
            from storage.sharded import ShardedSave

            def publish(whole_state: Mapping[str, Any]) -> None:
                save_checkpoint(file, whole_state)

            ShardedSave(self.folder, state, step, publish).wait()
        elif is_main_process():
            save_checkpoint(file, state)


def fit_with_recovery(trainer: Any) -> None:
    """Trains; after a NonFiniteError, repeats the steps since the last checkpoint, checked.

    A stop signal has precedence: the resumed run finds the value again.

    Args:
        trainer: a `BaseTrainer`.
    """
    while True:
        try:
            trainer.fit()
            return
        except NonFiniteError as error:
            trainer.stop_signal = max(all_gather_object(trainer.stop_signal))
            if trainer.stop_signal:
                log.warning("%s; a resumed run repeats the steps since the last checkpoint", error)
                return
            failed_step = trainer.progress.step
            if failed_step <= trainer.guard.checked_until:
                resume = next_command("train.py", "--resume", trainer.run)
                raise UserError(
                    f"{error}; no training step caused it\nresume: {resume}", TRAINING_FAILED
                ) from error
            log.warning("%s; repeating the steps since the last checkpoint", error)
            trainer.guard.checked_until = failed_step
            files = _checkpoints_until(trainer.run, failed_step)
            if not files:
                raise UserError(
                    f"{error}; all checkpoints in {trainer.run} are of later steps, so the steps "
                    "before it cannot be repeated",
                    TRAINING_FAILED,
                ) from error
            _, state = load_first_usable(files)
            trainer.load_state_dict(state)


def _checkpoints_until(run: Path, step: int) -> list[Path]:
    """The checkpoints of a run, without ``step_*.pt`` of later steps.

    There are later ones if the run was resumed from one of its earlier checkpoints and has not
    saved since.
    """
    files = []
    for file in find_checkpoints(run, best=False):
        file_step = step_in_name(file)
        if file_step is None:
            file_step = read_step(file)
        if file_step is None or file_step <= step:
            files.append(file)
    return files


def _non_finite_names(batches: list[Any]) -> list[str]:
    """Names of the tensors with non-finite values in any of the batches."""
    names = set()
    for batch in batches:
        for name, tensor in named_tensors(batch):
            if not tensor.isfinite().all():
                names.add(name)
    return sorted(names)
