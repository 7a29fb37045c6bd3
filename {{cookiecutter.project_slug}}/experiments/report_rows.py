"""A plot of the values of all rows on the page, as SVG."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from experiments.report_curves import round_ticks
from experiments.report_html import element, text
from experiments.rows import Row

LABEL_CHARACTERS = 44
ROW_HEIGHT = 40  # in pixels, as the other numbers
AXIS_HEIGHT = 22


def rows_figure(labels: Sequence[str], rows: Sequence[Row], metric: str) -> str:
    """The values of all seeds as dots, and mean ± standard deviation as a bar, for each row.

    Horizontal positions are percentages, so that texts keep their size on any screen. Of a single
    row, there is no plot.
    """
    if len(rows) < 2:
        return ""
    values = []
    for row in rows:
        spread = row.deviation or 0.0
        values += [*row.values, fmean(row.values) - spread, fmean(row.values) + spread]
    low = min(values)
    high = max(values)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
    position = Position(low - margin, high + margin)
    height = ROW_HEIGHT * len(rows) + AXIS_HEIGHT
    parts = []
    for tick in round_ticks(position.low, position.high):
        x = position.of(tick)
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="0" y2="{height - 18}"/>')
        parts.append(f'<text x="{x}" y="{height - 4}" text-anchor="middle">{tick:.5g}</text>')
    for index, (label, row) in enumerate(zip(labels, rows, strict=True)):
        parts.append(_row_marks(label, row, ROW_HEIGHT * index + 26, position))
    svg = (
        f'<svg style="height:{height}px" role="img" aria-label="{text(metric)} of each row">'
        f"{''.join(parts)}</svg>"
    )
    return element("figure", svg, class_="rows")


@dataclass(frozen=True)
class Position:
    """Maps values to horizontal positions in percent.

    Attributes:
        low: the value at the left edge.
        high: the value at the right edge.
    """

    low: float
    high: float

    def of(self, value: float) -> str:
        """The position of a value, such as ``25.00%``."""
        return f"{100 * (value - self.low) / (self.high - self.low):.2f}%"


def _row_marks(label: str, row: Row, y: int, position: Position) -> str:
    color = "var(--muted)"
    if row.is_best:
        color = "var(--accent)"
    short = label
    if len(label) > LABEL_CHARACTERS:
        short = f"{label[: LABEL_CHARACTERS - 1]}…"
    mean = fmean(row.values)
    spread = row.deviation or 0.0
    parts = [
        f'<text class="label" x="0" y="{y - 11}">{text(short)}</text>',
        f'<line x1="{position.of(mean - spread)}" x2="{position.of(mean + spread)}" '
        f'y1="{y}" y2="{y}" style="stroke:{color}" stroke-width="6" opacity="0.35"/>',
        f'<line x1="{position.of(mean)}" x2="{position.of(mean)}" '
        f'y1="{y - 7}" y2="{y + 7}" style="stroke:{color}" stroke-width="2.5"/>',
    ]
    for value in row.values:
        parts.append(f'<circle cx="{position.of(value)}" cy="{y}" r="3" style="fill:{color}"/>')
    return "".join(parts)
