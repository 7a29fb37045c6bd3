"""Data in memory-mapped files: training with them equals training with the data set."""
# ruff: noqa: D103  the names of the tests say what they test

import pickle
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import CONFIG, ROOT
from stopped_runs import STATEFUL_SETTINGS, differences, during_step, load, logged_rows
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from base.batch_loader import BatchLoader
from builders import build_dataset
from config.schema import Settings
from data_loader.convert import convert
from data_loader.mapped import Mapped
from utils.errors import UserError

Command = Callable[..., int]
LIKE = {"name": "synthetic.Synthetic"}
workers = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(scope="session")
def folder(splits: dict[str, BaseDataset], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic data as files; tests must not change them."""
    folder = tmp_path_factory.mktemp("data") / "mapped"
    convert(splits, folder, LIKE)
    return folder


def of(folder: Path, split: str | None = "train", **options: Any) -> Mapped:
    return Mapped(folder.parent, split, 0, folder.name, **options)


def batches(loader: BatchLoader, first: int, last: int) -> list[dict[str, Tensor]]:
    return [batch for step in loader.steps(first, last) for batch in step.batches]


class Numbers(BaseDataset):
    """Sample k is `change` of the number k."""

    title = "numbers"

    def __init__(self, change: Callable[[Tensor], Tensor] = Tensor.float) -> None:
        self.change = change

    def __len__(self) -> int:
        return 300

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.change(torch.tensor([index]))}


# Equality with the data set


@workers
@pytest.mark.parametrize("count", [0, 2])
def test_batches_equal_those_of_the_data_set_bit_for_bit(
    folder: Path, splits: dict[str, BaseDataset], count: int
) -> None:
    for split, seed in (("train", 3), ("validation", None), ("test", None)):
        one = BatchLoader(splits[split], 50, seed, accumulate=2)
        other = BatchLoader(of(folder, split), 50, seed, accumulate=2, workers=count)
        assert differences(batches(one, 0, 12), batches(other, 0, 12)) == []
        assert one.dataset.fingerprint == other.dataset.fingerprint
        assert one.dataset.state_dict().keys() == other.dataset.state_dict().keys()


def test_samples_can_be_read_in_any_order(folder: Path, splits: dict[str, BaseDataset]) -> None:
    data = of(folder)
    source = splits["train"]
    for indices in ([789, 0, 127, 128, 0, 500], [128], [], list(range(790))):
        positions = torch.tensor(indices, dtype=torch.int64)
        found = data.__getitems__(positions)
        assert differences(found, source.__getitems__(positions)) == []
    assert differences(data[128], source[128]) == []
    assert len([data[k] for k in range(len(data))]) == 790


def test_an_index_out_of_range_is_an_index_error(folder: Path) -> None:
    data = of(folder)
    for index in (790, -1):
        with pytest.raises(IndexError, match=str(index)):
            data[index]


def test_a_split_is_one_numpy_file_for_each_tensor(
    folder: Path, splits: dict[str, BaseDataset]
) -> None:
    names = sorted(file.name for file in (folder / "train").iterdir())
    assert names == ["input.npy", "target.npy"]
    everything = splits["train"].__getitems__(torch.arange(790))
    for name, values in everything.items():
        array = np.load(folder / "train" / f"{name}.npy", allow_pickle=False)
        assert np.array_equal(array, values.numpy())


def test_batches_are_copies(folder: Path) -> None:
    data = of(folder)
    data.__getitems__(torch.arange(9))["input"].zero_()
    assert data.__getitems__(torch.arange(9))["input"].any()


@workers
def test_a_run_trains_and_resumes_with_identical_results(
    tmp_path: Path, train: Command, command: Command
) -> None:
    assert command("data_loader.convert", "--config", CONFIG, "data.root=data", "mine") == 0
    options = (*STATEFUL_SETTINGS, "data.name=mapped.Mapped", "data.root=data", "data.folder=mine")
    assert train(tmp_path / "source", *STATEFUL_SETTINGS) == 0
    with pytest.MonkeyPatch.context() as patch:
        during_step(patch, 5, lambda: signal.raise_signal(signal.SIGTERM))
        assert train(tmp_path / "run", *options, "data.workers=2") == 128 + signal.SIGTERM
    assert load(tmp_path / "run")["progress"]["step"] == 6
    assert command("train", "--resume", tmp_path / "run", "data.workers=0") == 0
    changed = differences(load(tmp_path / "run"), load(tmp_path / "source"))
    assert all(key.startswith(("/settings", "/ranks/0/random_state")) for key in changed)
    assert logged_rows(tmp_path / "run") == logged_rows(tmp_path / "source")


def test_all_commands_accept_the_files(
    tmp_path: Path, train: Command, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("data_loader.convert", "--config", CONFIG, "data.batch_size=50", "mapped") == 0
    label, _, line = capsys.readouterr().out.splitlines()[-1].partition(": ")
    options = ("data.name=mapped.Mapped", "data.folder=mapped")
    changes = ["--config", str(CONFIG), "data.batch_size=50", *options]
    assert (label, shlex.split(line)) == ("train", ["python", "train.py", *changes])
    assert train(tmp_path / "run", *options, "trainer.max_steps=3", "loss.balanced=true") == 0
    assert command("evaluate", tmp_path / "run") == 0
    assert command("preview", "--config", CONFIG, *options) == 0
    assert len([*(tmp_path / "preview").iterdir()]) == 2
    assert command("predict", tmp_path / "run", "preview/train_plain.png") == 0
    assert "synthetic data" in capsys.readouterr().out


def test_targets_equal_those_of_the_data_set(folder: Path, splits: dict[str, BaseDataset]) -> None:
    assert torch.equal(of(folder).targets, splits["train"].targets)  # type: ignore[attr-defined]


def test_the_seed_does_not_change_the_validation_images(
    folder: Path, make_settings: Callable[..., Settings]
) -> None:
    fingerprints = []
    for seed in (0, 1):
        root = f"data.root={folder.parent}"
        settings = make_settings("data.name=mapped.Mapped", root, f"seed={seed}")
        fingerprints.append(build_dataset(settings, "validation").fingerprint)
    assert fingerprints[0] == fingerprints[1]


# Other sources


def rows(count: int) -> Iterator[Sample]:
    for k in range(count):
        yield {"input": torch.full((3,), k / 7), "target": torch.tensor(k % 2)}


def test_samples_may_come_from_any_iterable(tmp_path: Path) -> None:
    state = {"title": "rows", "classes": ("even", "odd")}
    splits = {"train": rows(500), "validation": [*rows(5)]}
    convert(splits, tmp_path / "mapped", state=state)
    data = of(tmp_path / "mapped")
    assert (data.title, [*data.classes]) == ("rows", ["even", "odd"])
    found = BatchLoader(data, 500).sample_batch(500)
    number = (found["input"][:, 0] * 7).round().long()
    assert sorted(number.tolist()) == list(range(500))
    assert torch.equal(number % 2, found["target"])
    assert data.table(found)[0] == ["input", "target"]
    assert len(of(tmp_path / "mapped", "validation")) == 5
    with pytest.raises(UserError, match="other data"):  # an iterable may yield other samples now
        convert(splits, tmp_path / "mapped", state=state)


def test_the_setting_like_may_name_the_class_after_the_conversion(
    tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    source = splits["train"]
    samples = [source[k] for k in range(len(source))]
    convert({"train": samples}, tmp_path / "mapped", state=source.state_dict())
    one = BatchLoader(source, 50, 1)
    other = BatchLoader(of(tmp_path / "mapped", like=LIKE), 50, 1)
    assert differences(batches(one, 0, 3), batches(other, 0, 3)) == []


def test_a_subclass_may_override_methods(folder: Path) -> None:
    class Mine(Mapped):
        def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
            return [(source, {"input": torch.ones(1)})]

        def transform(self, batch: Batch, rng: torch.Generator | None) -> Batch:
            return {"input": batch["input"] * 2}

    data = Mine(folder.parent, "train", 0, folder.name)
    ((_, sample),) = data.read_inputs("something")
    assert data.transform(data.collate([sample]), None) == {"input": 2}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float16, torch.int32])
def test_dtypes_are_preserved(tmp_path: Path, dtype: torch.dtype) -> None:
    source = Numbers(lambda k: (k % 2).to(dtype))
    convert({"train": source}, tmp_path / "mapped", state={"title": "", "classes": ()})
    indices = torch.arange(300)
    found = of(tmp_path / "mapped").__getitems__(indices)
    assert differences(found, source.__getitems__(indices)) == []


# Bounds


SPARSE = """
import json, sys, time
from pathlib import Path
import numpy as np
folder = Path(sys.argv[1])
count = 10**8
(folder / "train").mkdir(parents=True)
make = np.lib.format.open_memmap
make(folder / "train/input.npy", "w+", "u1", (count, 200))
make(folder / "train/target.npy", "w+", "i8", (count,))
tensors = {"input": {"dtype": "uint8", "shape": [200]}, "target": {"dtype": "int64", "shape": []}}
about = {"title": "sparse", "classes": ["a"], "fitted": {}, "like": {}}
about["splits"] = {"train": {"samples": count, "tensors": tensors}}
(folder / "about.json").write_text(json.dumps(about))

import torch
from base.batch_loader import BatchLoader
from data_loader.mapped import Mapped

def memory(name):
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) / 1024

