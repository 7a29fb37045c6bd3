"""Data sets, splits, augmentation, loaders and image files."""
# ruff: noqa: D103  the names of the tests state what they test

import copy
import multiprocessing
import os
import random
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from base import batch_loader
from base.base_dataset import BaseDataset, Batch, Sample
from base.batch_loader import BatchLoader, shuffled_steps
from builders import build_dataset, build_loader, build_training_loaders, fit_dataset
from config.schema import Settings
from data_loader.synthetic import Synthetic
from data_loader.transforms import normalize, pixel_statistics
from utils.errors import LoadingError, UserError
from utils.nested import digest
from utils.randomness import GlobalRandomState, make_generator, permute

FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


class Numbers(BaseDataset):
    """A minimal data set: sample k is the number k."""

    title = "numbers"

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Sample:
        return {"input": torch.tensor(index)}


def images_as_bytes(dataset: BaseDataset) -> set[bytes]:
    """All images of a data set, for comparisons between data sets."""
    return {dataset[index]["input"].numpy().tobytes() for index in range(len(dataset))}


def all_samples(dataset: BaseDataset) -> Batch:
    """All samples in one batch, not transformed."""
    return dataset.__getitems__(torch.arange(len(dataset)))


# Samples and splits


def test_samples_are_grey_images_with_class_indices(splits: dict[str, BaseDataset]) -> None:
    for dataset in splits.values():
        batch = all_samples(dataset)
        assert batch["input"].shape == (len(dataset), 1, 28, 28)
        assert batch["input"].dtype == torch.uint8
        assert batch["target"].dtype == torch.int64
        assert set(batch["target"].tolist()) == set(range(len(dataset.classes)))


def test_batch_equals_its_single_samples(splits: dict[str, BaseDataset]) -> None:
    dataset = splits["train"]
    indices = [5, 0, 7]
    batch = dataset.__getitems__(torch.tensor(indices))
    for position, index in enumerate(indices):
        sample = dataset[index]
        assert torch.equal(batch["input"][position], sample["input"])
        assert batch["target"][position] == sample["target"]


def test_splits_have_no_image_in_common(splits: dict[str, BaseDataset]) -> None:
    distinct_images: set[bytes] = set()
    for dataset in splits.values():
        distinct_images |= images_as_bytes(dataset)
    total = sum(len(dataset) for dataset in splits.values())
    assert len(distinct_images) == total == 1303


def test_seed_selects_the_validation_images(make_settings: Callable[..., Settings]) -> None:
    first = build_dataset(make_settings("seed=1"), "validation")
    again = build_dataset(make_settings("seed=1"), "validation")
    other = build_dataset(make_settings("seed=2"), "validation")
    assert images_as_bytes(first) == images_as_bytes(again)
    assert images_as_bytes(first) != images_as_bytes(other)


def test_validation_split_is_stratified(splits: dict[str, BaseDataset]) -> None:
    train_counts = all_samples(splits["train"])["target"].bincount()
    validation_counts = all_samples(splits["validation"])["target"].bincount()
    expected = 210 * (train_counts + validation_counts) / 1000
    assert (validation_counts - expected).abs().max() <= 1


def test_statistics_are_fitted_on_the_training_images_only(
    make_settings: Callable[..., Settings],
) -> None:
    loaders = build_training_loaders(make_settings())
    train = loaders["train"].dataset
    validation = loaders["validation"].dataset
    images = all_samples(train)
    inputs = train.transform(images, None)["input"]
    assert inputs.dtype == torch.float32
    assert inputs.mean().item() == pytest.approx(0, abs=1e-5)
    assert inputs.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    # The same image gives the same input in both data sets.
    assert torch.equal(validation.transform(images, None)["input"], inputs)


def test_images_of_one_value_are_normalised_to_zero() -> None:
    images = torch.full((2, 4, 4), 51, dtype=torch.uint8)
    mean, std = pixel_statistics(images)
    assert mean == pytest.approx(0.2)
    assert std == 1
    assert normalize(images, mean, std).abs().max() < 1e-6


