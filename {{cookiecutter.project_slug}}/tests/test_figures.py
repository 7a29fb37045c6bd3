"""Figures: their contents, and no side effects on Matplotlib and warnings."""
# ruff: noqa: D103  the names of the tests say what they test

import warnings
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from logger.figures import (
    Figure,
    confusion_matrix_figure,
    curve_figure,
    drawing_style,
    image_grid,
    predicted_vs_true_figure,
    save_figure,
    schedule_figure,
)

KOREAN = ["배송", "환불"]
POINTS = torch.linspace(0, 1, 20).unsqueeze(1)
DRAW = {
    "image_grid": lambda: image_grid(torch.rand(2, 1, 8, 8), KOREAN, "한글"),
    "confusion_matrix": lambda: confusion_matrix_figure(torch.eye(2), KOREAN, "한글"),
    "predicted_vs_true": lambda: predicted_vs_true_figure(POINTS, POINTS, "한글"),
    "schedule": lambda: schedule_figure({"a": np.ones(3), "b": np.zeros(3)}, {}, "한글"),
    "curve": lambda: curve_figure(POINTS, POINTS, "한글", ("x", "y"), POINTS),
}


@pytest.fixture
def without_cjk_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(font_manager, "get_font_names", lambda: ["DejaVu Sans"])


def test_only_few_classes_get_names_and_counts() -> None:
    for classes, texts in ((30, 900), (400, 0)):
        names = [f"class {k}" for k in range(classes)]
        figure = confusion_matrix_figure(torch.eye(classes, dtype=torch.int64), names, "many")
        assert len(figure.axes[0].texts) == texts
        assert max(figure.get_size_inches()) < 30


def test_an_image_grid_has_as_many_rows_as_needed() -> None:
    for count, rows in ((16, 4), (17, 4), (21, 5), (25, 5)):
        figure = image_grid(torch.rand(count, 1, 8, 8), ["name"] * count, "images")
        bottom, top = figure.axes[0].get_ylim()
        assert bottom == pytest.approx(1.4 * 8 * rows)
        assert top == 0
        assert max(image.get_extent()[2] for image in figure.axes[0].images) <= bottom
        assert figure.get_size_inches()[1] == pytest.approx(1.8 * rows + 0.4)


def test_missing_fonts_are_reported_once_and_only_for_names_that_need_them(
    without_cjk_fonts: None, caplog: pytest.LogCaptureFixture
) -> None:
    for names in (KOREAN, ["é", "ß"]):
        confusion_matrix_figure(torch.eye(2), names, "한글")
    (record,) = caplog.records
    assert "install Noto Sans CJK" in record.message


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
        assert image.size == (170, 220)
