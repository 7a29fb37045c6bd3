"""Trainers: what a training step and an evaluation step compute."""

from pathlib import Path

from base.base_model import BaseModel
from base.base_trainer import BaseTrainer, Loaders
from config.loading import load_settings
from config.reference import load_class
from config.schema import Settings
from data_loader import build_dataset, build_loader
from model import build_model
from storage.checkpoint import load_checkpoint
from storage.run_folder import folder_of


def build_trainer(settings: Settings, model: BaseModel, loaders: Loaders, run: Path) -> BaseTrainer:
    """The trainer that the settings name."""
    trainer = load_class("trainer", settings.trainer.name, BaseTrainer)
    return trainer(settings, model, loaders, run, **(settings.trainer.model_extra or {}))


def restore_trainer(checkpoint: Path, split: str | None, overrides: list[str]) -> BaseTrainer:
    """A trainer with the trained model of a checkpoint, to evaluate a split or to predict."""
    state = load_checkpoint(checkpoint)
    settings = load_settings(state["settings"], overrides)
    dataset = build_dataset(settings, split)
    dataset.load_state_dict(state["data"])
    loaders = {split or "predict": build_loader(settings, dataset)}
    trainer = build_trainer(settings, build_model(settings, state), loaders, folder_of(checkpoint))
    trainer.step = state["step"]
    return trainer