# The fingerprint


class Tensors(BaseDataset):
    """Samples from a list of tensors, which may differ in shape."""

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int) -> Sample:
        return {"input": self.tensors[index]}


def test_fingerprint_depends_on_the_number_of_samples() -> None:
    assert Numbers(10).fingerprint == Numbers(10).fingerprint
    assert Numbers(10).fingerprint != Numbers(11).fingerprint


def test_fingerprint_supports_bfloat16_and_different_shapes() -> None:
    tensors = [
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(2, 5, dtype=torch.bfloat16),
        torch.tensor(1.0),
        torch.zeros(0),
        torch.ones(4, 2).T,  # not contiguous
    ]
    original = Tensors(tensors).fingerprint
    assert original == Tensors([tensor.clone() for tensor in tensors]).fingerprint
    changed = [tensor.clone() for tensor in tensors]
    changed[1][1, 4] = 2
    assert original != Tensors(changed).fingerprint


class Noisy(Numbers):
    """Adds to each sample one number from each of the three global generators."""

    def __getitem__(self, index: int) -> Sample:
        noise = random.random() + float(np.random.rand())
        return {"input": index + torch.rand(()) + noise}


def test_fingerprint_is_reproducible_and_keeps_the_global_rng_state() -> None:
    generators = GlobalRandomState(torch.device("cpu"))
    before = generators.state_dict()
    first = Noisy(10).fingerprint
    after = generators.state_dict()
    assert after["python"] == before["python"]
    assert after["numpy"] == before["numpy"]
    assert torch.equal(after["cpu"], before["cpu"])
    random.random()
    torch.rand(1)
    assert Noisy(10).fingerprint == first


# Augmentation


class RepeatedImage(Synthetic):
    """Synthetic data whose samples are all the first image."""

    def __getitems__(self, indices: Tensor) -> Batch:
        return super().__getitems__(torch.zeros_like(indices))


def test_augmentation_depends_on_seed_and_step_only(tmp_path: Path) -> None:
    dataset = fit_dataset(RepeatedImage(tmp_path, "train", seed=0))

    def inputs(seed: int, step: int) -> Tensor:
        loader = BatchLoader(dataset, 50, seed)
        (batch,) = next(loader.steps(step, step + 1)).batches
        return batch["input"]

    assert torch.equal(inputs(1, 3), inputs(1, 3))
    assert not torch.equal(inputs(1, 3), inputs(1, 4))
    assert not torch.equal(inputs(1, 3), inputs(2, 3))


def test_validation_images_are_not_augmented(splits: dict[str, BaseDataset]) -> None:
    dataset = splits["validation"]
    (batch,) = next(BatchLoader(dataset, 50).steps(1, 2)).batches
    samples = dataset.__getitems__(torch.arange(50, 100))
    expected = dataset.transform(samples, None)
    assert torch.equal(batch["input"], expected["input"])
    assert torch.equal(batch["target"], expected["target"])


# Steps and their order


def loaded_values(loader: BatchLoader, first: int, last: int) -> list[float]:
    """The inputs of `Numbers` in the steps from `first` up to `last`, as they are loaded."""
    values: list[float] = []
    for step in loader.steps(first, last):
        for batch in step.batches:
            values += batch["input"].tolist()
    return values


def epoch_values(loader: BatchLoader, epoch: int) -> list[float]:
    """The inputs of an epoch of `Numbers`, as they are loaded."""
    first = epoch * loader.steps_per_epoch
    return loaded_values(loader, first, first + loader.steps_per_epoch)


@pytest.mark.parametrize(("batch_size", "accumulate"), [(1, 1), (7, 1), (7, 3), (100, 1), (300, 2)])
def test_epoch_contains_each_sample_once(batch_size: int, accumulate: int) -> None:
    loader = BatchLoader(Numbers(100), batch_size, seed=0, accumulate=accumulate)
    for epoch in (0, 1, 2):
        assert sorted(epoch_values(loader, epoch)) == list(range(100))


