"""Writes run folders as train.py and evaluate.py leave them, without training."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

HEADER = ("data", "split", "epoch", "step", "metric", "value")
SETTINGS = """\
name: {name}
seed: {seed}
device: auto
data:
  name: synthetic.Synthetic
  root: data
  batch_size: 50
  sampler:
    name: shuffled
model:
  name: networks.ConvNet
  width: {width}
trainer:
  name: classifier.Classifier
  epochs: 4
  overfit: {overfit}
optimizer:
  name: SGD
  lr: {lr}
checkpoint:
  monitor: {monitor}
  mode: null
logger:
  every_steps: 50
"""


def write_run(
    folder: Path,
    accuracy: float | None = 0.9,
    state: str | None = "finished",
    manifest: Mapping[str, Any] | None = None,
    result: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Path:
    """Writes a run folder.

    Args:
        folder: where it is written.
        accuracy: at the third of four validations, the best one; None for no validation.
        state: in result.json; None for no such file, as after kill -9.
        manifest: entries that replace those of manifest.json.
        result: entries that replace those of result.json.
        **settings: seed, width, lr, overfit, monitor, name.
    """
    folder.mkdir(parents=True)
    values = {"name": "demo", "seed": 0, "width": 32, "overfit": "null", "lr": 0.1}
    text = SETTINGS.format(**{**values, "monitor": "accuracy", **settings})
    (folder / "settings.yaml").write_text(text, encoding="utf-8")
    description = {
        "started": "2026-11-30T10:00:00+00:00",
        "git": {"commit": "0123456789abcdef", "dirty": False},
        "versions": {"torch": "2.15.0"},
        "command": "train.py",
        "device": "cpu",
        "hardware": {"cpu": "a CPU"},
        "data": {"title": "synthetic data", "samples": 790, "hash": "aa"},
        "validation": {"title": "synthetic data", "samples": 210, "hash": "bb"},
        **(manifest or {}),
    }
    (folder / "manifest.json").write_text(json.dumps(description), encoding="utf-8")
    (folder / ".lock").touch()
    write_metrics(folder / "metrics.csv", accuracy)
    best = None
    if accuracy is not None:
        best = {"metric": "accuracy", "direction": "highest", "value": accuracy, "step": 48}
    if state is not None:
        content = {
            "state": state,
            "exit_code": 0,
            "error": None,
            "step": 64,
            "total_steps": 64,
            "best": best,
            "minutes": 0.5,
            "samples_per_second": 7000.0,
            "peak_memory_gb": 0.25,
            **(result or {}),
        }
        (folder / "result.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def write_metrics(file: Path, accuracy: float | None) -> None:
    """Writes metrics.csv with four epochs of 16 steps."""
    rows: list[Sequence[object]] = [HEADER]
    for epoch, below_best in enumerate((0.2, 0.1, 0.0, 0.05), start=1):
        step = 16 * epoch
        rows.append(("synthetic data", "train", epoch, step, "loss", 2.0 / epoch))
        if accuracy is not None:
            value = accuracy - below_best
            rows.append(("synthetic data", "validation", epoch, step, "loss", 1.5 / epoch))
            rows.append(("synthetic data", "validation", epoch, step, "accuracy", value))
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)


def write_evaluation(
    run: Path, predicted: Sequence[str], true: Sequence[str], split: str = "test"
) -> None:
    """Writes the results of an evaluation: metrics, the confusion matrix and the predictions."""
    folder = run / "evaluation" / split
    folder.mkdir(parents=True)
    classes = sorted({*true, *predicted})
    pairs = list(zip(true, predicted, strict=True))
    correct = [truth == guess for truth, guess in pairs]
    confusion: list[list[object]] = [["data: true \\ predicted", *classes]]
    for truth in classes:
        confusion.append([truth, *(pairs.count((truth, guess)) for guess in classes)])
    rows: list[Sequence[object]] = [("name", "true", "predicted", "probability", "loss")]
    for index, (truth, guess) in enumerate(pairs):
        loss = 0.1 if truth == guess else 2.0
        rows.append((f"sample {index}", truth, guess, 0.8, loss))
    for name, table in (("confusion_matrix", confusion), ("predictions", rows)):
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows(table)
    metrics = {
        "split": split,
        "samples": len(true),
        "fingerprint": "cc",
        "accuracy": sum(correct) / len(true),
        "files": ["confusion_matrix.csv"],
    }
    (folder / "metrics.json").write_text(json.dumps(metrics), encoding="utf-8")
