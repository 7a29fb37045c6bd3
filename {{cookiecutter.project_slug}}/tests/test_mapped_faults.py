"""Data in memory-mapped files: what is wrong with them, or with what they are made of, is told."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIG
from test_disks import limit_files
from test_mapped import LIKE, Command, Numbers, batches, of, workers
from torch import Tensor

from base.base_dataset import BaseDataset, Batch
from base.batch_loader import BatchLoader
from data_loader import mapped, synthetic
from data_loader.mapped import convert
from data_loader.synthetic import Synthetic
from utils.errors import LoadingError, UserError


@pytest.fixture
def copy(tmp_path: Path, splits: dict[str, BaseDataset]) -> Path:
    """A folder to spoil: the validation images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "SHARD", 64 * 28 * 28)
        convert({"validation": splits["validation"]}, tmp_path / "mapped", LIKE)
    return tmp_path / "mapped/validation"


# What goes wrong


def spoil(file: Path, name: str, array: Any) -> None:
    np.save(file / name, array, allow_pickle=True)


def shorten(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


IMAGES = np.zeros((64, 1, 28, 28), np.uint8)
SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda f: (f / "00001.input.npy").unlink(), "00001.input.npy.*No such file"),
    "cut short": (lambda f: shorten(f / "00001.input.npy"), "00001.input.npy.*mmap length"),
    "empty": (lambda f: os.truncate(f / "00001.input.npy", 0), "00001.input.npy cannot be used"),
    "no array": (
        lambda f: (f / "00001.input.npy").write_bytes(pickle.dumps([1] * 99)),
        "00001.input.npy.*magic string",
    ),
    "objects": (
        lambda f: spoil(f, "00001.input.npy", np.array([1, "a"] * 32, object)),
        "00001.input.npy.*Python objects",
    ),
    "texts": (
        lambda f: spoil(f, "00000.target.npy", np.array(["a"] * 64)),
        "00000.target.npy.*numpy.str_",
    ),
    "type": (
        lambda f: spoil(f, "00001.input.npy", IMAGES.astype(float)),
        r"00001.input.npy.*it holds float64 \(64, 1, 28, 28\), and should hold uint8",
    ),
    "shape": (
        lambda f: spoil(f, "00002.input.npy", IMAGES[..., :9]),
        r"00002.input.npy.*holds uint8 \(64, 1, 28, 9\), and should hold uint8 \(64, 1, 28, 28\)",
    ),
    "length": (
        lambda f: spoil(f, "00000.input.npy", IMAGES[:63]),
        r"00000.input.npy.*holds uint8 \(63, .*should hold uint8 \(64, ",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_shard_that_cannot_be_used_is_named_with_a_way_out(copy: Path, case: str) -> None:
    action, text = SPOILED[case]
    action(copy)
    with pytest.raises(UserError, match=text) as error:
        of(copy.parent, "validation")
    assert "delete the folder and make it anew by python -m" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert error.value.exit_code == 2


class Touch:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("touched"),)


