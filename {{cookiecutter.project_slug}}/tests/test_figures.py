"""Figures: contents, layout and style, and no side effects on Matplotlib and warnings."""
# ruff: noqa: D103  the names of the tests say what they test

import math
import warnings
from collections.abc import Callable
from io import BytesIO
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text
from PIL import Image

from logger import figure_text
from logger.confusion_matrix import compact_number, confusion_matrix_figure
from logger.console import shorten
from logger.curves import BestValue, Series, curves_figure
from logger.figures import (
    Figure,
    curve_figure,
    drawing_style,
    image_grid,
    predicted_vs_true_figure,
    reliability_figure,
    save_figure,
    schedule_figure,
)
from metrics.calibration import calibrate

KOREAN = ["배송", "환불"]
LONG = "a very long name that no figure has room for, and that does not end"
POINTS = torch.linspace(0, 1, 20).unsqueeze(1)
DRAW = {
    "image_grid": lambda: image_grid(torch.rand(2, 1, 8, 8), KOREAN, "한글"),
    "confusion_matrix": lambda: confusion_matrix_figure(torch.eye(2), KOREAN, "한글"),
    "predicted_vs_true": lambda: predicted_vs_true_figure(POINTS, POINTS, "한글"),
    "reliability": lambda: reliability_figure(calibrate(POINTS[:, 0], POINTS[:, 0]), "한글"),
    "schedule": lambda: schedule_figure({"a": np.ones(3), "b": np.zeros(3)}, {}, "한글"),
    "curve": lambda: curve_figure(POINTS, POINTS, "한글", ("x", "y"), POINTS),
    "curves": lambda: curves_figure({"loss": {"train": Series([1], [2.0])}}, "한글", 10, None),
}


def confused(classes: int, count: int = 1000) -> torch.Tensor:
    """A confusion matrix in which each class is taken for the next one in a tenth of the cases."""
    matrix = count * torch.eye(classes, dtype=torch.int64)
    return matrix + matrix.roll(1, 1) // 10


def names(classes: int) -> list[str]:
    return [f"class {k}" for k in range(classes)]


def panels(metrics: int) -> dict[str, dict[str, Series]]:
    """As many metrics on two splits, and two learning rates."""
    steps = list(range(100, 1100, 100))
    series = Series(steps, [1 / step for step in steps])
    curves = {f"metric {k}": {"train": series, "validation": series} for k in range(metrics)}
    return {**curves, "lr": {"lr": series, f"lr of {LONG}": series}, "grad_norm": {"train": series}}


def draw_grid(count: int, height: int, width: int, title: str) -> Figure:
    return image_grid(torch.rand(count, 3, height, width), [title] * count, LONG)


LAYOUTS = {
    "1 class": lambda: confusion_matrix_figure(confused(1), names(1), LONG),
    "2 classes": lambda: confusion_matrix_figure(confused(2), names(2), LONG),
    "10 classes": lambda: confusion_matrix_figure(confused(10), names(10), LONG),
    "16 classes": lambda: confusion_matrix_figure(confused(16, 10**7), names(16), LONG),
    "100 classes": lambda: confusion_matrix_figure(confused(100), names(100), LONG),
    "2 long names": lambda: confusion_matrix_figure(confused(2), ["no " + LONG, LONG], LONG),
    "10 long names": lambda: confusion_matrix_figure(confused(10), 10 * [LONG], LONG),
    "100 long names": lambda: confusion_matrix_figure(confused(100), 100 * [LONG], LONG),
    "10 Korean names": lambda: confusion_matrix_figure(confused(10), 5 * KOREAN, 9 * "한글 "),
    "1 image": lambda: draw_grid(1, 28, 28, "shirt"),
    "2 images": lambda: draw_grid(2, 28, 28, f"sample 17\n{LONG}\nas {LONG}"),
    "7 wide images": lambda: draw_grid(7, 10, 80, "shirt"),
    "16 high images": lambda: draw_grid(16, 80, 10, "a shirt with $1 or $2"),
    "25 images": lambda: draw_grid(25, 8, 8, LONG),
    "predicted": lambda: predicted_vs_true_figure(1e6 * POINTS, 2e6 * POINTS, LONG),
    "reliability": lambda: reliability_figure(calibrate(POINTS[:, 0], POINTS[:, 0]), LONG),
    "schedule": lambda: schedule_figure({LONG: np.arange(3.0)}, {LONG: np.arange(3.0)}, LONG),
    "curve": lambda: curve_figure(POINTS, POINTS, LONG, (LONG, LONG), POINTS),
    "2 curves": lambda: curves_figure(panels(0), LONG, 10, None),
    "20 curves": lambda: curves_figure(
        panels(18), 3 * LONG, 10, BestValue("metric 3", "validation", 200, 1 / 200)
    ),
}


