"""The content of metrics.json: which samples and models were evaluated, and the metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from base.base_trainer import BaseTrainer
from evaluation.report import Report

SIGNIFICANT_DIGITS = 6  # of a saved metric


def summarize(
    trainer: BaseTrainer, split: str, models: Mapping[str, Any], report: Report
) -> dict[str, Any]:
    """The entries of metrics.json, except for the list of files.

    Args:
        trainer: a trainer with a loader of the split.
        split: the evaluated split.
        models: the entries about the evaluated model, or about the members of an ensemble.
        report: the results.
    """
    dataset = trainer.dataset
    summary = {
        "data": dataset.title,
        "split": split,
        "samples": len(dataset),
        "fingerprint": dataset.fingerprint,
        **models,
    }
    for name, value in report.metrics.items():
        summary[name] = _round(value)
    if report.intervals:
        intervals = {}
        for name, limits in report.intervals.items():
            intervals[name] = list(map(_round, limits))
        summary["intervals"] = intervals
    return summary


def describe_model(
    trainer: BaseTrainer, checkpoint: Path, metrics: Mapping[str, float] | None = None
) -> dict[str, Any]:
    """The entries about a model: its checkpoint, its step and, in an ensemble, its metrics."""
    description: dict[str, Any] = {"checkpoint": str(checkpoint), "step": trainer.progress.step}
    for name, value in (metrics or {}).items():
        description[name] = _round(value)
    return description


def tabulate_members(
    members: Sequence[Mapping[str, Any]], metrics: Mapping[str, float]
) -> list[list[str]]:
    """The metrics of each model of an ensemble and, in the last row, of the ensemble.

    Args:
        members: the descriptions of the models, from `describe_model`.
        metrics: those of the ensemble.
    """
    table = [["checkpoint", *metrics]]
    for member in members:
        row = [member["checkpoint"]]
        for name in metrics:
            row.append(str(member.get(name, "-")))
        table.append(row)
    last_row = ["ensemble"]
    for value in metrics.values():
        last_row.append(str(_round(value)))
    table.append(last_row)
    return table


def _round(value: float) -> float:
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")
