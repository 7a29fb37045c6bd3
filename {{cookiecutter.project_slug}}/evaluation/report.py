"""What an evaluation reports: metrics with confidence intervals, tables, figures, predictions."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from base.base_trainer import BaseTrainer
from logger.console import log
from logger.figures import Figure, reliability_figure
from metrics.bootstrap import confidence_intervals
from metrics.calibration import calibrate, calibration_error
from metrics.protocol import scalar_results
from utils.errors import naming_source
from utils.ranks import is_main_process

MAX_DIFFERENCE = 1e-3  # relative, of the same metric in two orders of summation (float32)


@dataclass
class Report:
    """The results of an evaluation; the other processes have no intervals and no predictions.

    Attributes:
        metrics: scalars by name.
        intervals: the limits of the 95 % confidence interval of a metric, by its name.
        tables: the first row of each is its header.
        figures: by name.
        names: those of the samples, in the order of `predictions`.
        predictions: the columns of ``predictions.csv`` after the names; empty if the trainer
            records no values of samples.
    """

    metrics: dict[str, float]
    tables: dict[str, list[list[str]]]
    figures: dict[str, Figure]
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    predictions: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def make_report(trainer: BaseTrainer, split: str, results: Mapping[str, Tensor]) -> Report:
    """Collects what to report of the results of `BaseTrainer.evaluate`; all processes call it."""
    report = Report(
        metrics=all_metrics(trainer, split, results),
        tables=trainer.tables(results),
        figures=trainer.figures(split, results),
    )
    samples = trainer.samples(split)
    if not samples or not is_main_process():
        return report
    kind = type(trainer).__name__
    with naming_source(f"{kind}.sample_metrics"):
        intervals = confidence_intervals(trainer.sample_metrics, samples)
        report.intervals = _intervals_of_results(intervals, trainer, samples, report.metrics)
    with naming_source(f"{kind}.sample_figures"):
        report.figures |= trainer.sample_figures(split, samples)
    if has_class_probabilities(samples):
        report.figures["reliability"] = draw_reliability(trainer, split, samples)
    with naming_source(f"{kind}.sample_columns"):
        report.predictions = trainer.sample_columns(samples)
        _check_columns(report.predictions, count=len(samples["index"]))
    dataset = trainer.loaders[split].dataset
    report.names = list(map(dataset.sample_name, samples["index"].tolist()))
    return report


def has_class_probabilities(samples: Mapping[str, Tensor]) -> bool:
    """Whether the values of samples are classes with the probability of the predicted one."""
    for name in ("true", "predicted", "probability"):
        if name not in samples or samples[name].ndim != 1:
            return False
    return not samples["predicted"].is_floating_point()


def draw_reliability(trainer: BaseTrainer, split: str, samples: Mapping[str, Tensor]) -> Figure:
    """The reliability diagram of a classifier."""
    probability = samples["probability"]
    is_correct = (samples["true"] == samples["predicted"]).double()
    error = calibration_error(probability, is_correct)
    heading = f"{trainer.dataset.title}: {split}, calibration error {error:.2%}"
    return reliability_figure(calibrate(probability, is_correct), heading)


def all_metrics(
    trainer: BaseTrainer, split: str, results: Mapping[str, Tensor]
) -> dict[str, float]:
    """The scalar results, and those that `sample_metrics` adds; all processes call it."""
    metrics = scalar_results(results)
    samples = trainer.samples(split)
    if samples:
        with naming_source(f"{type(trainer).__name__}.sample_metrics"):
            for name, value in scalar_results(trainer.sample_metrics(samples)).items():
                metrics.setdefault(name, value)
    return metrics


def _check_columns(columns: Mapping[str, Sequence[Any]], count: int) -> None:
    """Raises a ValueError if the columns do not fit in a table of `count` samples."""
    for name, values in columns.items():
        if len(values) != count:
            raise ValueError(f"the column {name!r} has {len(values)} values for {count} samples")
    if "name" in columns:
        raise ValueError("a column has the name 'name', which is that of the samples' names")
    for loss in columns.get("loss", ()):
        if not isinstance(loss, int | float):
            raise ValueError(f"the column 'loss' contains {loss!r}, which is no number")


def _intervals_of_results(
    intervals: Mapping[str, tuple[float, float]],
    trainer: BaseTrainer,
    samples: Mapping[str, Tensor],
    metrics: Mapping[str, float],
) -> dict[str, tuple[float, float]]:
    """The intervals of the metrics that `sample_metrics` computes as the evaluation does.

    A trainer may compute something else under the same name, to which the interval would not
    belong.

    Args:
        intervals: the limits by the name of the metric.
        trainer: the trainer that has evaluated the samples.
        samples: the values of the samples.
        metrics: the results of the evaluation.
    """
    kept = {}
    for name, value in scalar_results(trainer.sample_metrics(samples)).items():
        if name not in intervals:
            continue
        if math.isclose(value, metrics[name], rel_tol=MAX_DIFFERENCE, abs_tol=1e-6):
            kept[name] = intervals[name]
        else:
            log.warning(
                "%s has no confidence interval: %s.sample_metrics returns %.6g, but the result of "
                "the evaluation is %.6g",
                name,
                type(trainer).__name__,
                value,
                metrics[name],
            )
    return kept
