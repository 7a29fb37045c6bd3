"""Figures for TensorBoard, trackers and files, created without a display.

Their style is in figures.mplstyle. Nothing here changes Matplotlib's settings or Python's warning
filters outside `drawing_style`.
"""

import io
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import numpy as np
from torch import Tensor

from logger.console import shorten
from logger.figure_text import FONT, cjk_fonts, find_fonts_for, text_sizes, wrap_heading
from utils.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

    from metrics.calibration import Calibration
else:
    Figure = object  # importing Matplotlib takes time, so only the functions that draw import it

STYLE_FILE = Path(__file__).with_name("figures.mplstyle")
MUTED = "#8a94a3"
MAX_POINTS = 2000  # points in a scatter plot
MAX_MAGNITUDE = 1e300  # of a number that is drawn; sums of larger ones overflow

# Inches.
MARGIN = 0.15
HEADING_LINE = 0.19
IMAGE_SIDE = 1.4  # of a square image
MAX_IMAGE_SIDE = 2.2
MIN_IMAGE_SIDE = 0.2
CELL_GAP = 0.2
MIN_HEADING_WIDTH = 3.9

TITLE_GAP = 0.08  # between a title and its image
HEADING_HEIGHT = HEADING_LINE + 2 * MARGIN

TITLE_POINTS = 8


@contextmanager
def drawing_style() -> Iterator[None]:
    """Sets the style, with fonts for many scripts, and hides warnings about missing glyphs.

    Code that creates or renders figures runs in this context; it also serves as a decorator. The
    user's own settings of Matplotlib do not apply within it.
    """
    import matplotlib

    fonts = [FONT, *cjk_fonts()]
    with matplotlib.rc_context({"font.family": fonts}, STYLE_FILE), warnings.catch_warnings():
        # `find_fonts_for` logs one line instead of a warning for each character.
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def new_figure(
    width: float, height: float, heading: str, layout: Literal["constrained"] | None = "constrained"
) -> Figure:
    """Creates an empty figure with a title; call it in `drawing_style`.

    Args:
        width: inches.
        height: inches, without the further lines of a heading that does not fit one.
        heading: title of the figure.
        layout: what places the axes; None for axes with fixed positions.
    """
    from matplotlib.figure import Figure

    find_fonts_for([heading])
    heading = wrap_heading(heading, width - 2 * MARGIN)
    height += HEADING_LINE * heading.count("\n")
    figure = Figure(figsize=(width, height), layout=layout)
    title = figure.suptitle(heading)
    if layout is None:  # otherwise, the layout places it
        title.set(y=1 - MARGIN / height, va="top")
    return figure


def save_figure(figure: Figure, file: Path | BinaryIO) -> None:
    """Saves a figure as PNG, or in the format of the file's suffix; a file is never incomplete."""
    file_format = "png"
    if isinstance(file, Path) and file.suffix:
        file_format = file.suffix.removeprefix(".")
    content = io.BytesIO()
    with drawing_style():
        figure.savefig(content, format=file_format)
    if isinstance(file, Path):
        replace_file(file, content.getvalue())
    else:
        file.write(content.getvalue())


def plain_number(value: float, _: object = None) -> str:
    """A number as the label of a tick: ``0.001``, ``12,000``."""
    return f"{value:,.6g}"


def add_axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Any:
    """Adds axes at a position in inches, from the lower left corner of the figure."""
    figure_width, figure_height = figure.get_size_inches()
    return figure.add_axes(
        (left / figure_width, bottom / figure_height, width / figure_width, height / figure_height)
    )


@drawing_style()
def image_grid(images: Tensor, titles: Sequence[str], heading: str) -> Figure:
    """Draws images in a grid.

    Args:
        images: floats from 0 to 1, on the CPU, shape (N, C, H, W), with C = 1 (grey) or 3 (RGB).
        titles: one for each image, of any number of lines.
        heading: title of the figure.
    """
    find_fonts_for(titles)
    titles = ["\n".join(map(shorten, title.split("\n"))) for title in titles]
    title_widths, title_heights = zip(*text_sizes(titles, fontsize=TITLE_POINTS), strict=True)
    title_height = max(title_heights) + TITLE_GAP
    width, height = image_size(*images.shape[2:])
    cell_width = max(width, *title_widths) + CELL_GAP
    cell_height = title_height + height + CELL_GAP
    # Cells that are wider than high get fewer columns.
    columns = math.ceil(math.sqrt(len(images) * min(1, cell_height / cell_width)))
    rows = math.ceil(len(images) / columns)

    figure_width = max(columns * cell_width + 2 * MARGIN, MIN_HEADING_WIDTH)
    grid_height = rows * cell_height + MARGIN
    figure = new_figure(figure_width, grid_height + HEADING_HEIGHT, heading, layout=None)
    # All images share one pair of axes, in inches: subplots would take four times as long.
    axes = add_axes_at(figure, 0, 0, figure_width, grid_height)
    axes.set(xlim=(0, figure_width), ylim=(grid_height, 0))
    axes.set_axis_off()
    grid_left = (figure_width - columns * cell_width) / 2
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(index, columns)
        centre = grid_left + (column + 0.5) * cell_width
        top = row * cell_height + title_height
        extent = (centre - width / 2, centre + width / 2, top + height, top)
        pixels = image.permute(1, 2, 0).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent, aspect="auto")
        y = top - TITLE_GAP / 2
        axes.text(centre, y, title, fontsize=TITLE_POINTS, ha="center", va="bottom")
    return figure