def test_last_step_of_an_epoch_has_the_remaining_samples() -> None:
    loader = BatchLoader(Numbers(100), 12, seed=0, accumulate=3)
    steps = list(loader.steps(0, 3))
    assert loader.step_size == 36
    assert loader.steps_per_epoch == 3
    expected_sizes = [[12, 12, 12], [12, 12, 12], [12, 12, 4]]
    for step, sizes in zip(steps, expected_sizes, strict=True):
        assert step.sample_counts == sizes
        assert [len(batch["input"]) for batch in step.batches] == sizes


def test_loss_weights_give_the_mean_over_all_samples_of_a_step() -> None:
    loader = BatchLoader(Numbers(100), 12, seed=0, accumulate=3)
    *_, last_step = loader.steps(0, 3)
    assert last_step.loss_weights == pytest.approx([12 / 28, 12 / 28, 4 / 28])
    (single_batch,) = BatchLoader(Numbers(10), 10, seed=0).steps(0, 1)
    assert single_batch.loss_weights == [1]


def test_loss_weights_of_several_processes_average_to_the_mean_over_all_samples() -> None:
    for world_size in (2, 3):
        sums = []
        samples = 0
        for rank in range(world_size):
            loader = BatchLoader(
                Numbers(10), 6, seed=0, accumulate=2, rank=rank, world_size=world_size
            )
            (step,) = loader.steps(0, 1)
            samples += sum(step.sample_counts)
            for batch, weight in zip(step.batches, step.loss_weights, strict=True):
                if len(batch["input"]):
                    sums.append(weight * batch["input"].double().mean().item())
        assert samples == 10
        assert sum(sums) / world_size == pytest.approx(4.5)


def test_order_depends_on_epoch_and_seed() -> None:
    first = BatchLoader(Numbers(100), 10, seed=1)
    second = BatchLoader(Numbers(100), 10, seed=2)
    assert epoch_values(first, 0) == epoch_values(first, 0)
    assert epoch_values(first, 0) != epoch_values(first, 1)
    assert epoch_values(first, 0) != epoch_values(second, 0)
    without_seed = BatchLoader(Numbers(100), 10)
    assert epoch_values(without_seed, 0) == list(range(100))


@pytest.mark.parametrize("count", [2, 3, 10, 1000, 4097])
def test_permute_returns_a_random_permutation(count: int) -> None:
    positions = torch.arange(count)
    first = permute(positions, count, make_generator(1))
    second = permute(positions, count, make_generator(2))
    assert sorted(first.tolist()) == list(range(count))
    assert sorted(second.tolist()) == list(range(count))
    assert permute(torch.tensor([1]), count, make_generator(1)) == first[1]
    if count < 1000:
        return
    for other in (positions, first.roll(1), second):
        pair = torch.stack([first, other]).double()
        correlation = torch.corrcoef(pair)[0, 1]
        assert abs(correlation) < 4 / count**0.5


def test_permute_gives_all_orders_of_few_samples_equally_often() -> None:
    counts: dict[tuple[int, ...], int] = {}
    for seed in range(2400):
        order = tuple(permute(torch.arange(4), 4, make_generator(seed)).tolist())
        counts[order] = counts.get(order, 0) + 1
    assert len(counts) == 24
    chi_squared = sum((count - 100) ** 2 / 100 for count in counts.values())
    assert chi_squared < 49.7  # exceeded by chance once in a thousand


