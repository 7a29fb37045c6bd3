"""Transfer learning: pretraining on some classes helps with few samples of others."""
# ruff: noqa: D103  the names of the tests say what they test

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from builders import build_fitted_dataset, build_loader, build_new_model
from config.schema import Settings
from data_loader import synthetic
from trainer.classifier import Classifier
from utils.randomness import seed_everything

Splits = Mapping[str, BaseDataset]


class ClassSubset(BaseDataset):
    """The samples of some classes of another data set, and of each class those at `positions`."""

    in_memory = True
    uses_global_rng = False

    def __init__(self, whole: BaseDataset, classes: Sequence[int], positions: slice) -> None:
        self.title = whole.title
        self.whole = whole
        self.classes = [whole.classes[k] for k in classes]
        targets = whole.__getitems__(torch.arange(len(whole)))["target"]
        indices_by_class = [(targets == k).nonzero()[positions, 0] for k in classes]
        sizes = torch.tensor([len(indices) for indices in indices_by_class])
        self.indices = torch.cat(indices_by_class)
        self.targets = torch.arange(len(classes)).repeat_interleave(sizes)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return {**self.whole[int(self.indices[index])], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        batch = self.whole.__getitems__(self.indices[indices])
        return {**batch, "target": self.targets[indices]}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        return self.whole.transform(batch, generator)


def error_rates(
    splits: Splits, others: Sequence[int], settings: Callable[..., Settings]
) -> tuple[Tensor, Tensor]:
    """Trains on three samples of each of two classes, with five seeds.

    Returns:
        The error rates of a network that was trained on the eight other classes before and of
        which only the head is trained, and those of a new network, trained for as many steps.
    """

    def train(samples: ClassSubset, unseen: ClassSubset, *changes: str) -> Classifier:
        options = settings(*changes)
        seed_everything(options.seed)
        loaders = {
            "train": build_loader(options, samples, training=True),
            "validation": build_loader(options, samples),  # a few samples, so it takes no time
        }
        run = Path(options.name)
        (run / "checkpoints").mkdir(parents=True)
        model = build_new_model(options, samples)
        arguments = options.trainer.arguments
        trainer = Classifier(settings=options, model=model, loaders=loaders, run=run, **arguments)
        trainer.fit()
        trainer.loaders = {"unseen": build_loader(options, unseen)}
        return trainer

    def train_with_five_seeds(name: str, *changes: str) -> Tensor:
        rates = []
        for seed in range(5):
            own = (f"name={name}{seed}", f"seed={seed}", "trainer.epochs=40")
            trainer = train(few, unseen, *own, *changes)
            rates.append(1 - trainer.evaluate("unseen")["accuracy"])
        return torch.stack(rates)

    eight = [k for k in range(10) if k not in others]
    pretraining = ClassSubset(splits["train"], eight, slice(None))
    validation = ClassSubset(splits["validation"], eight, slice(None))
    train(pretraining, validation, "name=pretrained", "trainer.epochs=4")

    few = ClassSubset(splits["train"], others, slice(0, 3))
    unseen = ClassSubset(splits["train"], others, slice(3, 500))
    transfer = ("model.init_from=pretrained", "model.freeze=[stage*, residual*]")
    return train_with_five_seeds("transferred", *transfer), train_with_five_seeds("new")


def test_pretraining_on_eight_classes_lowers_the_error_with_few_samples_of_two_others(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "TRAINING", 6000)
    splits = {
        split: build_fitted_dataset(make_settings(), split) for split in ("train", "validation")
    }
    transferred, new = error_rates(splits, (3, 4), make_settings)
    assert (transferred < new).sum() >= 4
    assert transferred.mean() < 0.5 * new.mean()
