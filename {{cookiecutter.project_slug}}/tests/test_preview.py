"""preview.py: what the model will see."""
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


def test_pictures_show_the_samples_that_the_model_gets(
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    splits: dict[str, BaseDataset],
) -> None:
    figures: list[Figure] = []
    draw = synthetic.Synthetic.draw

    def note(*arguments: Any) -> Figure:
        figure = draw(*arguments)
        assert figure is not None
        figures.append(figure)
        return figure

    monkeypatch.setattr(synthetic.Synthetic, "draw", note)
    monkeypatch.chdir(tmp_path)
    assert command("preview", "--config", CONFIG, "--split", "validation") == 0
    for kind in ("plain", "augmented"):
        with Image.open(tmp_path / f"preview/validation_{kind}.png") as image:
            assert image.size[0] > 300
    plain, augmented = ([np.array(i.get_array()) for i in f.axes[0].images] for f in figures)
    assert len(plain) == len(augmented) == 9
    assert sum((one != other).any() for one, other in zip(plain, augmented, strict=True)) > 3

    drawn = permute(torch.arange(9), len(splits["validation"]), make_generator(0))
    targets = splits["validation"].__getitems__(drawn)["target"]
    for figure in figures:
        titles = [text.get_text() for text in figure.findobj(Text)]
        assert all(splits["train"].classes[target] in titles for target in targets)


def test_what_is_no_image_is_shown_as_a_table(
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(synthetic.Synthetic, "draw", lambda *_: None)
    assert command("preview", "--config", CONFIG, "--output", tmp_path / "new") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "synthetic data: train, plain"
    assert lines[1].split() == ["input", "target"]
    assert [len(line.split()) > 1 for line in lines[3:12]] == [True] * 9
    assert not (tmp_path / "new").exists()


def test_a_setting_that_is_wrong_leaves_nothing(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = "data.batch_size=-1"
    assert command("preview", "--config", CONFIG, wrong, "--output", tmp_path / "new") == 2
    assert "data.batch_size = -1" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
