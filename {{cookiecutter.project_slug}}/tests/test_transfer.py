"""What was learned from some classes helps with others, of which there are few samples."""
# ruff: noqa: D103  the names of the tests say what they test

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Generator, Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from builders import build_dataset, build_loader, build_model
from config.schema import Settings
from data_loader import synthetic
from trainer.classifier import Classifier
from utils.randomness import seed_everything

Splits = Mapping[str, BaseDataset]


class Some(BaseDataset):
    """Those `places` of the samples of each of a few classes of another data set."""

    in_memory = True

    def __init__(self, whole: BaseDataset, classes: Sequence[int], places: slice) -> None:
        self.title, self.whole = whole.title, whole
        self.classes = [whole.classes[k] for k in classes]
        targets = whole.__getitems__(torch.arange(len(whole)))["target"]
        found = [(targets == k).nonzero()[places, 0] for k in classes]
        self.places = torch.cat(found)
        sizes = torch.tensor([len(rows) for rows in found])
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
    """Shares of wrong answers on two classes, trained on three samples of each, for five seeds.

    Of a network that has seen the eight other classes before, of which the head alone is trained,
    and of a new one, in the same steps.
    """

    def train(samples: Some, unseen: Some, *changes: str) -> Classifier:
        options = settings(*changes)
        seed_everything(options.seed)
        loaders = {"train": build_loader(options, samples, training=True)}
        loaders["validation"] = build_loader(options, samples)  # of few, quickly done
        run = Path(options.name)
        (run / "checkpoints").mkdir(parents=True)
        model = build_model(options, samples)
        arguments = options.trainer.arguments
        trainer = Classifier(settings=options, model=model, loaders=loaders, run=run, **arguments)
        trainer.fit()
        trainer.loaders = {"unseen": build_loader(options, unseen)}
        return trainer

    eight = [k for k in range(10) if k not in others]
    before = [Some(splits[split], eight, slice(None)) for split in ("train", "validation")]
    train(before[0], before[1], "name=before", "trainer.epochs=4")
    few, unseen = (Some(splits["train"], others, slice(*s)) for s in ((0, 3), (3, 500)))
    begun = ("model.init_from=before", "model.freeze=[stage*, residual*]")
    found = []
    for name, start in {"moved": begun, "new": ()}.items():
        wrong = []
        for seed in range(5):
            changes = (f"name={name}{seed}", f"seed={seed}", "trainer.epochs=40", *start)
            wrong.append(1 - train(few, unseen, *changes).evaluate("unseen")["accuracy"])
        found.append(torch.stack(wrong))
    return found


def test_two_classes_are_learned_better_from_few_samples_after_eight_others(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "TRAINING", 6000)
    splits = {split: build_dataset(make_settings(), split) for split in ("train", "validation")}
    splits["validation"].load_state_dict(splits["train"].state_dict())
    moved, new = errors(splits, (3, 4), make_settings)
    assert (moved < new).sum() >= 4
    assert moved.mean() < 0.5 * new.mean()