own = memory("RssAnon")
mapped = memory("RssFile")
start = time.monotonic()
data = Mapped(folder.parent, "train", 0, folder.name)
loader = BatchLoader(data, 256, seed=0)
loader.check()
loader.sample_batch(25)
next(loader.steps(loader.steps_per_epoch // 2, loader.steps_per_epoch))
seconds = time.monotonic() - start
for _ in loader.steps(0, 500):
    pass
print(len(data), seconds, memory("RssAnon") - own, memory("RssFile") - mapped)
"""


def test_a_hundred_million_samples_are_neither_read_nor_listed_as_a_whole(tmp_path: Path) -> None:
    """The first batch takes seconds, and most pages of the files are never read."""
    command = [sys.executable, "-c", SPARSE, str(tmp_path / "sparse")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    count, seconds, own_megabytes, mapped_megabytes = map(float, done.stdout.split())
    size = sum(file.stat().st_size for file in (tmp_path / "sparse/train").iterdir())
    assert size > 20e9
    assert count == 1e8
    assert seconds < 10
    assert own_megabytes < 100  # memory that the system cannot take back
    assert mapped_megabytes < 5_000  # 500 batches touch 250,000 pages of 4 KB, 1 GB


def test_a_pickled_loader_contains_no_samples(folder: Path) -> None:
    data = of(folder)
    content = pickle.dumps(BatchLoader(data, 50, 1))
    assert len(content) < 10_000
    one = BatchLoader(data, 50, 1)
    other = pickle.loads(content)
    assert differences(batches(one, 0, 3), batches(other, 0, 3)) == []


def test_an_input_is_described_as_by_the_converted_data_set(
    folder: Path, splits: dict[str, BaseDataset]
) -> None:
    expected = splits["train"].describe_input()
    assert expected["kind"] == "image"
    assert of(folder, None).describe_input() == expected
