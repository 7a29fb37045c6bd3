"""The state of a trainer with that of its data: what a checkpoint contains."""

import copy
from collections.abc import Mapping
from typing import Any

from logger.console import log
from optim.optimizers import evaluation_mode, has_evaluation_mode
from storage.state import collect_state, restore_state
from utils.errors import UserError
from utils.nested import is_plain_data


def collect_trainer_state(trainer: Any) -> dict[str, Any]:
    """See `BaseTrainer.state_dict`; the parts of the trainer must have been built."""
    example = trainer.dataset.example
    if not is_plain_data(example):
        example = None
    state = {
        "settings": trainer.settings.model_dump(mode="json"),
        "data": trainer.dataset.state_dict(),
        "data_state": collect_state(trainer.dataset, trainer.excluded_from_data_state),
        "fingerprint": trainer.dataset.fingerprint,
        "example": example,
        "example_inputs": trainer.saved_example_inputs,
        **collect_state(trainer),
    }
    if any(has_evaluation_mode(optimizer) for optimizer in trainer.optimizers):
        with evaluation_mode(trainer.optimizers):
            state["optimizer_eval_weights"] = copy.deepcopy(trainer.model.state_dict())
    return state


def restore_for_evaluation(trainer: Any, state: Mapping[str, Any]) -> None:
    """Restores the progress and what a subclass of the trainer has added, such as a threshold.

    The model has its weights already. A state that differs between the processes of the run is not
    restored, because an evaluation may have another number of processes.
    """
    restore_state(trainer, {**state, "ranks": []}, excluded=[trainer.model])


def restore_trainer_state(trainer: Any, state: Mapping[str, Any]) -> None:
    """See `BaseTrainer.load_state_dict`; the parts of the trainer must have been built."""
    saved_optimizer = state["settings"]["optimizer"]["name"]
    restore_state(
        trainer,
        state,
        same_optimizer=saved_optimizer == trainer.settings.optimizer.name,
        restores_rates=bool(trainer.schedulers),
    )
    average = trainer.moving_average
    if average is not None and "moving_average" not in state:  # trainer.ema is new in this run
        average.module.load_state_dict(trainer.model.state_dict())
    excluded = trainer.excluded_from_data_state
    restore_state(trainer.dataset, state["data_state"], excluded=excluded)
    if trainer.progress.step > trainer.total_steps:
        raise UserError(
            "trainer.epochs or trainer.max_steps ends the run at step "
            f"{trainer.total_steps}, but it is already at step {trainer.progress.step}"
        )
    criterion_before = trainer.progress.criterion
    trainer.progress.compare_by(trainer.criterion)
    if criterion_before and criterion_before != trainer.criterion:
        log.warning(
            "best.pt becomes the %s instead of the %s: the "
            "comparison starts again, also for trainer.early_stop",
            trainer.criterion,
            criterion_before,
        )