@pytest.fixture
def without_cjk_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager, "get_font_names", lambda: ["DejaVu Sans"])
    monkeypatch.setattr(figure_text, "_warnings", [])


def drawn_texts(figure: Figure) -> list[Text]:
    """Renders a figure; returns the texts that it shows."""
    drawn: list[Text] = []
    draw = Text.draw

    def record(text: Text, renderer: Any) -> None:
        if text.get_visible() and text.get_text().strip():
            drawn.append(text)
        draw(text, renderer)

    with drawing_style(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", record)
        FigureCanvasAgg(figure).draw()
    return drawn


@pytest.mark.parametrize("draw", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_axes_have_names_and_texts_neither_overlap_nor_leave_the_figure(
    draw: Callable[[], Figure],
) -> None:
    figure = draw()
    texts = drawn_texts(figure)
    shown = {text.get_text() for text in texts}
    for axes in figure.axes:
        if axes.axison:  # not of images
            assert axes.get_ylabel() in shown
            has_values = axes.xaxis.get_tick_params()["labelbottom"] and axes.get_xticks().size
            assert axes.get_xlabel() in shown or not has_values
    boxes = []
    for text in texts:
        box = text.get_window_extent().padded(-0.5)  # pixels
        assert figure.bbox.contains(*box.min), text
        assert figure.bbox.contains(*box.max), text
        if text.get_rotation() in (0, 90):  # the boxes of slanted texts contain their neighbours
            boxes.append((text, box))
    assert boxes
    for (text, box), (other_text, other_box) in combinations(boxes, 2):
        assert not box.overlaps(other_box), (text, other_text)


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW.keys())
def test_figures_have_the_style_of_the_project(draw: Callable[[], Figure]) -> None:
    dark: Any = {"figure.facecolor": "black", "text.color": "white", "font.size": 20}
    with matplotlib.rc_context(dark):  # as in a notebook
        figure = draw()
        content = BytesIO()
        save_figure(figure, content)
    with Image.open(content) as image:
        assert image.info["dpi"] == pytest.approx((120, 120), abs=0.1)
        pixels = np.asarray(image.convert("RGBA"))
    assert (pixels[0, 0] == 255).all()
    assert (pixels[..., 3] == 255).all()  # on a dark page, too
    for text in drawn_texts(figure):
        assert float(text.get_fontsize()) <= 11
        assert text.get_color() != "white" or figure.axes[0].images  # on a dark cell


def test_only_few_classes_get_numbers() -> None:
    for classes, numbers in ((30, 900), (400, 0)):
        figure = confusion_matrix_figure(confused(classes), names(classes), "many")
        texts = [text.get_text() for text in figure.axes[0].texts]
        assert len([text for text in texts if text in ("0", "100", "1000")]) == numbers
        assert max(figure.get_size_inches()) < 15


def test_the_most_frequent_confusions_of_many_classes_are_named() -> None:
    matrix = confused(100)
    matrix[7, 3] = 3000
    figure = confusion_matrix_figure(matrix, names(100), "many")
    (text,) = figure.axes[0].texts
    _heading, _, first, *others = text.get_text().splitlines()
    assert first == "class 7 → class 3: 3000 (73%)"
    assert len(others) == 14
    assert len(confusion_matrix_figure(torch.eye(100), names(100), "none").axes[0].texts) == 0


def test_colours_show_the_shares_of_a_class() -> None:
    """A rare class is as visible as a frequent one."""
    figure = confusion_matrix_figure(torch.tensor([[9000, 1000], [1, 9]]), ["a", "b"], "rare")
    (image,) = figure.axes[0].images
    shares: Any = image.get_array()
    assert np.allclose(shares, [[0.9, 0.1], [0.1, 0.9]])
    assert image.norm(np.array(0.04)) == pytest.approx(0.2)  # few errors are visible


def test_large_counts_are_short() -> None:
    numbers = [0, 9999, 12345, 999_400, 999_700, 8_500_000]
    assert list(map(compact_number, numbers)) == ["0", "9999", "12.3k", "999k", "1M", "8.5M"]


def test_names_are_shortened_in_their_middle() -> None:
    assert shorten("a" * 24) == "a" * 24
    assert shorten(f"first {'a' * 40} last") == "first aaaaaa…aaaaaa last"
    assert shorten("가" * 20) == "가" * 6 + "…" + "가" * 5  # twice as wide
    assert shorten("a" * 10**6) == "a" * 12 + "…" + "a" * 11
    for columns in (0, 1):  # the title of a progress bar on a terminal of two columns
        assert shorten("name", columns) == "…"


def test_an_image_grid_has_as_many_rows_as_needed() -> None:
    for count, rows in ((1, 1), (2, 1), (7, 3), (16, 4), (17, 4), (21, 5), (25, 5)):
        figure = image_grid(torch.rand(count, 1, 8, 8), ["name"] * count, "images")
        tops = {image.get_extent()[3] for image in figure.axes[0].images}
        assert len(tops) == rows


@pytest.mark.parametrize(("height", "width"), [(8, 8), (10, 80), (80, 10), (1, 500)])
def test_images_are_centred_and_keep_their_proportions(height: int, width: int) -> None:
    figure = draw_grid(4, height, width, "name")
    (axes,) = figure.axes
    left_edges = []
    right_edges = []
    for image in axes.images:
        left, right, bottom, top = image.get_extent()
        left_edges.append(left)
        right_edges.append(right)
        if 500 not in (height, width):
            assert (right - left) / (bottom - top) == pytest.approx(width / height)
    figure_width = figure.get_figwidth()
    assert min(left_edges) == pytest.approx(figure_width - max(right_edges))
    assert axes.get_xlim() == (0, figure_width)  # inches, in both directions
    height_of_axes = figure.get_figheight() * axes.get_position().height
    assert axes.get_ylim() == pytest.approx((height_of_axes, 0))


def test_missing_fonts_are_reported_once_and_only_for_names_that_need_them(
    without_cjk_fonts: None, caplog: pytest.LogCaptureFixture
) -> None:
    confusion_matrix_figure(torch.eye(2), ["é", "ß"], "é")
    assert caplog.records == []
    confusion_matrix_figure(torch.eye(2), KOREAN, "names")
    confusion_matrix_figure(torch.eye(2), ["a", "b"], "한글")
    (record,) = caplog.records
    assert "install Noto Sans CJK" in record.message


@pytest.mark.parametrize("name", ["ไทย", "हिन्दी"])
def test_other_scripts_without_a_font_are_reported(
    without_cjk_fonts: None, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    confusion_matrix_figure(torch.eye(2), ["a", name], "names")
    (record,) = caplog.records
    assert any(character in record.message for character in name)


@pytest.mark.parametrize("wrong", [math.nan, math.inf, -math.inf, 1e305])
def test_predictions_that_are_not_finite_are_counted(wrong: float) -> None:
    predicted = POINTS.double()
    predicted[3:5] = wrong
    figure = predicted_vs_true_figure(POINTS, predicted, "data")
    FigureCanvasAgg(figure).draw()
    assert "2 of 20 samples" in " ".join(figure.get_suptitle().split())
    (axes,) = figure.axes
    assert len(np.asarray(axes.collections[0].get_offsets())) == 18
    assert axes.get_xlim() == axes.get_ylim() == pytest.approx((-0.05, 1.05))

    figure = predicted_vs_true_figure(POINTS, torch.full_like(predicted, wrong), "data")
    FigureCanvasAgg(figure).draw()
    assert "20 of 20 samples" in " ".join(figure.get_suptitle().split())


@pytest.mark.parametrize("draw", DRAW.values(), ids=DRAW.keys())
def test_drawing_and_saving_warn_of_no_glyphs_and_leave_no_side_effects(
    without_cjk_fonts: None, tmp_path: Path, draw: Callable[[], Figure]
) -> None:
    settings = dict(matplotlib.rcParams)
    filters = list(warnings.filters)
    save_figure(draw(), tmp_path / "figure.png")
    figure = draw()
    with drawing_style():
        FigureCanvasAgg(figure).draw()  # as TensorBoard does
    assert dict(matplotlib.rcParams) == settings
    assert list(warnings.filters) == filters
    figure = draw()
    with pytest.warns(UserWarning, match="Glyph"):  # the test has glyphs to warn of
        figure.savefig(tmp_path / "unprotected.png")


def test_settings_and_filters_are_restored_after_an_error() -> None:
    settings = dict(matplotlib.rcParams)
    filters = list(warnings.filters)
    with pytest.raises(ValueError, match="shorter"):
        image_grid(torch.rand(2, 1, 8, 8), ["one"], "two images")
    assert dict(matplotlib.rcParams) == settings
    assert list(warnings.filters) == filters


def test_cjk_fonts_are_used_where_they_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = ["Noto Sans CJK KR", "DejaVu Sans", "DejaVu Serif"]
    monkeypatch.setattr(font_manager, "get_font_names", lambda: installed)
    figure = image_grid(torch.rand(1, 1, 8, 8), ["한글"], "images")
    (title,) = figure.axes[0].texts
    assert title.get_fontfamily() == ["DejaVu Sans", "Noto Sans CJK KR"]


def test_a_figure_is_saved_as_png_in_memory_too() -> None:
    content = BytesIO()
    save_figure(image_grid(torch.rand(1, 1, 8, 8), ["one"], "images"), content)
    with Image.open(content) as image:
        assert image.format == "PNG"
        assert image.mode == "RGBA"
