"""Data in memory-mapped files: made of a data set, they train as it does."""
# ruff: noqa: D103  the names of the tests say what they test

import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG, ROOT
from test_resume import STATEFUL, checkpoint, differences, in_step, measured
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from base.batch_loader import BatchLoader
from builders import build_dataset
from config.schema import Settings
from data_loader import mapped
from data_loader.mapped import Mapped, convert
from utils.errors import UserError

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
    found = BatchLoader(data, 500).sample_batch(500)
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
loader.sample_batch(25)
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