def test_no_code_in_a_shard_is_run(copy: Path) -> None:
    for name in ("00000.input.npy", "00000.target.npy"):
        spoil(copy, name, np.array([Touch()] * 64, object))
    with pytest.raises(UserError, match="Python objects"):
        of(copy.parent, "validation")
    assert not Path("touched").exists()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda text: text[:-9], "JSONDecodeError"),
        (lambda text: "[1]", "TypeError"),
        (lambda text: text.replace("title", "titel"), "KeyError: 'title'"),
        (lambda text: text.replace("synthetic.Synthetic", "synthetic.Stripes"), "no class Stripes"),
        (lambda text: text.replace("synthetic.Synthetic", "os.system"), "no class os.system"),
        (lambda text: text.replace('"name"', '"tilt": 1, "name"'), "tilt"),
    ],
)
def test_a_damaged_about_json_is_named(
    copy: Path,
    command: Command,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[str], str],
    text: str,
) -> None:
    file = copy.parent / "about.json"
    file.write_text(change(file.read_text()))
    options = ("data.name=mapped.Mapped", f"data.root={copy.parent.parent}")
    assert command("preview", "--config", CONFIG, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: {re.escape(str(file))}, or data.like, cannot be used .*{text}", line)


def test_data_that_are_not_there_are_exit_code_69(
    copy: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--config", CONFIG, "data.name=mapped.Mapped", f"data.root={copy.parent.parent}")
    assert command("preview", *options, "data.folder=nowhere") == 69
    assert "nowhere/about.json is not there; python -m data_loader" in capsys.readouterr().err
    assert command("preview", *options) == 69  # there are only validation images
    assert "mapped holds no train split" in capsys.readouterr().err


@workers
def test_a_file_that_is_cut_short_while_it_is_read_ends_a_worker_and_not_the_run(
    copy: Path,
) -> None:
    """Reading what is mapped and not there any more kills a process; no handler can help."""
    loader = BatchLoader(of(copy.parent, "validation"), 50, workers=1)
    os.truncate(copy / "00001.input.npy", 128)
    with pytest.raises(LoadingError, match="a worker died"):
        batches(loader, 0, loader.steps_per_epoch)


# Conversion


def test_what_is_there_already_is_left_alone(
    copy: Path, splits: dict[str, BaseDataset], tmp_path: Path
) -> None:
    before = (copy.parent / "about.json").stat()
    convert({"validation": splits["validation"]}, copy.parent, LIKE)  # the same
    with pytest.raises(UserError, match="holds other data; delete it, or name another folder"):
        convert({"validation": splits["test"]}, copy.parent, LIKE)
    with pytest.raises(UserError, match="holds other data"):
        convert({"test": splits["test"]}, copy.parent, LIKE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"mine/about.json is not there"):
        convert({"test": splits["test"]}, tmp_path / "mine", LIKE)
    assert (copy.parent / "about.json").stat() == before
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def interrupt(number: Tensor) -> Tensor:
    if number.item() == 299:
        raise KeyboardInterrupt
    return number


def test_a_conversion_that_is_interrupted_leaves_nothing(tmp_path: Path) -> None:
    state = {"title": "numbers", "classes": ()}
    left = tmp_path / "mapped.unfinished/train"
    left.mkdir(parents=True)
    (left / "00000.input.npy").write_bytes(b"of one that was killed")
    samples = ({"input": interrupt(torch.tensor(k))} for k in range(300))
    with pytest.raises(KeyboardInterrupt):
        convert({"train": samples}, tmp_path / "mapped", state=state)
    assert [*tmp_path.iterdir()] == []
    convert({"train": Numbers()}, tmp_path / "mapped", state=state)
    assert [file.name for file in tmp_path.iterdir()] == ["mapped"]


def ragged(number: Tensor) -> Tensor:
    return torch.zeros(1 + int(number) // 100)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (ragged, "stack expects each tensor to be equal size"),
        (lambda k: k.float() if k > 63 else k, "samples must be alike"),
        (lambda k: k.bfloat16(), "BFloat16"),
        (lambda k: torch.rand(1), "train would give other samples"),
    ],
)
def test_samples_that_cannot_be_kept_in_arrays_are_refused(
    tmp_path: Path, change: Callable[[Tensor], Tensor], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        convert({"train": Numbers(change)}, tmp_path / "mapped")
    assert [*tmp_path.iterdir()] == []


def test_samples_that_change_their_shape_are_refused(tmp_path: Path) -> None:
    """Even if as many bytes come of them, which might be taken for others."""
    shapes = [(2, 3)] * 64 + [(3, 2)] * 64
    samples = ({"input": torch.zeros(shape)} for shape in shapes)
    with pytest.raises(UserError, match="train: samples must be alike"):
        convert({"train": samples}, tmp_path / "mapped")
    assert [*tmp_path.iterdir()] == []


class Weighted(Synthetic):
    """Has learned what JSON makes other things of: numbers as keys."""

    fitted = ("weights",)
    weights: dict[Any, float] = {k: 1 / (k + 1) for k in range(10)}  # noqa: RUF012

    def transform(self, batch: Batch, generator: torch.Generator | None) -> Batch:
        return {"input": torch.tensor([self.weights[int(k)] for k in batch["target"]])}


def test_what_would_be_transformed_otherwise_is_refused(
    tmp_path: Path, splits: dict[str, BaseDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="mapped cannot be made: test would give other samples"):
        convert({"test": splits["test"]}, tmp_path / "mapped")  # of a class that is not named
    monkeypatch.setattr(synthetic, "Synthetic", Weighted)
    data = Weighted(tmp_path, "train", 0)
    with pytest.raises(UserError, match="mapped cannot be made: KeyError: "):
        convert({"train": data}, tmp_path / "mapped", LIKE)
    assert [*tmp_path.iterdir()] == []


def test_a_full_disk_is_told_and_leaves_nothing(
    tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    limit_files(200_000)
    try:
        with pytest.raises(UserError, match=r"mapped cannot be made: OSError: \[Errno 27\]"):
            convert(splits, tmp_path / "mapped", LIKE)
    finally:
        limit_files(-1)
    assert [*tmp_path.iterdir()] == []


def test_a_wrong_setting_leaves_nothing(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    convert_to = partial(command, "data_loader.mapped", "--config", CONFIG)
    assert convert_to("data.batch_size=0", "mapped") == 2
    assert "data.batch_size = 0" in capsys.readouterr().err
    assert convert_to("data.batch_size=5") == 2
    assert "FOLDER is missing behind data.batch_size=5" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []
