"""Data sets, splits, augmentation, loaders and image files."""
# ruff: noqa: D103  the names of the tests say what they test

import multiprocessing
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from base import batch_loader
from base.base_dataset import BaseDataset, Batch, Sample
from base.batch_loader import BatchLoader
from builders import build_dataset, build_loader, build_training_loaders
from config.schema import Settings
from data_loader.synthetic import Synthetic
from utils.errors import LoadingError
from utils.randomness import make_generator, permute


class Numbers(BaseDataset):
    """The smallest data set there can be: sample k is the number k."""

    title = "numbers"

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return {"input": torch.tensor(index)}


def pixels(dataset: BaseDataset) -> set[bytes]:
    """All images of a data set, to compare it with others."""
    return {dataset[k]["input"].numpy().tobytes() for k in range(len(dataset))}


def whole(dataset: BaseDataset) -> Batch:
    """All samples in one batch, as they are."""
    return dataset.__getitems__(torch.arange(len(dataset)))


# Samples and splits


def test_samples_are_grey_images_and_their_classes(splits: dict[str, BaseDataset]) -> None:
    for dataset in splits.values():
        batch = whole(dataset)
        assert batch["input"].shape == (len(dataset), 1, 28, 28)
        assert batch["input"].dtype == torch.uint8
        assert batch["target"].dtype == torch.int64
        assert set(batch["target"].tolist()) == set(range(len(dataset.classes)))


def test_a_batch_holds_the_same_as_its_samples_one_by_one(splits: dict[str, BaseDataset]) -> None:
    dataset = splits["train"]
    batch = dataset.__getitems__(torch.tensor([5, 0, 7]))
    for place, index in enumerate((5, 0, 7)):
        sample = dataset[index]
        assert torch.equal(batch["input"][place], sample["input"])
        assert batch["target"][place] == sample["target"]


def test_no_image_is_in_two_splits(splits: dict[str, BaseDataset]) -> None:
    counts = [len(dataset) for dataset in splits.values()]
    assert len(set.union(*map(pixels, splits.values()))) == sum(counts) == 1303


def test_the_seed_chooses_the_validation_images(make_settings: Callable[..., Settings]) -> None:
    first, again, other = (
        build_dataset(make_settings(f"seed={seed}"), "validation") for seed in (1, 1, 2)
    )
    assert pixels(first) == pixels(again)
    assert pixels(first) != pixels(other)


def test_validation_images_have_the_shares_of_the_classes(splits: dict[str, BaseDataset]) -> None:
    counts = [whole(splits[name])["target"].bincount() for name in ("train", "validation")]
    wanted = 210 * sum(counts) / 1000
    assert (counts[1] - wanted).abs().max() <= 1


def test_inputs_are_normalised_by_what_the_training_images_say(
    make_settings: Callable[..., Settings],
) -> None:
    loaders = build_training_loaders(make_settings())
    train, validation = loaders["train"].dataset, loaders["validation"].dataset
    images = whole(train)
    inputs = train.transform(images, None)["input"]
    assert inputs.dtype == torch.float32
    assert inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    # The same image gives the same input in both, so nothing was learned from validation images.
    assert torch.equal(validation.transform(images, None)["input"], inputs)


def test_a_changed_sample_changes_the_fingerprint() -> None:
    assert Numbers(10).fingerprint == Numbers(10).fingerprint
    assert Numbers(10).fingerprint != Numbers(11).fingerprint


# Augmentation


def test_augmentation_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    class OneImage(Synthetic):
        def __getitems__(self, indices: Tensor) -> Batch:
            return super().__getitems__(torch.zeros_like(indices))

    dataset = OneImage(tmp_path, "train", seed=0)

    def inputs(seed: int, step: int) -> Tensor:
        ((batch,),) = BatchLoader(dataset, 50, seed).steps(step, step + 1)
        return batch["input"]

    assert torch.equal(inputs(1, 3), inputs(1, 3))
    assert not torch.equal(inputs(1, 3), inputs(1, 4))
    assert not torch.equal(inputs(1, 3), inputs(2, 3))


def test_validation_images_come_as_they_are(splits: dict[str, BaseDataset]) -> None:
    dataset = splits["validation"]
    ((batch,),) = BatchLoader(dataset, 50).steps(1, 2)
    plain = dataset.transform(dataset.__getitems__(torch.arange(50, 100)), None)
    assert torch.equal(batch["input"], plain["input"])
    assert torch.equal(batch["target"], plain["target"])