def test_order_is_computed_in_blocks_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_loader, "ORDER_BLOCK_SAMPLES", 128)
    shuffled_steps.cache_clear()
    order = epoch_values(BatchLoader(Numbers(1000), 7, seed=3), 1)
    same_order = epoch_values(BatchLoader(Numbers(1000), 25, seed=3), 1)
    assert sorted(order) == list(range(1000))
    assert order == same_order  # for any batch size
    assert max(order[:128]) > 900  # a block has samples from everywhere
    huge = BatchLoader(Numbers(10**12), 4, seed=3)
    values = loaded_values(huge, 10**9, 10**9 + 1)
    assert len(values) == 4
    assert all(0 <= value < 10**12 for value in values)


@pytest.mark.parametrize("count", [1, 2, 63, 64, 65, 1000, 10**8, 10**12])
def test_probe_indices_are_spread_over_data_of_any_size(count: int) -> None:
    indices = Numbers(count).probe_indices.tolist()
    assert indices[0] == 0
    assert indices[-1] == count - 1
    assert len(set(indices)) == len(indices) == min(count, 64)


@pytest.mark.parametrize("count", [1, 2, 10, 1000, 10**12])
def test_sample_batch_has_distinct_samples_of_data_of_any_size(count: int) -> None:
    loader = BatchLoader(Numbers(count), 4)
    loader.check()
    values = loader.sample_batch(9)["input"].tolist()
    assert values == loader.sample_batch(9)["input"].tolist()
    assert all(0 <= value < count for value in values)
    assert len(set(values)) == len(values) == min(count, 9)


# Checks before training


class Nothing(Numbers):
    """Returns nothing, as a method without `return` does."""

    def __getitem__(self, index: int) -> Any:
        return None


class NumberAsTarget(Numbers):
    """Has a number where a tensor is expected."""

    def __getitem__(self, index: int) -> Any:
        return {"input": torch.tensor(index), "target": 1.5}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Nothing, r"Nothing\.__getitem__ .*no tensors .*NoneType"),
        (NumberAsTarget, r"'target' of a sample is 1\.5 .*as_tensor"),
    ],
)
def test_samples_without_tensors_are_rejected(kind: type[Numbers], text: str) -> None:
    with pytest.raises(UserError, match=text):
        BatchLoader(kind(10), 4).check()


def test_empty_data_is_rejected() -> None:
    with pytest.raises(UserError, match=r"numbers: .*no samples") as caught:
        BatchLoader(Numbers(0), 4).check()
    assert caught.value.exit_code == 2


class Unreadable(Numbers):
    """Numbers of which one cannot be read."""

    unreadable_index = 0

    def __getitem__(self, index: int) -> Sample:
        if index == self.unreadable_index:
            raise OSError("bad sector")
        return super().__getitem__(index)


@pytest.mark.parametrize("index", [0, 99])
def test_check_reads_the_first_and_the_last_sample(index: int) -> None:
    dataset = Unreadable(100)
    dataset.unreadable_index = index
    message = f"numbers: sample {index}: OSError: bad sector"
    with pytest.raises(LoadingError, match=message) as caught:
        BatchLoader(dataset, 4).check()
    assert caught.value.exit_code == 1


def test_check_reads_no_other_sample() -> None:
    dataset = Unreadable(100)
    dataset.unreadable_index = 50
    BatchLoader(dataset, 4).check()


# Workers


def cores_of_this_process() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def test_default_workers_depend_on_in_memory_and_cores(
    make_settings: Callable[..., Settings], splits: dict[str, BaseDataset]
) -> None:
    def workers(dataset: BaseDataset, *changes: str) -> int:
        return build_loader(make_settings(*changes), dataset).workers

    assert workers(splits["train"]) == 0
    assert workers(Numbers(10)) == cores_of_this_process()
    assert workers(splits["train"], "data.workers=3") == 3
    assert workers(Numbers(10), "data.workers=0") == 0


def test_processes_on_one_machine_divide_the_cores(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(9), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert build_loader(make_settings(), Numbers(10)).workers == 4
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "20")
    assert build_loader(make_settings(), Numbers(10)).workers == 1


