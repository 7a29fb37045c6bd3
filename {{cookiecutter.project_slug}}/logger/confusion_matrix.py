"""The figure of a confusion matrix, for any number of classes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from logger.console import shorten
from logger.figure_text import find_fonts_for, text_sizes
from logger.figures import (
    HEADING_HEIGHT,
    MARGIN,
    MIN_HEADING_WIDTH,
    MUTED,
    Figure,
    add_axes_at,
    drawing_style,
    new_figure,
)

MAX_LABELLED_CLASSES = 30  # with a number in each cell; drawing those of 100 classes took 28 s
MAX_CLASSES_WITH_PERCENT = 7  # besides the number
MAX_LABELS = 25  # beside a matrix without numbers
MAX_LISTED_CONFUSIONS = 15
DARK_FROM = 0.4  # the share of a cell from which its text is white
COLOUR_TICKS = (0, 0.05, 0.25, 0.5, 1)

# Inches.
MIN_CELL = 0.36  # with a number
MAX_CELL = 0.85
SIDE = 5.6  # of a matrix whose cells are neither of these
AXIS_NAME = 0.3
LABEL_GAP = 0.1
COLOUR_BAR = 0.14
COLOUR_BAR_LABELS = 0.8

LABEL_POINTS = 8
NUMBER_POINTS = 8
SMALL_POINTS = 6.5  # in the smallest cells


@drawing_style()
def confusion_matrix_figure(matrix: Tensor, classes: Sequence[str], heading: str) -> Figure:
    """Draws a confusion matrix; colours show which share of a true class is predicted as what.

    With at most `MAX_LABELLED_CLASSES` classes, each cell has its count. With more, the most
    frequent confusions are listed.

    Args:
        matrix: counts by true class (row) and predicted class (column), shape (C, C).
        classes: names of the classes.
        heading: title of the figure.
    """
    find_fonts_for(classes)
    names = list(map(shorten, classes))
    counts = matrix.numpy()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    has_numbers = len(names) <= MAX_LABELLED_CLASSES
    cell = min(SIDE / len(names), MAX_CELL)
    stride = 1  # of the labels
    confusions = ""
    if has_numbers:
        cell = max(cell, MIN_CELL)
    else:
        stride = -(-len(names) // MAX_LABELS)
        confusions = list_confusions(counts, shares, names)

    axes = _add_axes(names[::stride], stride, len(names), cell, heading, confusions)
    image = axes.imshow(shares, norm=_square_root_scale())
    if has_numbers:
        _draw_numbers(axes, counts, shares, cell)
    if len(names) > MAX_CLASSES_WITH_PERCENT:
        _add_colour_bar(axes, image)
    figure: Figure = axes.figure
    return figure


def list_confusions(counts: np.ndarray, shares: np.ndarray, names: Sequence[str]) -> str:
    """The most frequent confusions, a line for each; empty if there are none.

    Args:
        counts: by true and predicted class, shape (C, C).
        shares: the same, divided by the number of samples of the true class.
        names: those of the classes.
    """
    errors = counts.copy()
    np.fill_diagonal(errors, 0)
    lines = []
    for position in np.argsort(-errors, axis=None, kind="stable")[:MAX_LISTED_CONFUSIONS]:
        true, predicted = np.unravel_index(position, errors.shape)
        if errors[true, predicted] == 0:
            break
        count = compact_number(float(errors[true, predicted]))
        share = shares[true, predicted]
        lines.append(f"{names[true]} → {names[predicted]}: {count} ({share:.0%})")
    if lines:
        lines.insert(0, "Most frequent errors, true → predicted:\n")
    return "\n".join(lines)


def compact_number(count: float) -> str:
    """A count in a few characters: ``9999``, ``12.3k``, ``8.5M``."""
    if count >= 999_500:  # which would be rounded to 1000k
        return f"{count / 1e6:.3g}M"
    if count >= 1e4:
        return f"{count / 1e3:.3g}k"
    return f"{count:.4g}"


def _square_root_scale() -> Any:
    """The scale of colours from 0 to 1 on which a few errors of many samples are visible."""
    from matplotlib.colors import PowerNorm

    return PowerNorm(0.5, vmin=0, vmax=1)


def _add_axes(
    labels: Sequence[str], stride: int, class_count: int, cell: float, heading: str, confusions: str
) -> Any:
    """The axes of a matrix in a figure whose size fits its labels and the list at its right.

    Args:
        labels: names of each `stride`-th class.
        stride: from one label to the next.
        class_count: rows of the matrix.
        cell: side of a cell in inches.
        heading: title of the figure.
        confusions: the list; may be empty.
    """
    side = cell * class_count
    label_width = max(width for width, _ in text_sizes(labels, fontsize=LABEL_POINTS))
    ((list_width, list_height),) = text_sizes([confusions], fontsize=LABEL_POINTS)
    is_rotated = label_width > 0.9 * cell * stride
    label_height = 0.15
    alignment: dict[str, Any] = {}
    if is_rotated:
        label_height = 0.75 * label_width
        alignment = {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    left = MARGIN + AXIS_NAME + label_width + LABEL_GAP
    bottom = MARGIN + AXIS_NAME + label_height + LABEL_GAP
    right = MARGIN
    if class_count > MAX_CLASSES_WITH_PERCENT:
        right += COLOUR_BAR + COLOUR_BAR_LABELS
    if confusions:
        right += list_width + MARGIN
    height = bottom + max(side, list_height) + HEADING_HEIGHT
    width = left + side + right
    spare_width = max(MIN_HEADING_WIDTH - width, 0)
    left += spare_width / 2

    figure = new_figure(width + spare_width, height, heading, layout=None)
    axes = add_axes_at(figure, left, height - HEADING_HEIGHT - side, side, side)
    ticks = range(0, class_count, stride)
    axes.set_xticks(ticks, labels, **alignment)
    axes.set_yticks(ticks, labels)
    axes.tick_params(length=0, labelsize=LABEL_POINTS, labelcolor="black")
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class", labelpad=6)
    axes.set_ylabel("true class", labelpad=8)
    if confusions:
        x = 1 + (COLOUR_BAR + COLOUR_BAR_LABELS + MARGIN) / side
        axes.text(x, 1, confusions, transform=axes.transAxes, va="top", fontsize=LABEL_POINTS)
    return axes


def _draw_numbers(axes: Any, counts: np.ndarray, shares: np.ndarray, cell: float) -> None:
    """Writes the count into each cell and, if there are few, the share below it."""
    points: float = NUMBER_POINTS
    if cell < 1.2 * MIN_CELL:
        points = SMALL_POINTS
    for (row, column), count in np.ndenumerate(counts):
        text = compact_number(count)
        color = "black"
        if count == 0:
            color = MUTED
        elif shares[row, column] > DARK_FROM:
            color = "white"
        if count > 0 and len(counts) <= MAX_CLASSES_WITH_PERCENT:
            text += f"\n{shares[row, column]:.1%}"
        axes.text(column, row, text, color=color, fontsize=points, ha="center", va="center")
    edges = np.arange(0.5, len(counts) - 1)
    axes.hlines(edges, -0.5, len(counts) - 0.5, color="white", linewidth=1)
    axes.vlines(edges, -0.5, len(counts) - 0.5, color="white", linewidth=1)


def _add_colour_bar(axes: Any, image: Any) -> None:
    side = axes.get_position().width * axes.figure.get_figwidth()
    bar_axes = axes.inset_axes((1 + LABEL_GAP / side, 0, COLOUR_BAR / side, 1))
    bar = axes.figure.colorbar(image, cax=bar_axes, ticks=COLOUR_TICKS, format="{x:.0%}")
    bar.set_label("share of the samples of the true class")
    bar.outline.set_visible(False)
    bar_axes.tick_params(length=0)
