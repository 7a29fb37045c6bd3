"""Data in memory-mapped files: made of a data set, they train as it does; what is wrong is told."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import pickle
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIG, ROOT
from test_disks import limit_files
from test_resume import STATEFUL, checkpoint, differences, in_step, measured
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from base.batch_loader import BatchLoader
from builders import build_dataset
from config.schema import Settings
from data_loader import mapped, synthetic
from data_loader.mapped import Mapped, convert
from data_loader.synthetic import Synthetic
from utils.errors import LoadingError, UserError

Command = Callable[..., int]
LIKE = {"name": "synthetic.Synthetic"}
workers = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="session")
def folder(splits: dict[str, BaseDataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data as files, in many shards; tests must not change them."""
    folder = tmp_path_factory.mktemp("data") / "mapped"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "SHARD", 100 * 28 * 28)
        convert(splits, folder, LIKE)
    assert len([*(folder / "train").iterdir()]) == 2 * 7  # of two blocks of 64, but for the last
    return folder


@pytest.fixture
def copy(tmp_path: Path, splits: dict[str, BaseDataset]) -> Path:
    """A folder to spoil: the validation images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mapped, "SHARD", 64 * 28 * 28)
        convert({"validation": splits["validation"]}, tmp_path / "mapped", LIKE)
    return tmp_path / "mapped/validation"


def of(folder: Path, split: str | None = "train", **options: Any) -> Mapped:
    return Mapped(folder.parent, split, 0, folder.name, **options)


def batches(loader: BatchLoader, first: int, last: int) -> list[dict[str, Tensor]]:
    return [batch for step in loader.steps(first, last) for batch in step]


class Numbers(BaseDataset):
    """Sample k is the number k, or what `change` makes of it."""

    title = "numbers"

    def __init__(self, change: Callable[[Tensor], Tensor] = Tensor.float) -> None:
        self.change = change

    def __len__(self) -> int:
        return 300

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.change(torch.tensor([index]))}


# The same as the data set


@workers
@pytest.mark.parametrize("count", [0, 2])
def test_batches_are_those_of_the_data_set_to_the_last_bit(
    folder: Path, splits: dict[str, BaseDataset], count: int
) -> None:
    for split, seed in (("train", 3), ("validation", None), ("test", None)):
        one = BatchLoader(splits[split], 50, seed, accumulate=2)
        other = BatchLoader(of(folder, split), 50, seed, accumulate=2, workers=count)
        assert differences(batches(one, 0, 12), batches(other, 0, 12)) == []
        assert one.dataset.fingerprint == other.dataset.fingerprint
        assert one.dataset.state_dict().keys() == other.dataset.state_dict().keys()


def test_any_samples_can_be_had_in_any_order(folder: Path, splits: dict[str, BaseDataset]) -> None:
    data, source = of(folder), splits["train"]
    for indices in ([789, 0, 127, 128, 0, 500], [128], [], list(range(790))):
        places = torch.tensor(indices, dtype=torch.int64)
        assert differences(data.__getitems__(places), source.__getitems__(places)) == []
    assert differences(data[128], source[128]) == []
    assert len([data[k] for k in range(len(data))]) == 790
    for index in (790, -1):
        with pytest.raises(IndexError, match=str(index)):
            data[index]


def test_one_shard_is_as_good_as_many(
    folder: Path, splits: dict[str, BaseDataset], tmp_path: Path
) -> None:
    convert(splits, tmp_path / "one", LIKE)
    assert len([*(tmp_path / "one/train").iterdir()]) == 2
    places = torch.randperm(790)
    one, many = (of(place).__getitems__(places) for place in (tmp_path / "one", folder))
    assert differences(one, many) == []


def test_advice_to_the_system_changes_no_bit(
    folder: Path, splits: dict[str, BaseDataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped, "HELD", 10**6)
    data, told = of(folder, "train"), list[int]()
    assert not data.advises
    monkeypatch.setattr(mapped, "HELD", 10**5)
    data = of(folder, "train")
    assert data.advises
    for _ in range(9):
        places = torch.randperm(790)[:50]
        found, wanted = data.__getitems__(places), splits["train"].__getitems__(places)
        assert differences(found, wanted) == []
        told.append(data.held)
    assert 0 in told  # pages were given back


def test_batches_are_copies(folder: Path) -> None:
    data = of(folder)
    data.__getitems__(torch.arange(9))["input"].zero_()
    assert data.__getitems__(torch.arange(9))["input"].any()


@workers
def test_a_run_trains_alike_and_goes_on_with_the_same_bits(
    tmp_path: Path, train: Command, command: Command
) -> None:
    assert command("data_loader.mapped", "--config", CONFIG, "data.root=data", "mine") == 0
    options = (*STATEFUL, "data.name=mapped.Mapped", "data.root=data", "data.folder=mine")
    assert train(tmp_path / "source", *STATEFUL) == 0
    with pytest.MonkeyPatch.context() as patch:
        in_step(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
        assert train(tmp_path / "run", *options, "data.workers=2") == 128 + signal.SIGTERM
    assert checkpoint(tmp_path / "run")["step"] == 5
    assert command("train", "--resume", tmp_path / "run", "data.workers=0") == 0
    changed = differences(checkpoint(tmp_path / "run"), checkpoint(tmp_path / "source"))
    assert all(place.startswith(("/settings", "/ranks/0/draws")) for place in changed)
    assert measured(tmp_path / "run") == measured(tmp_path / "source")


def test_all_commands_take_the_files(
    tmp_path: Path, train: Command, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("data_loader.mapped", "--config", CONFIG, "mapped") == 0
    assert "data.name=mapped.Mapped data.folder=mapped" in capsys.readouterr().out
    options = ("data.name=mapped.Mapped", "data.workers=0")
    assert train(tmp_path / "run", *options, "trainer.max_steps=3", "trainer.balanced=true") == 0
    assert command("evaluate", tmp_path / "run") == 0
    assert command("preview", "--config", CONFIG, *options) == 0
    assert len([*(tmp_path / "preview").iterdir()]) == 2
    assert command("predict", tmp_path / "run", "preview/train_plain.png") == 0
    assert "synthetic data" in capsys.readouterr().out


def test_what_all_samples_are_weighed_by_is_theirs(
    folder: Path, splits: dict[str, BaseDataset]
) -> None:
    assert torch.equal(of(folder).targets, splits["train"].targets)  # type: ignore[attr-defined]


def test_the_seed_does_not_choose_the_validation_images_again(
    folder: Path, make_settings: Callable[..., Settings]
) -> None:
    place = f"data.root={folder.parent}"
    settings = [make_settings("data.name=mapped.Mapped", place, f"seed={k}") for k in (0, 1)]
    found = [build_dataset(one, "validation").fingerprint for one in settings]
    assert found[0] == found[1]


# Other sources


def rows(count: int) -> Iterator[Sample]:
    return ({"input": torch.full((3,), k / 7), "target": torch.tensor(k % 2)} for k in range(count))


def test_samples_may_come_from_anything_that_can_be_gone_through(tmp_path: Path) -> None:
    state = {"title": "rows", "classes": ("even", "odd")}
    splits = {"train": rows(500), "validation": [*rows(5)]}
    convert(splits, tmp_path / "mapped", state=state)
    data = of(tmp_path / "mapped")
    assert (data.title, [*data.classes]) == ("rows", ["even", "odd"])
    found = BatchLoader(data, 500).pick(500)
    number = (found["input"][:, 0] * 7).round().long()
    assert sorted(number.tolist()) == list(range(500))
    assert torch.equal(number % 2, found["target"])
    assert data.table(found)[0] == ["input", "target"]
    assert len(of(tmp_path / "mapped", "validation")) == 5
    with pytest.raises(UserError, match="holds other data"):  # as what rows gives is not known
        convert(splits, tmp_path / "mapped", state=state)


def test_a_class_may_be_named_afterwards(tmp_path: Path, splits: dict[str, BaseDataset]) -> None:
    source = splits["train"]
    samples = [source[k] for k in range(len(source))]
    convert({"train": samples}, tmp_path / "mapped", state=source.state_dict())
    one, other = BatchLoader(source, 50, 1), BatchLoader(of(tmp_path / "mapped", like=LIKE), 50, 1)
    assert differences(batches(one, 0, 3), batches(other, 0, 3)) == []


def test_a_subclass_may_do_things_in_its_own_way(folder: Path) -> None:
    class Mine(Mapped):
        def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
            return [(source, {"input": torch.ones(1)})]

        def transform(self, batch: Batch, generator: torch.Generator | None) -> Batch:
            return {"input": batch["input"] * 2}

    data = Mine(folder.parent, "train", 0, folder.name)
    ((_, sample),) = data.read_inputs("something")
    assert data.transform(data.collate([sample]), None) == {"input": 2}


@pytest.mark.parametrize("kind", [torch.uint8, torch.bool, torch.float16, torch.int32])
def test_numbers_of_any_type_stay_what_they_are(tmp_path: Path, kind: torch.dtype) -> None:
    source = Numbers(lambda k: (k % 2).to(kind))
    convert({"train": source}, tmp_path / "mapped", state={"title": "", "classes": ()})
    indices = torch.arange(300)
    found = of(tmp_path / "mapped").__getitems__(indices)
    assert differences(found, source.__getitems__(indices)) == []


# Bounds


SPARSE = """
import json, resource, sys, time
from pathlib import Path
import numpy as np
folder, count = Path(sys.argv[1]), 10**8
(folder / "train").mkdir(parents=True)
make = np.lib.format.open_memmap
for shard in range(2):
    for name, shape, kind in (("input", (count // 2, 200), "u1"), ("target", (count // 2,), "i8")):
        make(folder / f"train/{shard:05d}.{name}.npy", "w+", kind, shape)
about = {"title": "sparse", "classes": ["a"], "learned": {}, "like": {}}
about["splits"] = {"train": {"names": ["input", "target"], "samples": [count // 2] * 2}}
(folder / "about.json").write_text(json.dumps(about))
import torch
from base.batch_loader import BatchLoader
from data_loader.mapped import Mapped
before, begun = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
data = Mapped(folder.parent, "train", 0, folder.name)
loader = BatchLoader(data, 256, seed=0)
loader.check()
loader.pick(25)
next(loader.steps(loader.steps_per_epoch // 2, loader.steps_per_epoch))
first = time.monotonic() - begun
for _ in loader.steps(0, 500):
    pass
print(len(data), first, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_a_hundred_million_samples_are_neither_read_nor_listed_as_a_whole(tmp_path: Path) -> None:
    """Seconds to the first batch, and less memory than even the pages that samples are in."""
    command = [sys.executable, "-c", SPARSE, str(tmp_path / "sparse")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, seconds, megabytes = map(float, done.stdout.split())
    size = sum(file.stat().st_size for file in (tmp_path / "sparse/train").iterdir())
    assert size > 20e9
    assert count == 1e8
    assert seconds < 10
    assert megabytes < 300  # 500 batches of 256 samples are in 250,000 pages, a GB


def test_what_a_worker_is_given_holds_no_samples(folder: Path) -> None:
    data = of(folder)
    content = pickle.dumps(BatchLoader(data, 50, 1))
    assert len(content) < 10_000
    one, other = BatchLoader(data, 50, 1), pickle.loads(content)
    assert differences(batches(one, 0, 3), batches(other, 0, 3)) == []


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
        (lambda text: text.replace("synthetic.Synthetic", "synthetic.Stripes"), "Input should be"),
        (lambda text: text.replace("synthetic.Synthetic", "os.system"), "Input should be"),
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

    learned = ("weights",)
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
