"""Curves on the page, as SVG, with a band over the seeds."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from experiments.metric import validation_series
from experiments.report_html import element, text
from experiments.rows import Row
from experiments.runs import Run
from experiments.statistics import deviation

WIDTH = 360
HEIGHT = 220
LEFT = 50
RIGHT = 12
TOP = 10
BOTTOM = 34
MAX_POINTS = 200  # of a curve
LINE_PATTERNS = ("", "7 3", "2 3", "9 3 2 3", "4 2", "1 2")  # for those who see no colours
MAX_CURVES = len(LINE_PATTERNS)
MIN_POINTS = 4  # of a curve whose beginning may lie outside of the figure
BEGINNING = 0.2  # of training, whose values may lie outside of the figure
MAX_STRETCH = 4  # of the figure by the values of the beginning
LOGARITHMIC_FROM = 50  # the ratio of the largest and the smallest value


@dataclass(frozen=True)
class Curve:
    """A line of a figure.

    Attributes:
        label: its name.
        points: pairs of step and value.
        spreads: the standard deviation at each point; empty for a single run.
    """

    label: str
    points: Sequence[tuple[float, float]]
    spreads: Sequence[float] = ()


def curve_of_row(label: str, row: Row, metric: str, split: str) -> Curve:
    """The mean of a metric over the runs of a row, at the steps that all of them have logged."""
    all_series = []
    for run in row.runs:
        series = dict(_series(run, metric, split))
        if series:
            all_series.append(series)
    if not all_series:
        return Curve(label, [])
    steps = sorted(set(all_series[0]).intersection(*all_series[1:]))
    if not steps:
        all_series = all_series[:1]
        steps = sorted(all_series[0])
    steps = _thinned(steps)
    points = []
    spreads = []
    for step in steps:
        values = [series[step] for series in all_series]
        points.append((float(step), fmean(values)))
        spreads.append(deviation(values) or 0.0)
    if len(all_series) == 1:
        spreads = []
    return Curve(label, points, spreads)


def _thinned(steps: Sequence[int]) -> list[int]:
    """At most MAX_POINTS of the steps, with the last one among them."""
    stride = math.ceil(len(steps) / MAX_POINTS)
    latest_first = list(reversed(steps))
    return sorted(latest_first[::stride])


def _series(run: Run, metric: str, split: str) -> list[tuple[int, float]]:
    if split == "validation":
        return validation_series(run, metric)
    return run.logged(metric, split)


def legend(labels: Sequence[str]) -> str:
    """The names of curves, with their colours and patterns."""
    items = []
    for index, label in enumerate(labels):
        line = f'<line x1="0" y1="5" x2="28" y2="5" {_stroke(index)} class="series"/>'
        swatch = f'<svg viewBox="0 0 28 10" aria-hidden="true">{line}</svg>'
        items.append(element("span", swatch, text(label)))
    return element("div", *items, class_="legend")


def curves_figure(title: str, curves: Sequence[Curve]) -> str:
    """A figure of curves over the steps; empty if none has two points."""
    drawn = [curve for curve in curves if len(curve.points) > 1]
    if not drawn:
        return ""
    scale = Scale(drawn)
    marks = []
    for index, curve in enumerate(curves):  # also of those that are not drawn: they have a colour
        if len(curve.points) > 1:
            marks.append(_band(curve, index, scale))
            marks.append(_line(curve, index, scale))
    # What lies outside of the axes, such as the first high losses, is cut off.
    clip = "clip-" + re.sub(r"\W", "-", title)
    area = (
        f'<clipPath id="{clip}"><rect x="{LEFT}" y="{TOP - 2}" '
        f'width="{WIDTH - LEFT - RIGHT}" height="{HEIGHT - TOP - BOTTOM + 4}"/></clipPath>'
    )
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(title)}">'
        f'{area}{_axes(scale)}<g clip-path="url(#{clip})">{"".join(marks)}</g></svg>'
    )
    return element("figure", element("h3", text(title)), svg)


class Scale:
    """Maps steps and values to the coordinates of a figure.

    Attributes:
        is_logarithmic: whether the values span several orders of magnitude.
        first_step: at the left edge.
        last_step: at the right edge.
        low: the value at the lower edge.
        high: the value at the upper edge.
    """

    def __init__(self, curves: Sequence[Curve]) -> None:
        self.first_step = min(curve.points[0][0] for curve in curves)
        self.last_step = max(curve.points[-1][0] for curve in curves)
        values: list[float] = []
        for curve in curves:
            values += _shown_values(curve)
        self.low = min(values)
        self.high = max(values)
        self.is_logarithmic = self.low > 0 and self.high / self.low > LOGARITHMIC_FROM
        if self.is_logarithmic:
            return
        margin = 0.05 * (self.high - self.low) or 0.05 * abs(self.high) or 1.0
        self.low -= margin
        self.high += margin

    def x(self, step: float) -> float:
        """The horizontal coordinate of a step."""
        span = self.last_step - self.first_step or 1.0
        return LEFT + (step - self.first_step) / span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """The vertical coordinate of a value."""
        if self.is_logarithmic:
            value = math.log(max(value, self.low / 10))
            fraction = (value - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        else:
            fraction = (value - self.low) / (self.high - self.low)
        return HEIGHT - BOTTOM - fraction * (HEIGHT - TOP - BOTTOM)

    def value_ticks(self) -> list[float]:
        """Round values for the vertical axis."""
        if self.is_logarithmic:
            return powers_of_ten(self.low, self.high)
        return round_ticks(self.low, self.high)


def _shown_values(curve: Curve) -> list[float]:
    """The values of a curve that must lie within the figure, with their spread.

    Those of the beginning of training need not if they would take most of the figure.
    """
    first_step = curve.points[0][0]
    last_step = curve.points[-1][0]
    end_of_beginning = first_step + BEGINNING * (last_step - first_step)
    values = []
    later_values = []
    spreads = curve.spreads or [0.0] * len(curve.points)
    for (step, value), spread in zip(curve.points, spreads, strict=True):
        limits = [value - spread, value + spread]
        values += limits
        if step >= end_of_beginning:
            later_values += limits
    height = max(values) - min(values)
    later_height = max(later_values) - min(later_values)
    if len(curve.points) < MIN_POINTS or height < MAX_STRETCH * later_height:
        return values
    return later_values


def powers_of_ten(low: float, high: float) -> list[float]:
    """The powers of ten between two values."""
    exponents = range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)
    return [10.0**exponent for exponent in exponents]


def round_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Round numbers between two values, about `count` of them."""
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    distance = 10 * magnitude
    for factor in (1, 2, 5):
        if factor * magnitude >= raw:
            distance = factor * magnitude
            break
    first = math.ceil(low / distance)
    last = math.floor(high / distance)
    return [tick * distance for tick in range(first, last + 1)]


