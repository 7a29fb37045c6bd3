"""The curves of a run in one figure, drawn from its metrics.csv."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from logger.console import shorten
from logger.figure_text import find_fonts_for
from logger.figures import MAX_MAGNITUDE, Figure, drawing_style, new_figure, plain_number
from logger.metrics_file import read_rows

TRAIN = "train"
SPLITS = (TRAIN, "validation")
LOSS = "loss"
RATE = "lr"
GRADIENT_NORM = "grad_norm"
AXIS_NAMES = {RATE: "learning rate", GRADIENT_NORM: "gradient norm"}
# Measurements of the computer, which say nothing about the model.
LEFT_OUT = ("samples_per_second", "waiting_for_data", "peak_memory_gb")

MAX_PANELS = 12
MAX_COLUMNS = 3
PANEL_WIDTH = 4.2  # inches
PANEL_HEIGHT = 2.7
MAX_POINTS = 500  # of a line; if there are more values, each point stands for several
MAX_MARKED_POINTS = 20
LOGARITHMIC_FROM = 50  # the ratio of the largest and the smallest value


@dataclass
class Series:
    """The values of a metric on a split, in the order of the file."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class BestValue:
    """The best value of a run: its metric, the split it was measured on, and the step."""

    metric: str
    split: str
    step: int
    value: float


Panel = Mapping[str, Series]  # by the split or, for learning rates, by the parameter group


def read_panels(file: Path) -> dict[str, dict[str, Series]]:
    """The panels of the figure of a metrics.csv, by metric; damaged rows are left out.

    Raises:
        OSError: if the file cannot be read.
    """
    panels: dict[str, dict[str, Series]] = {}
    for row in read_rows(file):
        metric = row.metric
        label = row.split
        if row.split == TRAIN:
            if metric in LEFT_OUT:
                continue
            if metric == RATE or metric.startswith(f"{RATE} of "):  # of a parameter group
                label = metric
                metric = RATE
        series = panels.setdefault(metric, {}).setdefault(label, Series())
        series.steps.append(row.step)
        series.values.append(float(row.value))
    return panels


def order_panels(panels: Mapping[str, Panel], best: BestValue | None) -> list[str]:
    """The metrics in the order of their panels, at most `MAX_PANELS`; that of `best` is early."""
    validated = [metric for metric, panel in panels.items() if set(panel) - {TRAIN}]
    first = [LOSS, *validated, *panels]
    if best is not None:
        first.insert(1, best.metric)
    last = [metric for metric in (RATE, GRADIENT_NORM) if metric in panels]
    metrics = []
    for metric in dict.fromkeys(first):  # each of them once
        if metric in panels and metric not in last:
            metrics.append(metric)
    return metrics[: MAX_PANELS - len(last)] + last


@drawing_style()
def curves_figure(
    panels: Mapping[str, Panel], heading: str, steps_per_epoch: int, best: BestValue | None
) -> Figure:
    """Draws the loss, the metrics, the learning rate and the norm of the gradient over the steps.

    Values that cannot be drawn, such as NaN, are counted in the legend.

    Args:
        panels: the result of `read_panels`; not empty.
        heading: title of the figure.
        steps_per_epoch: optimizer steps of an epoch.
        best: the value of the best checkpoint; None without one.
    """
    metrics = order_panels(panels, best)
    find_fonts_for(metrics)
    columns = min(len(metrics), MAX_COLUMNS)
    if len(metrics) == 4:
        columns = 2
    rows = math.ceil(len(metrics) / columns)
    if len(panels) > len(metrics):
        heading += f" (metrics.csv has {len(panels) - len(metrics)} more metrics)"
    figure = new_figure(columns * PANEL_WIDTH, rows * PANEL_HEIGHT + 0.4, heading)
    subplots = figure.subplots(rows, columns, sharex=True, squeeze=False).flat
    for axes, metric in zip(subplots, metrics, strict=False):
        _draw_panel(axes, metric, panels[metric])
        if best is not None and best.metric == metric:
            _mark_best(axes, best)
        axes.legend()
    for axes in subplots[len(metrics) :]:
        axes.set_axis_off()
    for axes in subplots[max(len(metrics) - columns, 0) : len(metrics)]:
        axes.set_xlabel(f"step ({steps_per_epoch:,} per epoch)")
        axes.tick_params(labelbottom=True)
    figure.align_ylabels()
    return figure


def _draw_panel(axes: Any, metric: str, panel: Panel) -> None:
    """Draws the lines of a metric, with a logarithmic axis if they span orders of magnitude."""
    lowest = math.inf
    highest = -math.inf
    names = list(panel)
    if set(SPLITS) & set(panel):  # each has the same colour in all panels
        names = list(dict.fromkeys([*SPLITS, *panel]))
    for name, series in panel.items():
        steps = np.array(series.steps)
        values = np.array(series.values)
        is_drawn = np.abs(values) <= MAX_MAGNITUDE  # False for NaN
        color = f"C{names.index(name)}"
        label = _describe(name, values, is_drawn)
        _draw_line(axes, steps[is_drawn], values[is_drawn], color, label)
        lowest = min(lowest, values.min(where=is_drawn, initial=math.inf))
        highest = max(highest, values.max(where=is_drawn, initial=-math.inf))
    axes.set_ylabel(shorten(AXIS_NAMES.get(metric, metric)))
    may_be_logarithmic = LOSS in metric or metric == GRADIENT_NORM
    if may_be_logarithmic and lowest > 0 and highest / lowest > LOGARITHMIC_FROM:
        axes.set_yscale("log")
    axes.xaxis.set_major_formatter(plain_number)
    axes.yaxis.set_major_formatter(plain_number)


def _describe(name: str, values: np.ndarray, is_drawn: np.ndarray) -> str:
    """The label of a line: its name, its last value, and how many are NaN, infinite or huge."""
    text = f"{shorten(name)}: {values[-1]:.4g}"
    missing = len(values) - int(is_drawn.sum())
    if missing > 0:
        text += f" ({missing} of {len(values)} values not drawn)"
    return text


def _draw_line(axes: Any, steps: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    """Draws a line; where a point stands for several values, a band shows their range."""
    marker = ""
    if len(steps) <= MAX_MARKED_POINTS:
        marker = "o"
    if len(steps) > MAX_POINTS:
        starts = np.linspace(0, len(steps), MAX_POINTS, endpoint=False).astype(int)
        lows = np.minimum.reduceat(values, starts)
        highs = np.maximum.reduceat(values, starts)
        counts = np.diff(starts, append=len(steps))
        values = np.add.reduceat(values, starts) / counts
        steps = np.add.reduceat(steps, starts) / counts
        axes.fill_between(steps, lows, highs, color=color, alpha=0.25, linewidth=0)
    axes.plot(steps, values, color=color, marker=marker, label=label)


def _mark_best(axes: Any, best: BestValue) -> None:
    """Draws a ring around the best value."""
    axes.plot(
        best.step,
        best.value,
        color="black",
        marker="o",
        markersize=9,
        markerfacecolor="none",
        linestyle="none",
        label=f"best: {best.value:.4g} at step {best.step:,}",
    )