@FORKS
def test_batches_do_not_depend_on_the_number_of_workers(splits: dict[str, BaseDataset]) -> None:
    def inputs(workers: int) -> list[Tensor]:
        loader = BatchLoader(splits["train"], 30, seed=1, accumulate=2, workers=workers)
        found = []
        for step in loader.steps(9, 17):
            found += [batch["input"] for batch in step.batches]
        return found

    without_workers = inputs(0)
    with_workers = inputs(2)
    assert len(without_workers) == len(with_workers) == 15  # the last step of an epoch is short
    for expected, found in zip(without_workers, with_workers, strict=True):
        assert torch.equal(expected, found)


class ProcessIds(Numbers):
    """Each sample is the process that loaded it."""

    def __getitem__(self, index: int) -> Sample:
        return {"input": torch.tensor(os.getpid())}


@FORKS
def test_evaluation_keeps_its_workers() -> None:
    loader = BatchLoader(ProcessIds(40), 10, workers=2)
    processes = [set(epoch_values(loader, epoch=0)) for _ in range(3)]
    assert processes[0] == processes[1] == processes[2]
    assert len(processes[0]) == 2
    assert os.getpid() not in processes[0]


def test_single_step_starts_no_workers() -> None:
    loader = BatchLoader(ProcessIds(40), 10, seed=0, workers=2)
    assert set(loaded_values(loader, 3, 4)) == {os.getpid()}


def test_evaluation_keeps_its_workers_with_spawn() -> None:
    loader = BatchLoader(ProcessIds(40), 10, workers=1)
    previous_method = multiprocessing.get_start_method()
    multiprocessing.set_start_method("spawn", force=True)
    try:
        processes = [set(epoch_values(loader, epoch=0)) for _ in range(2)]
    finally:
        multiprocessing.set_start_method(previous_method, force=True)
    assert processes[0] == processes[1]
    assert os.getpid() not in processes[0]


@FORKS
@pytest.mark.parametrize("seed", [None, 1])
def test_global_random_numbers_do_not_depend_on_the_number_of_workers(seed: int | None) -> None:
    def values(workers: int) -> list[float]:
        return loaded_values(BatchLoader(Noisy(20), 4, seed, workers=workers), 1, 5)

    without_workers = values(0)
    assert values(1) == without_workers
    assert values(2) == without_workers
    noise = {value % 1 for value in without_workers}
    assert len(noise) == len(without_workers)


@contextmanager
def sigchld_handler(handler: Any) -> Iterator[None]:
    """Within this context, `handler` handles SIGCHLD."""
    previous = signal.signal(signal.SIGCHLD, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGCHLD, previous)


def handle_sigchld(*_: object) -> None:
    """A handler of the user's program."""


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="Windows has no SIGCHLD")
@FORKS
@pytest.mark.parametrize("handler", [signal.SIG_DFL, handle_sigchld], ids=["default", "custom"])
def test_loading_with_workers_restores_the_sigchld_handler(handler: Any) -> None:
    training = BatchLoader(Numbers(40), 10, seed=0, workers=1)
    evaluation = BatchLoader(Numbers(40), 10, workers=1)
    with sigchld_handler(handler):
        for loader in (training, evaluation):
            assert len(epoch_values(loader, 0)) == 40
            assert signal.getsignal(signal.SIGCHLD) == handler
        steps: Any = training.steps(0, 4)
        next(steps)
        steps.close()  # training that stops early
        assert signal.getsignal(signal.SIGCHLD) == handler


@pytest.mark.skipif(not hasattr(signal, "SIGCHLD"), reason="Windows has no SIGCHLD")
def test_loading_without_workers_does_not_change_the_sigchld_handler() -> None:
    loader = BatchLoader(Numbers(40), 10, seed=0)
    with sigchld_handler(handle_sigchld):
        for _ in loader.steps(0, 4):
            assert signal.getsignal(signal.SIGCHLD) == handle_sigchld


