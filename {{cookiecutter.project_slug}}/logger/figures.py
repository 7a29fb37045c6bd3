"""Pictures for TensorBoard and for files, drawn without a screen."""

import math
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from logger.console import log

if TYPE_CHECKING:
    from matplotlib.figure import Figure as Figure
else:
    Figure = object


ASIAN = re.compile("CJK|Gothic|Nanum|YaHei|Unicode MS")  # fonts
MAX_LABELLED_CLASSES = 30  # classes whose names and counts are shown; each count takes a while


def image_grid(images: Tensor, titles: Sequence[str], heading: str) -> Figure:
    """Images side by side, each with its title.

    Args:
        images: floats from 0 to 1, on the CPU, shape (N, C, H, W), C being 1 (grey) or 3 (RGB).
        titles: one text an image.
        heading: text above all.
    """
    side = math.ceil(math.sqrt(len(images)))
    rows, (height, width) = math.ceil(len(images) / side), images.shape[2:]
    figure = new_figure(1.7 * side, 1.8 * rows + 0.4, titles)
    axes = figure.add_subplot(title=heading)  # one for all images, as each would take a while
    axes.set(xlim=(0, 1.2 * side * width), ylim=(1.4 * rows * height, 0))
    axes.set_axis_off()
    for place, (image, title) in enumerate(zip(images, titles, strict=True)):
        left, top = place % side * 1.2 * width, (place // side * 1.4 + 0.35) * height
        box = (left, left + width, top + height, top)
        axes.imshow(image.permute(1, 2, 0).numpy(), cmap="gray", vmin=0, vmax=1, extent=box)
        axes.text(left + width / 2, top, title, fontsize=8, ha="center", va="bottom")
    return figure


def confusion_matrix_figure(matrix: Tensor, classes: Sequence[str], heading: str) -> Figure:
    """A confusion matrix, with its counts and names where there is room for them.

    Args:
        matrix: counts by true (row) and predicted (column) class, shape (C, C).
        classes: one name a class.
        heading: text above the matrix.
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
        color = "white" if count > matrix.max() / 2 else "black"
        axes.text(column, row, str(count), ha="center", va="center", color=color)
    return figure


def new_figure(width: float, height: float, texts: Iterable[str] = ()) -> Figure:
    """An empty one, in inches. Matplotlib takes a while to import, so only those wait who draw.

    Signs that the usual font lacks, such as some of `texts`, come from others, if there are any.
    """
    from matplotlib import figure, font_manager, rcParams

    others = sorted(filter(ASIAN.search, font_manager.get_font_names()))
    rcParams["font.family"] = ["DejaVu Sans", *others]
    warnings.filterwarnings("ignore", "Glyph")  # one line for all of them is enough
    if not others and any(sign >= "\u2e80" for text in texts for sign in text):
        log.warning("no font here has signs such as those of the classes: install Noto Sans CJK")
    return figure.Figure(figsize=(width, height), layout="constrained")
