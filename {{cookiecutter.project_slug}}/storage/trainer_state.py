"""The state of a trainer with that of its data: what a checkpoint contains."""

import copy
from collections.abc import Mapping
from typing import Any

from logger.console import log
from optim.optimizers import evaluation_mode, has_evaluation_mode
from storage.state import collect_state, restore_state, stateful_objects
from utils.errors import UserError
from utils.nested import is_plain_data

EVALUATED_WEIGHTS = "optimizer_eval_weights"
# Names in a checkpoint that are not attributes of the trainer.
RESERVED = {
    "format",
    "settings",
    "data",
    "data_state",
    "fingerprint",
    "example",
    "example_inputs",
    "ranks",
    EVALUATED_WEIGHTS,
}
# What a run may stop to use, because the settings decide on it.
DEPENDING_ON_SETTINGS = {"moving_average", "schedulers"}


def collect_trainer_state(trainer: Any) -> dict[str, Any]:
    """See `BaseTrainer.state_dict`; the parts of the trainer must have been built."""
    example = trainer.dataset.example
    if not is_plain_data(example):
        example = None
    parts = collect_state(trainer)
    for name in parts.keys() & RESERVED - {"ranks"}:
        raise UserError(
            f"{type(trainer).__name__}.{name} has a state, but a checkpoint keeps something else "
            "under this name; rename the attribute"
        )
    state = {
        "settings": trainer.settings.model_dump(mode="json"),
        "data": trainer.dataset.state_dict(),
        "data_state": collect_state(trainer.dataset, trainer.excluded_from_data_state),
        "fingerprint": trainer.dataset.fingerprint,
        "example": example,
        "example_inputs": trainer.saved_example_inputs,
        **parts,
    }
    if any(has_evaluation_mode(optimizer) for optimizer in trainer.optimizers):
        with evaluation_mode(trainer.optimizers):
            state[EVALUATED_WEIGHTS] = copy.deepcopy(trainer.model.state_dict())
    return state


def restore_for_evaluation(trainer: Any, state: Mapping[str, Any]) -> None:
    """Restores the progress and what a subclass of the trainer has added, such as a threshold.

    The model has its weights already. A state that differs between the processes of the run is not
    restored, because an evaluation may have another number of processes.
    """
    restore_state(trainer, {**state, "ranks": []}, excluded=[trainer.model])


def restore_trainer_state(trainer: Any, state: Mapping[str, Any]) -> None:
    """See `BaseTrainer.load_state_dict`; the parts of the trainer must have been built."""
    _check_scheduler(trainer, state)
    saved_optimizer = state["settings"]["optimizer"]["name"]
    restore_state(
        trainer,
        state,
        same_optimizer=saved_optimizer == trainer.settings.optimizer.name,
        restores_rates=bool(trainer.schedulers),
    )
    _report_unused(trainer, state)
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


def _check_scheduler(trainer: Any, state: Mapping[str, Any]) -> None:
    """Checks that a scheduler of torch can continue with the settings.

    Raises:
        UserError: if they have changed: it would continue with its arguments in the checkpoint.
    """
    if not trainer.schedulers:
        return
    before = state["settings"]["scheduler"]
    now = trainer.settings.model_dump(mode="json")["scheduler"]
    for name in ("name", *sorted(before.keys() | now.keys())):
        if before.get(name) != now.get(name):
            raise UserError(
                f"scheduler.{name} = {now.get(name)!r}: the run has {before.get(name)!r}, and "
                f"{type(trainer.schedulers[0]).__name__} continues with its own arguments; keep "
                "it, use a function of optim/schedules.py, or start a new run with model.init_from"
            )


def _report_unused(trainer: Any, state: Mapping[str, Any]) -> None:
    """Warns of states in a checkpoint that no attribute of the trainer has taken."""
    names = set(state) - RESERVED
    for rank_state in state["ranks"]:
        names |= rank_state.keys()
    names -= {*stateful_objects(trainer), *trainer.saved_attributes}
    unused = [name for name in sorted(names) if name.split(".")[0] not in DEPENDING_ON_SETTINGS]
    if unused:
        log.warning(
            "%s in the checkpoint is lost: %s does not have it when it is built; create it in the "
            "constructor if it is still used",
            ", ".join(unused),
            type(trainer).__name__,
        )
