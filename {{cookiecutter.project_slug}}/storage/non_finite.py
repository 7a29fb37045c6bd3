"""What is done about a step that leaves a loss or a weight that is no number."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from base.base_dataset import Batch
from logger.console import log
from storage.checkpoint_file import check_finite, load_first_usable, save_checkpoint
from storage.checkpointer import write_state
from storage.run_folder import find_checkpoints
from utils.errors import TRAINING_FAILED, UV, NonFiniteError, UserError
from utils.parallel import gather

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer

KEPT = 10  # batches that are saved, of those that are skipped


def fit_guarded(trainer: "BaseTrainer") -> None:
    """Trains; after NaN or infinity, again from the last checkpoint, looking at each step.

    That finds the step without waiting for the device in all the others, as runs are repeatable.
    """
    while True:
        try:
            return trainer.fit()
        except NonFiniteError as error:
            log.warning("%s; the steps since the last checkpoint are repeated one by one", error)
            trainer.guarded_until = trainer.step
            trainer.load_state_dict(load_first_usable(find_checkpoints(trainer.run, best=False))[1])


def update_guarded(trainer: "BaseTrainer", batches: Sequence[Batch]) -> None:
    """An update that is looked at before training goes on; the host waits for it.

    If it left NaN or infinity, it is taken back, and what it takes to see it again is saved.
    Training then ends or, with `trainer.non_finite=skip`, goes on with the next step.

    Raises:
        UserError: naming step, value, learning rate and file, if training ends.
    """
    before = copy.deepcopy({**trainer.state_dict(), "step": trainer.step - 1})
    trainer.update(batches)
    try:
        for part in (trainer.meter.sums, trainer.state_dict()):
            check_finite(part, f"step {trainer.step}:")
    except NonFiniteError as error:
        file = trainer.run / f"non_finite_{trainer.step:08d}.pt"
        seen = [batch for own in gather([*batches]) for batch in own]  # of all processes
        if trainer.skipped < KEPT:
            state, write = {**before, "batches": seen}, partial(save_checkpoint, file)
            if parts := write_state(file.parent, state, write, trainer.sharded):
                parts.finish()
        text = f"{error} (learning rate {trainer.optimizers[0].param_groups[0]['lr']:.4g})"
        bad = {k for batch in seen for k, v in batch.items() if not v.isfinite().all()}
        text += f"; nor is {' or '.join(sorted(bad))} in the batch that the data gave" * bool(bad)
        text += f"; batch and state before it are in {file}" * (trainer.skipped < KEPT)
        # To skip is no way out where none of the first steps was good.
        if trainer.options.non_finite == "stop" or KEPT <= trainer.step == trainer.skipped + 1:
            advice = f"{UV}python train.py --resume {file} repeats it; try a lower optimizer.lr, "
            advice += "trainer.clip_norm, trainer.precision=fp32 or trainer.non_finite=skip"
            raise UserError(f"{text}\n{advice}", TRAINING_FAILED) from error
        trainer.load_state_dict(before)
        trainer.step, trainer.skipped = trainer.step + 1, trainer.skipped + 1
        log.warning("%s; skipped (%d so far)", text, trainer.skipped)
