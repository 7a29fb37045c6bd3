"""What was learned from some classes helps with others, of which there are few samples."""
# ruff: noqa: D103  the names of the tests say what they test

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from builders import build_loader, build_model
from config.schema import Settings
from trainer.classifier import Classifier
from utils.seed import seed_everything

Splits = Mapping[str, BaseDataset]


class Some(BaseDataset):
    """The first `count` samples (or all) of each of a few classes of another data set."""

    in_memory = True

    def __init__(self, whole: BaseDataset, classes: Sequence[int], count: int | None) -> None:
        self.title, self.whole = whole.title, whole
        self.classes = [whole.classes[k] for k in classes]
        targets = whole.__getitems__(torch.arange(len(whole)))["target"]
        places = [(targets == k).nonzero()[:count, 0] for k in classes]
        self.places = torch.cat(places)
        sizes = torch.tensor([len(found) for found in places])
        self.targets = torch.arange(len(classes)).repeat_interleave(sizes)

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> Sample:
        return {**self.whole[int(self.places[index])], "target": self.targets[index]}

    def __getitems__(self, indices: Tensor) -> Batch:
        batch = self.whole.__getitems__(self.places[indices])
        return {**batch, "target": self.targets[indices]}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        return self.whole.transform(batch, generator)


def errors(
    splits: Splits, others: Sequence[int], settings: Callable[..., Settings]
) -> list[Tensor]:
    """Shares of wrong answers on two classes, trained on five samples of each, for five seeds.

    Of a network that has seen the eight other classes before, with its first layers frozen, and of
    a new one, in the same steps.
    """

    def train(classes: Sequence[int], count: int | None, *changes: str) -> Classifier:
        options = settings(*changes)
        seed_everything(options.seed)
        train, validation = (
            Some(splits["train"], classes, count),
            Some(splits["validation"], classes, None),
        )
        loaders = {"train": build_loader(options, train, training=True)}
        loaders["validation"] = build_loader(options, validation)
        run = Path(options.name)
        (run / "checkpoints").mkdir(parents=True)
        trainer = Classifier(options, build_model(options, train), loaders, run)
        trainer.fit()
        return trainer

    train([k for k in range(10) if k not in others], None, "name=before", "trainer.epochs=4")
    begun = ("model.init_from=before", "model.freeze=[stage1.*, residual1.*]")
    found = []
    for name, start in {"moved": begun, "new": ()}.items():
        wrong = []
        for seed in range(5):
            few = (f"name={name}{seed}", f"seed={seed}", "trainer.epochs=40", *start)
            wrong.append(1 - train(others, 5, *few).evaluate("validation")["accuracy"])
        found.append(torch.stack(wrong))
    return found


def test_two_classes_are_learned_better_from_few_samples_after_eight_others(
    splits: Splits, make_settings: Callable[..., Settings]
) -> None:
    moved, new = errors(splits, (3, 4), make_settings)
    assert (moved <= new).all()
    assert moved.mean() < 0.6 * new.mean()
