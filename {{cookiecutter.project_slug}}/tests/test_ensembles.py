"""evaluate.py with several runs: their ensemble, and runs that cannot form one."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Minimal
from torch import nn

from builders import restore_trainer
from data_loader import synthetic
from evaluation.ensemble import MeanOutputs, build_ensemble, check_same_targets, evaluate_ensemble
from metrics.classification import mean_probabilities
from utils.errors import UserError

pytestmark = pytest.mark.usefixtures("without_figures")
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
MakeTrainer = Callable[..., Any]


def checkpoints_of(run: Path) -> tuple[Path, Path]:
    """Two models of the same data."""
    return run / "checkpoints/best.pt", run / "checkpoints/last.pt"


def test_probabilities_are_averaged_and_not_logits() -> None:
    logits = [torch.tensor([[0.0, 900.0]]), torch.tensor([[0.0, 0.0]])]
    expected = torch.tensor([[0.25, 0.75]])
    assert torch.allclose(mean_probabilities(logits).softmax(1), expected)
    assert torch.allclose(mean_probabilities(logits).exp(), expected)


def test_an_ensemble_has_the_mean_of_the_probabilities(
    trained_run: Path, command: Command, capsys: Captured
) -> None:
    best, last = checkpoints_of(trained_run)
    assert command("evaluate", best, last, "data.batch_size=40") == 0
    printed = capsys.readouterr().out
    folder = trained_run / "evaluation/test ensemble of 2"
    metrics = json.loads((folder / "metrics.json").read_text())

    total = torch.zeros(303, 10)
    accuracies = []
    for file in (best, last):
        trainer, _ = restore_trainer([file], "test", [])
        batch = trainer.loaders["test"].load_batch(torch.arange(303))
        probabilities = trainer.predict(batch).softmax(1)
        correct = probabilities.argmax(1) == batch["target"]
        accuracies.append(correct.float().mean().item())
        total += probabilities / 2
    is_correct = total.argmax(1) == batch["target"]
    assert metrics["accuracy"] == pytest.approx(is_correct.float().mean().item(), abs=1e-5)
    losses = nn.functional.cross_entropy(
        total.log(), batch["target"], label_smoothing=0.1, reduction="none"
    )
    assert metrics["loss"] == pytest.approx(losses.mean().item(), rel=1e-4)
    assert metrics["samples"] == 303
    assert [member["checkpoint"] for member in metrics["members"]] == [str(best), str(last)]
    assert [member["accuracy"] for member in metrics["members"]] == pytest.approx(
        accuracies, rel=1e-5
    )
    rows = (folder / "predictions.csv").read_text().splitlines()
    assert len(rows) == 304
    assert max(map(float, (row.rpartition(",")[2] for row in rows[1:]))) == pytest.approx(
        losses.max().item(), rel=1e-4
    )
    numbers = [float(text) for text in re.findall(r"\d+\.\d+", printed)]
    for value in (*accuracies, metrics["accuracy"]):
        assert any(number == pytest.approx(value, rel=1e-5) for number in numbers)


def test_an_ensemble_needs_different_models(
    trained_run: Path, tmp_path: Path, command: Command, capsys: Captured
) -> None:
    best, _ = checkpoints_of(trained_run)
    copy = Path(shutil.copy(best, tmp_path / "copy.pt"))
    for other in (best, trained_run, copy):
        assert command("evaluate", best, other) == 2
        error = capsys.readouterr().err
        assert str(best) in error
        assert "same model" in error


def test_runs_of_other_classes_or_samples_are_named(
    trained_run: Path,
    tmp_path: Path,
    command: Command,
    capsys: Captured,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained_run, other)
    file = other / "checkpoints/last.pt"
    assert command("evaluate", trained_run, file, "--split", "validation", "seed=1") == 0
    capsys.readouterr()
    members = [
        restore_trainer([path], "test", [])[0]
        for path in (trained_run / "checkpoints/best.pt", file)
    ]
    dataset = members[1].dataset
    changes: dict[str, tuple[Any, str]] = {
        "classes": (["a", "b"], "the classes are 0 degrees.* and a, b"),
        "title": ("shifted data", "the data are synthetic data and shifted data"),
        "fingerprint": ("0", "the samples of synthetic data differ"),
        "source": ("0", "the file of synthetic data differs"),
    }
    for name, (value, problem) in changes.items():
        with monkeypatch.context() as patch:
            patch.setattr(dataset, name, value, raising=False)
            with pytest.raises(UserError, match=problem) as raised:
                build_ensemble(members, "test")
        assert str(other) in str(raised.value)
    monkeypatch.setattr(synthetic, "TEST", 304)
    members[1] = restore_trainer([file], "test", [])[0]
    with pytest.raises(UserError, match="303 and 304 samples"):
        build_ensemble(members, "test")


def test_other_targets_are_named(trained_run: Path) -> None:
    members = [restore_trainer([file], "test", [])[0] for file in checkpoints_of(trained_run)]
    dataset: Any = members[1].loaders["test"].dataset
    dataset.targets = dataset.targets.clone()
    dataset.targets[5] = (dataset.targets[5] + 1) % 10
    for member in members:
        member.evaluate("test")
    with pytest.raises(UserError, match=r"the target of sample 5 is .* degrees and .* degrees"):
        check_same_targets(members, "test")


def test_a_trainer_must_define_how_outputs_are_combined(make_trainer: MakeTrainer) -> None:
    members = [make_trainer(kind=Minimal), make_trainer(kind=Minimal)]
    ensemble = build_ensemble(members, "validation")
    with pytest.raises(UserError, match=r"Minimal does not define ensemble_outputs"):
        evaluate_ensemble(ensemble, members, "validation")
    with pytest.raises(UserError, match="combine outputs in different ways"):
        build_ensemble([members[0], make_trainer()], "validation")


def test_the_model_of_an_ensemble_has_no_outputs_for_other_batches() -> None:
    with pytest.raises(UserError, match="figures"):
        MeanOutputs()(torch.zeros(1))
