"""Trainers: what a training step and an evaluation step compute."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from base.base_model import BaseModel
from base.base_trainer import BaseTrainer, Loaders, scalars_in
from config.loading import load_settings
from config.reference import load_class
from config.schema import Settings
from data_loader import build_dataset, build_loader
from model import build_model
from storage.checkpoint import load_first
from storage.run_folder import folder_of
from utils.errors import UserError


def build_trainer(settings: Settings, model: BaseModel, loaders: Loaders, run: Path) -> BaseTrainer:
    """The trainer that the settings name."""
    trainer = load_class("trainer", settings.trainer.name, BaseTrainer)
    return trainer(settings, model, loaders, run, **(settings.trainer.model_extra or {}))


def rehearse(trainer: BaseTrainer) -> None:
    """Goes through a step on one batch, without an update, to find what does not fit together.

    Raises:
        UserError: if `checkpoint.monitor` is none of the scalar metrics.
    """
    batch = trainer.to_device(next(trainer.loaders["train"].steps(0, 1))[0])
    with trainer.evaluating() as model:
        trainer.training_step(model, batch)
        trainer.evaluation_step(model, batch)
    scalars = scalars_in(trainer.metrics.compute())
    if (name := trainer.settings.checkpoint.monitor) not in scalars:
        raise UserError(f"checkpoint.monitor = {name!r}: allowed are {', '.join(scalars)}")


def restore_trainer(
    files: Sequence[Path], split: str | None, overrides: Iterable[str]
) -> tuple[BaseTrainer, Path]:
    """A trainer to evaluate a split or to predict, with the model of the first usable checkpoint.

    The checkpoint's file is returned as well.
    """
    checkpoint, state = load_first(files)
    settings = load_settings(state["settings"], overrides)
    dataset = build_dataset(settings, split)
    dataset.load_state_dict(state["data"])
    loaders = {split or "predict": build_loader(settings, dataset)}
    trainer = build_trainer(settings, build_model(settings, state), loaders, folder_of(checkpoint))
    trainer.step = state["step"]
    return trainer, checkpoint
