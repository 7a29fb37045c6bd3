"""Your project: it learns, a run goes on where it ended, and new inputs are answered."""
# ruff: noqa: D103  the names of the tests say what they test

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import ROOT

from builders import build_dataset
from config.loading import load_settings

CONFIG = ROOT / "config/my_config.yaml"


def test_splits_differ_and_stay_as_they_are() -> None:
    settings = load_settings(CONFIG, [])
    splits = {s: build_dataset(settings, s) for s in ("train", "validation", "test")}
    assert len({dataset.fingerprint for dataset in splits.values()}) == 3
    again = build_dataset(settings, "test")
    assert again.fingerprint == splits["test"].fingerprint
    sample = again[0]
    assert (sample["input"].shape, sample["target"].dtype) == ((2,), torch.int64)


def test_it_learns_and_answers(tmp_path: Path, command: Callable[..., int], capsys: Any) -> None:
    run = tmp_path / "run"
    options = ("device=cpu", "logger.tensorboard=false")
    assert command("train", "--config", CONFIG, "--run-dir", run, *options) == 0
    assert command("evaluate", run) == 0
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert metrics["samples"] == 500
    assert metrics["accuracy"] > 0.9
    capsys.readouterr()
    assert command("predict", run, "0.1,-0.1", "1,1", "--json") == 0
    answers = json.loads(capsys.readouterr().out)["inputs"]
    assert [answer["predictions"] for answer in answers] == [
        [{"class": "inside"}],
        [{"class": "outside"}],
    ]
    assert command("predict", run, "one,two") == 2
    assert "error: one,two: these are not two numbers" in capsys.readouterr().err