# Loaders


def order(loader: BatchLoader, epoch: int) -> list[int]:
    """The samples of an epoch as they come."""
    steps = loader.steps(epoch * loader.steps_per_epoch, (epoch + 1) * loader.steps_per_epoch)
    return [int(number) for batches in steps for batch in batches for number in batch["input"]]


def test_every_sample_comes_once_in_an_epoch() -> None:
    for batch_size, accumulate in ((1, 1), (7, 1), (7, 3), (100, 1), (300, 2)):
        loader = BatchLoader(Numbers(100), batch_size, seed=0, accumulate=accumulate)
        for epoch in (0, 1, 2):
            assert sorted(order(loader, epoch)) == list(range(100))


def test_a_step_has_full_batches_and_the_last_one_what_is_left() -> None:
    loader = BatchLoader(Numbers(100), 12, seed=0, accumulate=3)
    sizes = [[len(batch["input"]) for batch in batches] for batches in loader.steps(0, 3)]
    assert loader.steps_per_epoch == 3
    assert sizes == [[12, 12, 12], [12, 12, 12], [12, 12, 4]]


def test_the_order_changes_with_epoch_and_seed() -> None:
    first, second = (BatchLoader(Numbers(100), 10, seed=seed) for seed in (1, 2))
    assert order(first, 0) == order(first, 0)
    assert order(first, 0) != order(first, 1)
    assert order(first, 0) != order(second, 0)
    assert order(BatchLoader(Numbers(100), 10), 0) == list(range(100))


@pytest.mark.parametrize("count", [2, 3, 10, 1000, 4097])
def test_a_permutation_takes_each_number_to_one_of_its_own(count: int) -> None:
    first, second = (permute(torch.arange(count), count, make_generator(k)) for k in (1, 2))
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(count))
    assert permute(torch.tensor([1]), count, make_generator(1)) == first[1]
    if count >= 1000:  # without a trace of the order before, or of the other one
        for other in (torch.arange(count), first.roll(1), second):
            correlation = torch.corrcoef(torch.stack([first, other]).double())[0, 1]
            assert abs(correlation) < 4 / count**0.5


def test_every_order_of_few_samples_is_as_likely() -> None:
    orders = [tuple(permute(torch.arange(4), 4, make_generator(k)).tolist()) for k in range(2400)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 24
    assert sum((count - 100) ** 2 / 100 for count in counts) < 49.7  # one in a thousand by chance


def test_a_long_order_is_shuffled_in_blocks_of_bounded_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def steps(batch_size: int) -> list[int]:
        return order(BatchLoader(Numbers(1000), batch_size, seed=3), 1)

    monkeypatch.setattr(batch_loader, "BLOCK", 128)
    found = steps(7)
    assert sorted(found) == list(range(1000))
    assert found == steps(25)  # however the samples are grouped
    assert max(found[:128]) > 900  # from the whole, not from a part
    huge = BatchLoader(Numbers(10**12), 4, seed=3)
    assert all(0 <= k < 10**12 for k in next(huge.steps(10**9, 10**9 + 1))[0]["input"].tolist())


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000, 10**8, 10**12])
def test_what_stands_for_a_set_is_spread_over_it_however_large_it_is(count: int) -> None:
    probe_indices = Numbers(count).probe_indices.tolist()
    assert probe_indices[0] == 0
    assert probe_indices[-1] == count - 1
    assert len({*probe_indices}) == len(probe_indices) == min(count, 64)
    loader = BatchLoader(Numbers(count), 4)
    loader.check()
    picked = loader.sample_batch(9)["input"].tolist()  # never a list of all, which would not fit
    assert all(0 <= k < count for k in picked)
    assert len({*picked}) == len(picked) == min(count, 9)


def test_samples_that_are_no_dicts_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Numbers, "__getitem__", lambda _, index: (torch.tensor(index), 1))
    with pytest.raises(LoadingError, match="__getitem__ must give a dict of tensors") as caught:
        BatchLoader(Numbers(10), 4).check()
    assert caught.value.exit_code == 2


