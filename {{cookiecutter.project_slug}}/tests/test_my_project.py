"""Your project: splits, training, evaluation and inference."""
# ruff: noqa: D103  the names of the tests say what they test

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from exported import read_about, run_outside

from builders import build_fitted_dataset, restore_trainer
from config.loading import load_settings

CONFIG = ROOT / "config/my_config.yaml"


def test_splits_differ_and_are_reproducible() -> None:
    settings = load_settings(CONFIG, [])
    train = build_fitted_dataset(settings, "train")
    validation = build_fitted_dataset(settings, "validation")
    test = build_fitted_dataset(settings, "test")
    assert len({train.fingerprint, validation.fingerprint, test.fingerprint}) == 3
    assert build_fitted_dataset(settings, "test").fingerprint == test.fingerprint
    sample = test[0]
    assert sample["input"].shape == (2,)
    assert sample["target"].dtype == torch.int64


def test_a_trained_model_classifies_new_points(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    options = ("device=cpu", "logger.tensorboard=false")
    assert command("train", "--config", CONFIG, "--run-dir", run, *options) == 0
    assert command("evaluate", run) == 0
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert metrics["samples"] == 500
    assert metrics["accuracy"] > 0.9
    capsys.readouterr()
    assert command("predict", run, "0.1,-0.1", "1,1", "--json") == 0
    first, second = json.loads(capsys.readouterr().out)["inputs"]
    assert first["predictions"] == [{"class": "inside"}]
    assert second["predictions"] == [{"class": "outside"}]
    assert command("predict", run, "one,two") == 2
    error = capsys.readouterr().err
    for part in ("error: one,two", "two numbers"):
        assert part in error


def test_an_exported_model_takes_the_described_numbers(
    tmp_path: Path, command: Callable[..., int]
) -> None:
    run = tmp_path / "run"
    options = ("device=cpu", "logger.tensorboard=false", "trainer.max_steps=3")
    assert command("train", "--config", CONFIG, "--run-dir", run, *options) == 0
    assert command("export", run) == 0
    rules = read_about(run)["preparation"]
    point = {"x": 0.1, "y": -0.1}
    array = np.array([[point[column] for column in rules["columns"]]], rules["dtype"])
    logits = run_outside(run / "export/model.pt2", array, tmp_path / "outside")
    changes = ["trainer.precision=fp32"]
    trainer, _ = restore_trainer([run / "checkpoints/best.pt"], None, changes)
    expected = trainer.predict({"input": torch.tensor([[0.1, -0.1]])})
    assert logits.numpy() == pytest.approx(expected.numpy(), abs=1e-5)
