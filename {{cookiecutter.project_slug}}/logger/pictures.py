"""Pictures for TensorBoard and for files, drawn without a screen."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from torch import Tensor
from torchmetrics.utilities.plot import plot_confusion_matrix


def image_grid(images: Tensor, titles: Sequence[str], heading: str) -> Figure:
    """Images side by side, each with its title.

    Args:
        images: floats from 0 to 1, shape (N, C, H, W), C being 1 (grey) or 3 (RGB).
        titles: one text an image.
        heading: text above all.
    """
    side = math.ceil(math.sqrt(len(images)))
    figure = Figure(figsize=(1.7 * side, 1.8 * side + 0.4), layout="constrained")
    figure.suptitle(heading)
    for position, (image, title) in enumerate(zip(images, titles, strict=True), start=1):
        axes = figure.add_subplot(side, side, position)
        axes.imshow(image.permute(1, 2, 0).clamp(0, 1).numpy(), cmap="gray", vmin=0, vmax=1)
        axes.set_title(title, fontsize=8)
        axes.set_axis_off()
    return figure


def confusion_picture(matrix: Tensor, classes: Sequence[str], heading: str) -> Figure:
    """A confusion matrix with its counts.

    Args:
        matrix: counts by true (row) and predicted (column) class, shape (C, C).
        classes: one name a class.
        heading: text above the matrix.
    """
    side = 3 + 0.8 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot(title=heading)
    plot_confusion_matrix(matrix, ax=axes, labels=list(classes), cmap="Blues")
    return figure