def test_workers_are_for_data_that_are_not_in_memory(
    make_settings: Callable[..., Settings], splits: dict[str, BaseDataset]
) -> None:
    cores = torch.get_num_threads()
    assert build_loader(make_settings(), splits["train"]).workers == 0
    assert build_loader(make_settings(), Numbers(10)).workers == cores
    assert build_loader(make_settings("data.workers=3"), splits["train"]).workers == 3
    assert build_loader(make_settings("data.workers=0"), Numbers(10)).workers == 0


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_batches_are_the_same_with_any_number_of_workers(splits: dict[str, BaseDataset]) -> None:
    def batches(workers: int) -> list[Tensor]:
        loader = BatchLoader(splits["train"], 30, seed=1, accumulate=2, workers=workers)
        return [batch["input"] for step in loader.steps(9, 17) for batch in step]

    alone, together = batches(0), batches(2)
    assert len(alone) == len(together) == 15  # with a short step at the end of an epoch
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


class Drawing(Numbers):
    """Adds to each sample what the three global generators give."""

    def __getitem__(self, index: int) -> Sample:
        return {"input": index + torch.rand(()) + random.random() + float(np.random.rand())}


class Signed(Numbers):
    """Says which process has made a sample."""

    def __getitem__(self, index: int) -> Sample:
        return {"input": torch.tensor(os.getpid())}


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_workers_that_evaluate_stay_for_the_next_time() -> None:
    loader = BatchLoader(Signed(40), 10, workers=2)
    processes = [{*order(loader, epoch=0)} for _ in range(3)]
    assert processes[0] == processes[1] == processes[2]
    assert len(processes[0]) == 2
    assert os.getpid() not in processes[0]


def test_one_step_alone_starts_no_workers() -> None:
    (batch,) = next(BatchLoader(Signed(40), 10, seed=0, workers=2).steps(3, 4))
    assert {*batch["input"].tolist()} == {os.getpid()}


def test_workers_that_inherit_nothing_evaluate() -> None:
    loader, usual = BatchLoader(Signed(40), 10, workers=1), multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        processes = [{*order(loader, epoch=0)} for _ in range(2)]
    finally:
        multiprocessing.set_start_method(usual, force=True)
    assert processes[0] == processes[1]
    assert os.getpid() not in processes[0]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("seed", [None, 1])
def test_what_a_data_set_draws_is_the_same_with_any_number_of_workers(seed: int | None) -> None:
    def batches(workers: int) -> list[float]:
        loader = BatchLoader(Drawing(20), 4, seed, workers=workers)
        return [x for (batch,) in loader.steps(1, 5) for x in batch["input"].tolist()]

    alone = batches(0)
    assert batches(1) == batches(2) == alone
    assert len({x % 1 for x in alone}) == len(alone)


# Image files


def test_image_files_are_fitted_on_black_in_their_proportions(
    tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    Image.new("L", (56, 28), 200).save(tmp_path / "wide.png")
    image = splits["test"].read_inputs(str(tmp_path / "wide.png"))[0][1]["input"]
    assert image.shape == (1, 28, 28)
    assert image.dtype == torch.uint8
    assert set(image[0, 7:21].flatten().tolist()) == {200}
    assert set(image[0, :7].flatten().tolist()) == set(image[0, 21:].flatten().tolist()) == {0}


def test_every_kind_of_image_file_gives_the_same_greys(
    tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    greys = np.arange(28 * 28).reshape(28, 28).astype(np.uint8)
    image = Image.fromarray(greys)
    image.save(tmp_path / "8_bits.png")
    image.convert("P").save(tmp_path / "palette.png")
    image.convert("RGB").save(tmp_path / "colour.png")
    image.convert("RGBA").save(tmp_path / "opaque.png")
    Image.fromarray(greys.astype(np.uint16) * 257).save(tmp_path / "16_bits.png")
    Image.fromarray(greys.astype(np.float32) / 255).save(tmp_path / "fractions.tif")
    for file in sorted(tmp_path.iterdir()):
        found = splits["test"].read_inputs(str(file))[0][1]["input"][0].numpy().astype(int)
        assert abs(found - greys).max() <= 1, file.name


def test_transparent_parts_of_an_image_are_black(
    tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    image = Image.new("RGBA", (28, 28), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (0, 0, 14, 28))
    image.save(tmp_path / "half.png")
    found = splits["test"].read_inputs(str(tmp_path / "half.png"))[0][1]["input"]
    assert found[:, :, :14].min() == 255
    assert found[:, :, 14:].max() == 0
