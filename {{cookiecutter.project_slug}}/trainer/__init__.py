"""Trainers: what a training step and an evaluation step compute."""

from collections.abc import Iterable
from pathlib import Path

from base.base_model import BaseModel
from base.base_trainer import BaseTrainer, Loaders
from config.arguments import load_class
from config.loading import load_settings
from config.schema import Settings
from data_loader import build_dataset, build_loader
from model import restore_model
from storage.checkpoint import load_checkpoint


def build_trainer(
    settings: Settings, model: BaseModel, loaders: Loaders, run: Path | None = None
) -> BaseTrainer:
    """The trainer that the settings name; to train, it needs a run folder."""
    trainer = load_class("trainer", settings.trainer.name, BaseTrainer)
    return trainer(settings, model, loaders, run, **settings.trainer.arguments)


def restore_trainer(
    checkpoint: Path, split: str | None, overrides: Iterable[str] = ()
) -> BaseTrainer:
    """A trainer with the trained model of a checkpoint, to evaluate a split or to predict."""
    state = load_checkpoint(checkpoint)
    settings = load_settings(state["settings"], overrides)
    dataset = build_dataset(settings, split)
    dataset.load_state_dict(state["data"])
    loaders = {split or "predict": build_loader(settings, dataset)}
    trainer = build_trainer(settings, restore_model(settings, state), loaders)
    trainer.step = state["step"]
    return trainer