def _axes(scale: Scale) -> str:
    parts = []
    bottom = HEIGHT - BOTTOM
    for value in scale.value_ticks():
        y = scale.y(value)
        parts.append(
            f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.5g}</text>')
    for step in round_ticks(scale.first_step, scale.last_step):
        parts.append(
            f'<text x="{scale.x(step):.1f}" y="{bottom + 15}" text-anchor="middle">{step:g}</text>'
        )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 4}" text-anchor="middle">step</text>'
    )
    parts.append(
        f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
    )
    return "".join(parts)


def _band(curve: Curve, index: int, scale: Scale) -> str:
    if not curve.spreads:
        return ""
    upper = []
    lower = []
    for (step, value), spread in zip(curve.points, curve.spreads, strict=True):
        upper.append(f"{scale.x(step):.1f},{scale.y(value + spread):.1f}")
        lower.append(f"{scale.x(step):.1f},{scale.y(value - spread):.1f}")
    points = " ".join([*upper, *reversed(lower)])
    return f'<polygon points="{points}" style="fill:var(--c{index})" opacity="0.16"/>'


def _line(curve: Curve, index: int, scale: Scale) -> str:
    points = " ".join(f"{scale.x(step):.1f},{scale.y(value):.1f}" for step, value in curve.points)
    title = f"<title>{text(curve.label)}</title>"
    return f'<polyline class="series" points="{points}" {_stroke(index)}>{title}</polyline>'


def _stroke(index: int) -> str:
    return f'style="stroke:var(--c{index})" stroke-dasharray="{LINE_PATTERNS[index]}"'
