"""Data in memory-mapped files: errors in the files and in the data that are converted."""
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
from data_loader import synthetic
from data_loader.convert import convert
from data_loader.synthetic import Synthetic
from utils.errors import LoadingError, UserError


@pytest.fixture
def copy(tmp_path: Path, splits: dict[str, BaseDataset]) -> Path:
    """A folder that a test may damage: the 210 validation images."""
    convert({"validation": splits["validation"]}, tmp_path / "mapped", LIKE)
    return tmp_path / "mapped/validation"


# Damaged files


def write(file: Path, array: Any) -> None:
    np.save(file, array, allow_pickle=True)


def shorten(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


IMAGES = np.zeros((210, 1, 28, 28), np.uint8)
OBJECTS = np.array([1, "a"] * 105, object)
TEXTS = np.array(["a"] * 210)
# The file that is damaged, how, and what the message says.
DAMAGES: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "missing": ("input.npy", Path.unlink, "No such file"),
    "cut short": ("input.npy", shorten, "mmap length"),
    "empty": ("input.npy", lambda file: os.truncate(file, 0), "No data left"),
    "pickle": ("input.npy", lambda file: file.write_bytes(pickle.dumps([1] * 99)), "pickled"),
    "objects": ("input.npy", lambda file: write(file, OBJECTS), "Python objects"),
    "texts": ("target.npy", lambda file: write(file, TEXTS), "<U1.*int64"),
    "dtype": (
        "input.npy",
        lambda file: write(file, IMAGES.astype(float)),
        r"float64 \(210, 1, 28, 28\).*uint8 \(210, 1, 28, 28\)",
    ),
    "shape": (
        "input.npy",
        lambda file: write(file, IMAGES[..., :9]),
        r"uint8 \(210, 1, 28, 9\).*uint8 \(210, 1, 28, 28\)",
    ),
    "length": (
        "target.npy",
        lambda file: write(file, np.zeros(209, np.int64)),
        r"int64 \(209,\).*int64 \(210,\)",
    ),
}


@pytest.mark.parametrize("case", DAMAGES)
def test_the_message_about_an_unusable_file_says_what_to_do(copy: Path, case: str) -> None:
    name, damage, text = DAMAGES[case]
    damage(copy / name)
    with pytest.raises(UserError, match=f"{name}.*{text}") as error:
        of(copy.parent, "validation")
    assert "convert the data again: python -m data_loader.convert" in str(error.value)
    assert len(str(error.value).splitlines()) == 1
    assert error.value.exit_code == 2


def test_a_dtype_that_torch_lacks_is_refused(copy: Path) -> None:
    write(copy / "target.npy", TEXTS)
    about = copy.parent / "about.json"
    about.write_text(about.read_text().replace("int64", "<U1"))
    with pytest.raises(UserError, match=r"target.npy.*numpy.str_"):
        of(copy.parent, "validation")


class Touch:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("touched"),)


