"""Figures for TensorBoard, trackers and files, created without a display.

Nothing here changes Matplotlib's settings or Python's warning filters outside `drawing_style`.
"""

import io
import math
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from torch import Tensor

from logger.console import log
from utils.files import replace_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure

    from metrics.calibration import Calibration
else:
    Figure = object  # importing Matplotlib takes time, so only the functions that draw import it

CJK_FONTS = re.compile("CJK|Gothic|Nanum|YaHei|Unicode MS")  # Chinese, Japanese and Korean
FIRST_CJK_CHARACTER = "\u2e80"
FILE_DPI = 100  # pixels per inch of saved figures
MAX_LABELLED_CLASSES = 30  # shown with names and counts; with 100 classes, drawing took 28 s
MAX_POINTS = 2000  # points in a scatter plot


@contextmanager
def drawing_style() -> Iterator[None]:
    """Sets fonts for many scripts and hides warnings about missing glyphs, within the context.

    Code that creates or renders figures runs in this context; it also serves as a decorator.
    """
    import matplotlib

    fonts = ["DejaVu Sans", *cjk_fonts()]
    with matplotlib.rc_context({"font.family": fonts}), warnings.catch_warnings():
        # `new_figure` logs one line instead of a warning for each character.
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def cjk_fonts() -> list[str]:
    """Returns the installed fonts with Chinese, Japanese or Korean characters."""
    from matplotlib import font_manager

    return sorted(filter(CJK_FONTS.search, font_manager.get_font_names()))


def new_figure(width: float, height: float, texts: Iterable[str] = ()) -> Figure:
    """Creates an empty figure; call it in `drawing_style`.

    Args:
        width: inches.
        height: inches.
        texts: texts that the figure will show. If no installed font has their characters, a
            warning is logged.
    """
    from matplotlib.figure import Figure

    characters = "".join(texts)
    if characters and max(characters) >= FIRST_CJK_CHARACTER and not cjk_fonts():
        log.warning(
            "no installed font has the characters of some class names, so figures show boxes; "
            "install Noto Sans CJK"
        )
    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Figure, file: Path | BinaryIO) -> None:
    """Saves a figure as PNG, or in the format of the file's suffix; a file is never incomplete."""
    file_format = "png"
    if isinstance(file, Path) and file.suffix:
        file_format = file.suffix.removeprefix(".")
    content = io.BytesIO()
    with drawing_style():
        figure.savefig(content, format=file_format, dpi=FILE_DPI)
    if isinstance(file, Path):
        replace_file(file, content.getvalue())
    else:
        file.write(content.getvalue())


@drawing_style()
def image_grid(images: Tensor, titles: Sequence[str], heading: str) -> Figure:
    """Draws images in a grid.

    Args:
        images: floats from 0 to 1, on the CPU, shape (N, C, H, W), with C = 1 (grey) or 3 (RGB).
        titles: one for each image.
        heading: title of the figure.
    """
    height, width = images.shape[2:]
    cell_width = 1.2 * width  # pixels, with the gap between images
    cell_height = 1.4 * height  # pixels, with the title
    title_height = 0.35 * height
    columns = math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)

    figure = new_figure(1.7 * columns, 1.8 * rows + 0.4, titles)
    # All images share one pair of axes: drawing 25 takes 0.16 s, and 0.7 s with subplots.
    axes = figure.add_subplot(title=heading)
    axes.set(xlim=(0, columns * cell_width), ylim=(rows * cell_height, 0))
    axes.set_axis_off()
    for index, (image, title) in enumerate(zip(images, titles, strict=True)):
        row, column = divmod(index, columns)
        left = column * cell_width
        top = row * cell_height + title_height
        extent = (left, left + width, top + height, top)
        pixels = image.permute(1, 2, 0).numpy()
        axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=extent)
        x = left + width / 2
        # A name may contain $, which would begin a formula.
        axes.text(x, top, title, fontsize=8, ha="center", va="bottom", parse_math=False)
    return figure


@drawing_style()
def confusion_matrix_figure(matrix: Tensor, classes: Sequence[str], heading: str) -> Figure:
    """Draws a confusion matrix, with names and counts for at most `MAX_LABELLED_CLASSES` classes.

    Args:
        matrix: counts by true class (row) and predicted class (column), shape (C, C).
        classes: names of the classes.
        heading: title of the figure.
    """
    side = 3 + 0.8 * min(len(classes), MAX_LABELLED_CLASSES)
    figure = new_figure(side, side, classes)
    axes = figure.add_subplot(title=heading, xlabel="predicted", ylabel="true")
    axes.imshow(matrix.numpy(), cmap="Blues")
    if len(classes) > MAX_LABELLED_CLASSES:
        return figure
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    for (row, column), count in np.ndenumerate(matrix.numpy()):
        color = "black"
        if count > matrix.max() / 2:
            color = "white"  # on a dark cell
        axes.text(column, row, str(count), ha="center", va="center", color=color)
    return figure


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
    figure = new_figure(6, 7)
    figure.suptitle(heading)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    upper.set(xlim=(0, 1), ylim=(0, 1), ylabel="accuracy")
    upper.plot((0, 1), (0, 1), color="grey", linewidth=1, label="perfect calibration")
    upper.bar(
        centres, accuracy, width=1 / bins, alpha=0.6, edgecolor="white", label="accuracy in the bin"
    )
    upper.plot(
        confidence[has_samples],
        accuracy[has_samples],
        color="C1",
        marker="o",
        markersize=4,
        label="at the mean probability",
    )
    upper.legend(loc="upper left")
    counts = calibration.counts.numpy()
    lower.bar(centres, counts, width=1 / bins, alpha=0.6, edgecolor="white")
    lower.set(xlabel="probability of the predicted class", ylabel="samples")
    return figure


@drawing_style()
def predicted_vs_true_figure(true: Tensor, predicted: Tensor, heading: str) -> Figure:
    """Draws predicted against true values, with the diagonal, on which predictions are correct.

    Args:
        true: targets, on the CPU, shape (N, K).
        predicted: predictions, on the CPU, shape (N, K).
        heading: title of the figure.
    """
    lowest = min(true.min(), predicted.min()).item()
    highest = max(true.max(), predicted.max()).item()
    margin = 0.05 * (highest - lowest) or 1.0
    limits = (lowest - margin, highest + margin)
    centre = float(true.mean())

    figure = new_figure(6, 6)
    axes = figure.add_subplot(title=heading, xlabel="true", ylabel="predicted")
    axes.set(xlim=limits, ylim=limits)
    axes.locator_params(nbins=5)
    axes.axline((centre, centre), slope=1, color="grey", linewidth=1)
    axes.scatter(true[:MAX_POINTS].numpy(), predicted[:MAX_POINTS].numpy(), s=8, alpha=0.5)
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
    figure = new_figure(7, 5)
    axes = figure.add_subplot(title=heading, xlabel=names[0], ylabel=names[1])
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
    figure = new_figure(8, 1 + 3.5 * len(panels))
    figure.suptitle(heading)
    for number, (ylabel, curves) in enumerate(panels.items(), start=1):
        axes = figure.add_subplot(len(panels), 1, number, ylabel=ylabel)
        for label, values in curves.items():
            axes.plot(np.arange(1, len(values) + 1), values, label=label)
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend(fontsize="small")
    axes.set_xlabel("step")
    return figure