@FORKS
@pytest.mark.parametrize("workers", [0, 1])
def test_threads_can_load_steps(workers: int) -> None:
    loader = BatchLoader(Numbers(40), 10, workers=workers)
    with ThreadPoolExecutor() as pool:
        values = pool.submit(epoch_values, loader, 0).result()
    assert values == list(range(40))


# Image files


def test_image_files_keep_their_aspect_ratio_on_a_black_background(
    tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    Image.new("L", (56, 28), 200).save(tmp_path / "wide.png")
    image = read_image(splits["test"], tmp_path / "wide.png")
    assert image.shape == (1, 28, 28)
    assert image.dtype == torch.uint8
    assert set(image[0, 7:21].flatten().tolist()) == {200}
    assert set(image[0, :7].flatten().tolist()) == {0}
    assert set(image[0, 21:].flatten().tolist()) == {0}


def read_image(dataset: BaseDataset, file: Path) -> Tensor:
    """The only input in a file, uint8, shape (1, 28, 28)."""
    ((_, sample),) = dataset.read_inputs(str(file))
    return sample["input"]


def test_all_image_formats_give_the_same_grey_values(
    tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    greys = np.arange(28 * 28).reshape(28, 28).astype(np.uint8)
    image = Image.fromarray(greys)
    image.save(tmp_path / "8_bits.png")
    image.convert("P").save(tmp_path / "palette.png")
    image.convert("RGB").save(tmp_path / "colour.png")
    image.convert("RGBA").save(tmp_path / "opaque.png")
    Image.fromarray(greys.astype(np.uint16) * 257).save(tmp_path / "16_bits.png")
    Image.fromarray(greys.astype(np.float32) / 255).save(tmp_path / "float32.tif")
    for file in sorted(tmp_path.iterdir()):
        found = read_image(splits["test"], file)[0].numpy().astype(int)
        assert abs(found - greys).max() <= 1, file.name


def test_transparent_pixels_are_black(tmp_path: Path, splits: dict[str, BaseDataset]) -> None:
    image = Image.new("RGBA", (28, 28), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (0, 0, 14, 28))
    image.save(tmp_path / "half.png")
    found = read_image(splits["test"], tmp_path / "half.png")
    assert found[:, :, :14].min() == 255
    assert found[:, :, 14:].max() == 0


def test_random_numbers_of_fit_do_not_change_the_first_weights(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    fit = Synthetic.fit

    def fit_on_random_samples(self: Synthetic) -> None:
        torch.randperm(len(self))
        random.random()
        np.random.rand()
        fit(self)

    monkeypatch.setattr(Synthetic, "fit", fit_on_random_samples)
    before = digest(GlobalRandomState(torch.device("cpu")).state_dict())
    build_training_loaders(make_settings())
    assert digest(GlobalRandomState(torch.device("cpu")).state_dict()) == before


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_inputs_with_one_or_three_channels_are_drawn(
    splits: dict[str, BaseDataset], channels: int
) -> None:
    images = torch.rand(5, channels, 28, 28)
    figure = splits["train"].draw({"input": images, "mask": torch.rand(5, 1, 28, 28)}, "inputs")
    assert (figure is not None) == (channels in (1, 3))


def test_a_digest_does_not_depend_on_the_memory_layout() -> None:
    columns = torch.arange(6.0).reshape(3, 2)
    assert columns.T[1, :1].stride() == (2,)
    assert digest(columns.T[1, :1]) == digest(torch.tensor([1.0]))
    assert digest(columns.T) == digest(columns.T.contiguous())
    assert digest(columns.T) != digest(columns.reshape(2, 3))


@pytest.mark.parametrize(("first", "second"), [(b"a", b"b"), (1j, 2j), ({"a", "b"}, {"a", "c"})])
def test_a_digest_tells_other_values_apart(first: Any, second: Any) -> None:
    assert digest([first]) == digest([copy.copy(first)])
    assert digest([first]) != digest([second])
