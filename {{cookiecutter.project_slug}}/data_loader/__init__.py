"""Data sets, and the batches made of them."""

from collections.abc import Callable

from base.base_dataset import BaseDataset
from base.batch_loader import BatchLoader
from config.reference import load_class
from config.schema import Settings


def build_dataset(settings: Settings, split: str | None) -> BaseDataset:
    """One split of the data set that the settings name; None gives one that only reads inputs."""
    data = settings.data
    factory: Callable[..., BaseDataset] = load_class("data_loader", data.name, BaseDataset)
    return factory(data.root, split, settings.seed, **(data.model_extra or {}))


def build_loader(settings: Settings, dataset: BaseDataset, training: bool = False) -> BatchLoader:
    """A loader that goes through a data set in order or, for training, shuffles and augments."""
    seed, accumulate = (settings.seed, settings.trainer.accumulate) if training else (None, 1)
    data = settings.data
    return BatchLoader(dataset, data.batch_size, seed, accumulate, data.workers)


def build_training_loaders(settings: Settings) -> dict[str, BatchLoader]:
    """Loaders of the training set, from which everything is learned, and of the validation set."""
    train, validation = build_dataset(settings, "train"), build_dataset(settings, "validation")
    validation.load_state_dict(train.state_dict())
    loader = build_loader(settings, train, training=True)
    return {"train": loader, "validation": build_loader(settings, validation)}