def image_size(height: int, width: int) -> tuple[float, float]:
    """Width and height in inches of an image with so many pixels: its area is always the same."""
    scale = IMAGE_SIDE / math.sqrt(height * width)
    scale = min(scale, MAX_IMAGE_SIDE / max(height, width))
    return max(width * scale, MIN_IMAGE_SIDE), max(height * scale, MIN_IMAGE_SIDE)


@drawing_style()
def reliability_figure(calibration: "Calibration", heading: str) -> Figure:
    """Draws the accuracy of predictions against their probability, and how many there are.

    Args:
        calibration: samples by the probability of their predicted class.
        heading: title of the figure.
    """
    bins = len(calibration.counts)
    centres = (np.arange(bins) + 0.5) / bins
    has_samples = calibration.counts.numpy() > 0
    accuracy = calibration.accuracy.numpy()
    confidence = calibration.confidence.numpy()
    figure = new_figure(5.2, 6, heading)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.plot((0, 1), (0, 1), color=MUTED, linestyle="--", label="perfect calibration")
    bar_width = 1 / bins
    upper.bar(
        centres, accuracy, bar_width, alpha=0.45, edgecolor="white", label="accuracy in the bin"
    )
    upper.plot(
        confidence[has_samples],
        accuracy[has_samples],
        color="C1",
        marker="o",
        label="at the mean probability",
    )
    upper.legend(loc="upper left")
    lower.bar(centres, calibration.counts.numpy(), bar_width, alpha=0.45, edgecolor="white")
    lower.set(xlabel="probability of the predicted class", ylabel="number of samples")
    for axis in (upper.xaxis, upper.yaxis):
        axis.set_major_formatter("{x:.0%}")
    lower.yaxis.set_major_formatter(plain_number)
    figure.align_ylabels()
    return figure


@drawing_style()
def predicted_vs_true_figure(true: Tensor, predicted: Tensor, heading: str) -> Figure:
    """Draws predicted against true values, with the diagonal, on which predictions are correct.

    Samples with a number that is not finite are counted in the heading.

    Args:
        true: targets, on the CPU, shape (N, K).
        predicted: predictions, on the CPU, shape (N, K).
        heading: title of the figure.
    """
    total = len(true)
    true = true.double()
    predicted = predicted.double()
    # False for NaN.
    is_drawn = ((true.abs() <= MAX_MAGNITUDE) & (predicted.abs() <= MAX_MAGNITUDE)).all(1)
    true = true[is_drawn]
    predicted = predicted[is_drawn]
    if len(true) < total:
        heading += f" ({total - len(true)} of {total} samples not drawn: not finite)"
    lowest = 0.0
    highest = 0.0
    centre = 0.0
    if len(true) > 0:
        lowest = min(true.min(), predicted.min()).item()
        highest = max(true.max(), predicted.max()).item()
        centre = float(true.mean())
    margin = 0.05 * (highest - lowest) or 1.0
    limits = (lowest - margin, highest + margin)

    figure = new_figure(5.2, 5.2, heading)
    axes = figure.add_subplot(xlabel="true value", ylabel="predicted value")
    axes.set(xlim=limits, ylim=limits, aspect="equal")
    axes.locator_params(nbins=5)
    axes.axline((centre, centre), slope=1, color=MUTED, linestyle="--", label="prediction = truth")
    axes.scatter(true[:MAX_POINTS].numpy(), predicted[:MAX_POINTS].numpy(), s=8, alpha=0.4)
    axes.xaxis.set_major_formatter(plain_number)
    axes.yaxis.set_major_formatter(plain_number)
    axes.legend(loc="upper left")
    return figure


@drawing_style()
def curve_figure(
    x: Tensor, y: Tensor, heading: str, names: tuple[str, str], curve: Tensor | None = None
) -> Figure:
    """Draws points (x, y) and, where it is given, the curve of a model.

    Args:
        x: on the CPU, shape (N, 1).
        y: on the CPU, shape (N, 1).
        heading: title of the figure.
        names: labels of the axes.
        curve: the model's outputs for `x`, on the CPU, shape (N, 1).
    """
    find_fonts_for(names)
    figure = new_figure(6.5, 4.5, heading)
    axes = figure.add_subplot(xlabel=shorten(names[0], 60), ylabel=shorten(names[1], 40))
    shown_x = x[:MAX_POINTS, 0].numpy()
    shown_y = y[:MAX_POINTS, 0].numpy()
    axes.scatter(shown_x, shown_y, s=8, alpha=0.5, label="data")
    if curve is not None:
        order = x[:, 0].argsort()
        axes.plot(x[order, 0].numpy(), curve[order, 0].numpy(), color="C1", label="model")
        axes.legend()
    return figure


@drawing_style()
def schedule_figure(
    rates: Mapping[str, np.ndarray], momenta: Mapping[str, np.ndarray], heading: str
) -> Figure:
    """Draws the learning rates over the steps of a run and, below, the momenta if there are any.

    Args:
        rates: a curve by label, float64, shape (steps,).
        momenta: as `rates`; may be empty.
        heading: title of the figure.
    """
    panels = {"learning rate": rates}
    if momenta:
        panels["momentum"] = momenta
    figure = new_figure(7.5, 0.7 + 2.8 * len(panels), heading)
    subplots = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (ylabel, curves) in zip(subplots, panels.items(), strict=True):
        axes.set_ylabel(ylabel)
        for label, values in curves.items():
            axes.plot(np.arange(1, len(values) + 1), values, label=shorten(label, 60))
        axes.xaxis.set_major_formatter(plain_number)
        axes.yaxis.set_major_formatter(plain_number)
        if len(curves) > 1:
            axes.legend()
    subplots[0].set_ylim(bottom=0)
    subplots[-1].set_xlabel("step")
    figure.align_ylabels()
    return figure
