"""Runs on a part of the data, trainer.overfit and trainer.fraction, and how they are marked."""
# ruff: noqa: D103  the names of the tests state what they test

import csv
import json
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG, QUICK_SETTINGS, TINY_MODEL

from base.batch_loader import BatchLoader
from builders import build_training_loaders
from data_loader.subsets import stratified_fraction
from storage.run_folder import read_manifest

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


def indices_of(loader: BatchLoader, epoch: int = 0) -> list[list[int]]:
    first = epoch * loader.steps_per_epoch
    steps = range(first, first + loader.steps_per_epoch)
    return [loader.source.sample_indices(step).tolist() for step in steps]


@pytest.mark.parametrize("sampler", ["shuffled", "balanced"])
def test_overfit_repeats_the_first_batches_without_augmentation(
    make_settings: Callable[..., Any], sampler: str
) -> None:
    changes = (f"data.sampler={sampler}", "trainer.accumulate=2")
    whole = build_training_loaders(make_settings(*changes))["train"]
    loaders = build_training_loaders(make_settings(*changes, "trainer.overfit=3"))
    train = loaders["train"]
    first_samples = [index for step in indices_of(whole) for index in step][:150]
    assert indices_of(train) == [first_samples[:100], first_samples[100:]]
    assert indices_of(train, epoch=4) == indices_of(train)

    validation = loaders["validation"]
    validated = [index for step in indices_of(validation) for index in step]
    assert validated == sorted(set(first_samples))
    (step,) = train.steps(1, 2)
    images = validation.load_batch(torch.tensor(first_samples[100:]))["input"]
    assert torch.equal(step.batches[0]["input"], images)


def test_overfit_takes_at_most_an_epoch(make_settings: Callable[..., Any]) -> None:
    loader = build_training_loaders(make_settings("trainer.overfit=99"))["train"]
    assert loader.steps_per_epoch == 16
    assert loader.sample_count == 790


@pytest.mark.parametrize("sampler", ["shuffled", "sequential"])
def test_fraction_takes_the_same_part_of_each_class(
    make_settings: Callable[..., Any], sampler: str
) -> None:
    settings = make_settings("trainer.fraction=0.3", f"data.sampler={sampler}")
    loaders = build_training_loaders(settings)
    for loader, total in ((loaders["train"], 790), (loaders["validation"], 210)):
        indices = [index for step in indices_of(loader) for index in step]
        assert len(set(indices)) == len(indices) == loader.sample_count == round(0.3 * total)
        targets: Any = loader.dataset.targets  # type: ignore[attr-defined]
        expected = 0.3 * targets.bincount()
        assert (targets[indices].bincount() - expected).abs().max() <= 1
    train = loaders["train"]
    if sampler == "shuffled":
        assert indices_of(train, epoch=1) != indices_of(train)
    else:
        assert indices_of(train) == indices_of(train, epoch=1)
    first, second = (sorted(chain(*indices_of(train, epoch))) for epoch in (0, 1))
    assert first == second


def test_a_fraction_of_any_targets_has_samples(splits: dict[str, Any]) -> None:
    class Data:
        def __init__(self, targets: Any) -> None:
            self.targets = targets

        def __len__(self) -> int:
            return 90

    numbers = torch.arange(90.0)
    for targets in (numbers, torch.eye(3).repeat(30, 1), torch.zeros(90, 2, 2), None):
        data: Any = Data(targets)
        assert len(stratified_fraction(data, 0.1, seed=1)) == 9
        assert len(stratified_fraction(data, 1e-9, seed=1)) == 1
    column = stratified_fraction(Data(numbers[:, None]), 0.1, seed=1)  # type: ignore[arg-type]
    selected = numbers[stratified_fraction(Data(numbers), 0.1, seed=1)]  # type: ignore[arg-type]
    assert torch.equal(numbers[column], selected)
    assert (selected // 30).long().bincount().tolist() == [3, 3, 3]


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (("trainer.overfit=1", "trainer.fraction=0.5"), ("trainer.overfit", "trainer.fraction")),
        (("trainer.fraction=0.5", "data.sampler=balanced"), ("trainer.fraction", "balanced")),
        (("trainer.fraction=1.0",), ("trainer.fraction",)),
        (("trainer.overfit=0",), ("trainer.overfit",)),
        (("trainer.fraction=0.01", "data.drop_last=true"), ("data.drop_last", "8 samples")),
    ],
)
def test_impossible_subsets_are_errors(
    refused: Callable[..., str], changes: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    message = refused(*changes)
    for part in parts:
        assert part in message


@pytest.mark.usefixtures("without_figures")
@pytest.mark.parametrize(
    ("change", "mark", "samples"),
    [("trainer.overfit=2", "overfit-2", 100), ("trainer.fraction=0.1", "fraction-0.1", 79)],
)
def test_results_of_a_part_are_marked(
    tmp_path: Path, command: Command, capsys: Captured, change: str, mark: str, samples: int
) -> None:
    options = ("--config", CONFIG, *QUICK_SETTINGS, *TINY_MODEL, "trainer.epochs=1")
    assert command("train", *options, change) == 0
    assert f"{mark}: the results are not those of all samples" in capsys.readouterr().out
    (run,) = (tmp_path / f"runs/synthetic-{mark}").iterdir()
    manifest = read_manifest(run)
    assert manifest["data"]["samples"] == samples
    assert manifest["data"]["title"] == f"synthetic data ({mark})"
    with (run / "metrics.csv").open(newline="") as file:
        assert {row["data"] for row in csv.DictReader(file)} == {f"synthetic data ({mark})"}
    assert command("evaluate", run) == 0
    metrics = run / f"evaluation/test-{mark}/metrics.json"
    assert json.loads(metrics.read_text())["data"] == f"synthetic data ({mark})"

    capsys.readouterr()
    unmarked = ("trainer.overfit=null", "trainer.fraction=null", "trainer.epochs=2")
    assert command("train", "--resume", run, *unmarked) == 2
    message = capsys.readouterr().err
    assert change.partition("=")[0] in message
    assert "--force" in message
    assert command("train", "--resume", run, *unmarked, "--force") == 0
    assert read_manifest(run)["data"]["title"] == f"synthetic data ({mark})"


def test_one_batch_can_be_learned(
    tmp_path: Path, train: Command, logged: Callable[..., list[float]]
) -> None:
    run = tmp_path / "run"
    changes = ("trainer.overfit=1", "trainer.epochs=80", "trainer.validate_every_epochs=80")
    assert train(run, "model.name=networks.MLP", *changes, "loss.label_smoothing=0.0") == 0
    assert logged(run, "validation", "accuracy") == [1.0]