def test_code_in_a_file_is_not_executed(copy: Path) -> None:
    for name in ("input.npy", "target.npy"):
        write(copy / name, np.array([Touch()] * 210, object))
    with pytest.raises(UserError, match="Python objects"):
        of(copy.parent, "validation")
    assert not Path("touched").exists()


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ('"splits"', "splits", "JSONDecodeError"),
        ('"title"', '"titel"', "title Field required"),
        ('"fitted"', '"learned"', "fitted Field required"),
        ('"samples"', '"count"', "splits.validation.samples Field required"),
        ("synthetic.Synthetic", "synthetic.Stripes", "no class Stripes"),
        ("synthetic.Synthetic", "os.system", "no class os.system"),
        ('"name"', '"tilt": 1, "name"', "tilt"),
    ],
)
def test_a_damaged_about_json_is_reported(
    copy: Path, command: Command, capsys: pytest.CaptureFixture[str], old: str, new: str, text: str
) -> None:
    file = copy.parent / "about.json"
    content = file.read_text()
    assert old in content
    file.write_text(content.replace(old, new))
    options = ("data.name=mapped.Mapped", f"data.root={copy.parent.parent}")
    assert command("preview", "--config", CONFIG, *options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(f"error: {re.escape(str(file))} .*{text}", line)
    assert "python -m data_loader.convert" in line


def test_an_about_json_without_an_object_is_reported(copy: Path) -> None:
    (copy.parent / "about.json").write_text("[1]")
    with pytest.raises(UserError, match=r"about.json is damaged"):
        of(copy.parent, "validation")


def test_a_wrong_setting_in_like_is_reported(copy: Path) -> None:
    with pytest.raises(UserError, match=r"data.like.*tilt"):
        of(copy.parent, "validation", like={"tilt": 1})


def test_missing_data_end_with_exit_code_69(
    copy: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--config", CONFIG, "data.name=mapped.Mapped", f"data.root={copy.parent.parent}")
    assert command("preview", *options, "data.folder=nowhere") == 69
    error = capsys.readouterr().err
    assert "nowhere/about.json does not exist" in error
    assert "python -m data_loader.convert" in error
    assert command("preview", *options) == 69
    assert "mapped contains no train split, only: validation" in capsys.readouterr().err


@workers
def test_a_file_that_is_cut_short_during_a_read_kills_a_worker_and_not_the_run(copy: Path) -> None:
    """Reading a mapped page beyond the end of its file kills the process; this is no exception."""
    loader = BatchLoader(of(copy.parent, "validation"), 50, workers=1)
    os.truncate(copy / "input.npy", 128)
    with pytest.raises(LoadingError, match="a worker process died"):
        batches(loader, 0, loader.steps_per_epoch)


# Conversion


def test_a_folder_that_exists_is_not_changed(
    copy: Path, splits: dict[str, BaseDataset], tmp_path: Path
) -> None:
    before = (copy.parent / "about.json").stat()
    convert({"validation": splits["validation"]}, copy.parent, LIKE)  # the same
    with pytest.raises(UserError, match="contains other data; delete it"):
        convert({"validation": splits["test"]}, copy.parent, LIKE)
    with pytest.raises(UserError, match="contains other data"):
        convert({"test": splits["test"]}, copy.parent, LIKE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"mine/about.json does not exist"):
        convert({"test": splits["test"]}, tmp_path / "mine", LIKE)
    assert (copy.parent / "about.json").stat() == before
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def interrupt(number: Tensor) -> Tensor:
    if number.item() == 299:
        raise KeyboardInterrupt
    return number


def test_an_interrupted_conversion_leaves_no_files(tmp_path: Path) -> None:
    state = {"title": "numbers", "classes": ()}
    left = tmp_path / "mapped.unfinished/train"
    left.mkdir(parents=True)
    (left / "input.npy").write_bytes(b"of a process that was killed")
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
        (ragged, "different shapes"),
        (lambda k: k.float() if k > 63 else k, "the same tensors, dtypes and shapes"),
        (lambda k: k.bfloat16(), "BFloat16"),
        (lambda k: torch.rand(1), "train: samples read from the files differ"),
    ],
)
def test_samples_that_cannot_be_stored_in_arrays_are_refused(
    tmp_path: Path, change: Callable[[Tensor], Tensor], text: str
) -> None:
    with pytest.raises(UserError, match=text):
        convert({"train": Numbers(change)}, tmp_path / "mapped")
    assert [*tmp_path.iterdir()] == []


def test_samples_of_different_shapes_are_refused(tmp_path: Path) -> None:
    """Even if they have equally many bytes."""
    shapes = [(2, 3)] * 64 + [(3, 2)] * 64
    samples = ({"input": torch.zeros(shape)} for shape in shapes)
    with pytest.raises(UserError, match="train: all samples need the same tensors"):
        convert({"train": samples}, tmp_path / "mapped")
    assert [*tmp_path.iterdir()] == []


class Weighted(Synthetic):
    """Has fitted a dict with integer keys, which are texts in JSON."""

    fitted = ("weights",)
    weights: dict[Any, float] = {k: 1 / (k + 1) for k in range(10)}  # noqa: RUF012

    def transform(self, batch: Batch, rng: torch.Generator | None) -> Batch:
        return {"input": torch.tensor([self.weights[int(k)] for k in batch["target"]])}


def test_data_that_would_be_transformed_differently_are_refused(
    tmp_path: Path, splits: dict[str, BaseDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match="test: samples read from the files differ"):
        convert({"test": splits["test"]}, tmp_path / "mapped")  # of a class that is not named
    monkeypatch.setattr(synthetic, "Synthetic", Weighted)
    data = Weighted(tmp_path, "train", 0)
    with pytest.raises(UserError, match="mapped cannot be written: KeyError: "):
        convert({"train": data}, tmp_path / "mapped", LIKE)
    assert [*tmp_path.iterdir()] == []


def test_a_full_disk_is_reported_and_leaves_no_files(
    tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    limit_files(200_000)
    try:
        with pytest.raises(UserError, match=r"mapped cannot be written: OSError: \[Errno 27\]"):
            convert(splits, tmp_path / "mapped", LIKE)
    finally:
        limit_files(-1)
    assert [*tmp_path.iterdir()] == []


def test_a_wrong_setting_is_reported_and_leaves_no_files(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    convert_to = partial(command, "data_loader.convert", "--config", CONFIG)
    assert convert_to("data.batch_size=0", "mapped") == 2
    assert "data.batch_size = 0" in capsys.readouterr().err
    assert convert_to("data.batch_size=5") == 2
    assert "FOLDER is missing after data.batch_size=5" in capsys.readouterr().err
    assert [*tmp_path.iterdir()] == []
