"""preview.py: samples as the model gets them."""
# ruff: noqa: D103  the names of the tests say what they test

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIG
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from base.base_dataset import BaseDataset
from data_loader import synthetic
from utils.randomness import make_generator, permute

Command = Callable[..., int]


def images_of(figure: Figure) -> list[Any]:
    """The pixels of all images in the first axes of a figure."""
    return [np.array(image.get_array()) for image in figure.axes[0].images]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that the synthetic data set draws."""
    figures: list[Figure] = []
    original = synthetic.Synthetic.draw

    def draw(*arguments: Any) -> Figure:
        figure = original(*arguments)
        assert figure is not None
        figures.append(figure)
        return figure

    monkeypatch.setattr(synthetic.Synthetic, "draw", draw)
    return figures


def test_figures_show_the_same_samples_plain_and_augmented(
    tmp_path: Path, command: Command, drawn: list[Figure], splits: dict[str, BaseDataset]
) -> None:
    assert command("preview", "--config", CONFIG, "--split", "validation") == 0
    for kind in ("plain", "augmented"):
        with Image.open(tmp_path / f"preview/validation_{kind}.png") as image:
            assert image.width > 300
    plain_figure, augmented_figure = drawn
    plain_images = images_of(plain_figure)
    augmented_images = images_of(augmented_figure)
    assert len(plain_images) == len(augmented_images) == 9
    changed = 0
    for plain, augmented in zip(plain_images, augmented_images, strict=True):
        if (plain != augmented).any():
            changed += 1
    assert changed > 3

    indices = permute(torch.arange(9), len(splits["validation"]), make_generator(0))
    targets = splits["validation"].__getitems__(indices)["target"]
    for figure in drawn:
        texts = [text.get_text() for text in figure.findobj(Text)]
        for target in targets:
            assert splits["train"].classes[target] in texts


def test_samples_without_images_are_shown_as_a_table(
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(synthetic.Synthetic, "draw", lambda *_: None)
    assert command("preview", "--config", CONFIG, "--output", tmp_path / "new") == 0
    title, header, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "synthetic data: train, plain"
    assert header.split() == ["input", "target"]
    for row in rows[:9]:
        assert len(row.split()) > 1
    assert not (tmp_path / "new").exists()


def test_an_invalid_setting_writes_no_files(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    invalid = "data.batch_size=-1"
    assert command("preview", "--config", CONFIG, invalid, "--output", tmp_path / "new") == 2
    assert "data.batch_size = -1" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
