"""Everything that the next step of training depends on, as tensors and plain values."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from utils.errors import RANK, TRAINING_FAILED, WORLD, UserError
from utils.parallel import gather, place_like
from utils.randomness import rng_state, set_rng_state

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer

PROGRESS = ("step", "evaluated", "best", "validations_without_improvement", "skipped")


def parts_of(trainer: "BaseTrainer") -> dict[str, Any]:
    """All that has a state of its own."""
    parts: dict[str, Any] = {"model": trainer.model, "scaler": trainer.scaler}
    parts |= {f"optimizer{k}": part for k, part in enumerate(trainer.optimizers)}
    return parts if trainer.average is None else parts | {"average": trainer.average}


def trainer_state(trainer: "BaseTrainer") -> dict[str, Any]:
    """The state of a trainer; of several processes, that of each where they differ (``ranks``)."""
    meter, dataset = trainer.meter, trainer.dataset
    sums = {name: value.cpu() for name, value in meter.sums.items()}
    own = {"draws": rng_state(trainer.device), "sums": sums, "counts": meter.counts}
    return {
        "settings": trainer.settings.model_dump(mode="json"),
        "data": dataset.state_dict(),
        "fingerprint": dataset.fingerprint,
        "example": dataset.example,
        **{name: getattr(trainer, name) for name in PROGRESS},
        "ranks": gather(own),
        **{name: part.state_dict() for name, part in parts_of(trainer).items()},
    }


def load_trainer_state(trainer: "BaseTrainer", state: Mapping[str, Any]) -> None:
    """Takes up where `trainer_state` was taken, with any number of processes.

    Raises:
        UserError: if the settings' last step is before that.
    """
    same = state["settings"]["optimizer"]["name"] == trainer.settings.optimizer.name
    for name, part in parts_of(trainer).items():
        known = name in state and (same or not name.startswith("optimizer"))
        saved = state[name] if known else part.state_dict()  # what is new begins now
        if "param_groups" in saved:  # rates and the like come from the settings
            saved = {**saved, "param_groups": part.state_dict()["param_groups"]}
        part.load_state_dict(_placed(saved, part))
    for name in PROGRESS:
        setattr(trainer, name, state[name])
    if (now := trainer.step) > (end := trainer.total_steps):
        raise UserError(f"trainer.epochs or max_steps ends at step {end}, but the run is at {now}")
    ranks = state["ranks"]
    trainer.meter.sums, trainer.meter.counts = {}, {}
    for rank, own in enumerate(ranks):
        if rank % WORLD == RANK:  # of more processes than there are now, several
            trainer.meter.take(own["sums"], own["counts"])
    if len(ranks) > RANK:
        set_rng_state(ranks[RANK]["draws"], trainer.device)


def _placed(saved: Mapping[str, Any], part: Any) -> dict[str, Any]:
    """The saved state of a part, laid out as its parameters are."""
    if "param_groups" not in saved:
        like = part.state_dict()
        return {name: place_like(value, like.get(name)) for name, value in saved.items()}
    parameters = [p for group in part.param_groups for p in group["params"]]
    state = {
        k: {name: place_like(value, parameters[k]) for name, value in moments.items()}
        for k, moments in saved["state"].items()
    }
    return {**saved, "state": state}


def check_alike(trainer: "BaseTrainer") -> None:
    """Raises a UserError if the processes do not hold the same weights, as all should."""
    if WORLD == 1 or trainer.sharded:
        return
    total = sum(float(p.detach().double().sum()) for p in trainer.model.parameters())
    if len({*gather(repr(total))}) > 1:
        text = "the processes' weights differ: what computes the loss has to call the model that "
        advice = "training_step is given (elsewhere, self.parallel), and nothing but that"
        raise UserError(f"step {trainer.step}: {text}{advice}", TRAINING_FAILED)
