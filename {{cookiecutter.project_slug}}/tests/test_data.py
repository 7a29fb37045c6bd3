"""Data sets, splits, augmentation, loaders, and how the files of FashionMNIST are found."""
# ruff: noqa: D103  the names of the tests say what they test

import gzip
import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from base.base_dataset import BaseDataset, Batch, Sample
from base.batch_loader import BatchLoader
from config.schema import Settings
from data_loader import build_dataset, build_training_loaders, fashion_mnist
from data_loader.fashion_mnist import FILES, FashionMNIST
from data_loader.synthetic import Synthetic
from utils.errors import DATA_UNAVAILABLE, UserError
from utils.seed import generator


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
    assert Numbers(10).fingerprint() == Numbers(10).fingerprint()
    assert Numbers(10).fingerprint() != Numbers(11).fingerprint()


# Augmentation


def crops(image: Tensor, shift: int) -> list[Tensor]:
    """Every crop of a padded image, shape (1, H, W), made in the plainest way."""
    _, height, width = image.shape
    padded = torch.zeros(1, height + 2 * shift, width + 2 * shift, dtype=image.dtype)
    padded[:, shift : shift + height, shift : shift + width] = image
    places = range(2 * shift + 1)
    return [padded[:, y : y + height, x : x + width] for y in places for x in places]


@pytest.fixture
def clothes(tmp_path: Path, splits: dict[str, BaseDataset]) -> Callable[..., FashionMNIST]:
    """``clothes(shift=1, flip=True)``: FashionMNIST without images, to transform others."""

    def make(shift: int, flip: bool) -> FashionMNIST:
        dataset = FashionMNIST(tmp_path, None, seed=0, shift=shift, flip=flip)
        dataset.load_state_dict(splits["train"].state_dict())
        return dataset

    return make


def test_augmented_images_are_all_the_shifted_and_mirrored_ones(
    clothes: Callable[..., FashionMNIST],
) -> None:
    image = torch.randint(256, (1, 6, 5), dtype=torch.uint8)
    straight, mirrored = crops(image, 1), [crop.flip(2) for crop in crops(image, 1)]
    for flip, wanted in ((True, straight + mirrored), (False, straight)):
        dataset = clothes(shift=1, flip=flip)
        found = dataset.transform({"input": image.expand(500, 1, 6, 5)}, generator(0))["input"]
        plain = dataset.transform({"input": torch.stack(wanted)}, None)["input"]
        assert {f.numpy().tobytes() for f in found} == {p.numpy().tobytes() for p in plain}


def test_augmentation_depends_on_seed_and_step_alone(tmp_path: Path) -> None:
    class OneImage(Synthetic):
        def __getitems__(self, indices: Tensor) -> Batch:
            return super().__getitems__(torch.zeros_like(indices))

    dataset = OneImage(tmp_path, "train", seed=0)

    def inputs(seed: int, step: int) -> Tensor:
        (batch,) = BatchLoader(dataset, 50, seed)[step]
        return batch["input"]

    assert torch.equal(inputs(1, 3), inputs(1, 3))
    assert not torch.equal(inputs(1, 3), inputs(1, 4))
    assert not torch.equal(inputs(1, 3), inputs(2, 3))


def test_validation_images_come_as_they_are(splits: dict[str, BaseDataset]) -> None:
    dataset = splits["validation"]
    (batch,) = BatchLoader(dataset, 50)[1]
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


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_batches_are_the_same_with_any_number_of_workers(splits: dict[str, BaseDataset]) -> None:
    def batches(workers: int) -> list[Tensor]:
        loader = BatchLoader(splits["train"], 30, seed=1, accumulate=2, workers=workers)
        return [batch["input"] for step in loader.steps(9, 17) for batch in step]

    alone, together = batches(0), batches(2)
    assert len(alone) == len(together) == 15  # with a short step at the end of an epoch
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


# Image files


def test_image_files_are_fitted_on_black_in_their_proportions(
    tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    Image.new("L", (56, 28), 200).save(tmp_path / "wide.png")
    image = splits["test"].read_input(tmp_path / "wide.png")["input"]
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
        found = splits["test"].read_input(file)["input"][0].numpy().astype(int)
        assert abs(found - greys).max() <= 1, file.name


def test_transparent_parts_of_an_image_are_black(
    tmp_path: Path, splits: dict[str, BaseDataset]
) -> None:
    image = Image.new("RGBA", (28, 28), (255, 255, 255, 0))
    image.paste((255, 255, 255, 255), (0, 0, 14, 28))
    image.save(tmp_path / "half.png")
    found = splits["test"].read_input(tmp_path / "half.png")["input"]
    assert found[:, :, :14].min() == 255
    assert found[:, :, 14:].max() == 0


# FashionMNIST: files of the right names and sizes, so nothing has to be downloaded. Image k is
# black but for its first pixel, k % 251, and is of class k % 10.


NOWHERE = ("http://127.0.0.1:9/",)  # nothing listens there


def idx(shape: tuple[int, ...]) -> bytes:
    """The content of an IDX file."""
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    values = np.zeros((shape[0], int(np.prod(shape[1:]))), dtype=np.uint8)
    values[:, 0] = np.arange(shape[0]) % (10 if len(shape) == 1 else 251)
    return header + values.tobytes()


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """The four unpacked files by the names of the packed ones."""
    return {name: idx(shape) for name, (_, shape) in FILES.items()}


@pytest.fixture(scope="module")
def packed(contents: dict[str, bytes]) -> Iterator[dict[str, bytes]]:
    """The four packed files, which are taken for the right ones as long as this is used."""
    found = {name: gzip.compress(content, 1) for name, content in contents.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name, content in found.items():
            patch.setitem(FILES, name, (hashlib.md5(content).hexdigest(), FILES[name][1]))
        yield found


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address at which the files below ``tmp_path/served`` can be had."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()


def put(folder: Path, files: dict[str, bytes], unpacked: bool = False) -> None:
    """Writes files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / (name.removesuffix(".gz") if unpacked else name)).write_bytes(content)


def left_in(folder: Path) -> list[str]:
    """The names of all files and folders below a folder, those of damaged downloads too."""
    return sorted(path.name for path in folder.rglob("*"))


def test_fashion_mnist_is_read_and_split(tmp_path: Path, packed: dict[str, bytes]) -> None:
    put(tmp_path, packed)
    train = FashionMNIST(tmp_path, "train", seed=0)
    validation = FashionMNIST(tmp_path, "validation", seed=0)
    assert (len(train), len(validation)) == (55_000, 5_000)
    samples = [whole(train), whole(validation)]
    assert [s["target"].bincount().tolist() for s in samples] == [[5_500] * 10, [500] * 10]
    # The first pixels and classes tell, with the fewest doubts, which image of the file it is.
    pairs = [torch.stack([s["input"][:, 0, 0, 0].long(), s["target"]], 1) for s in samples]
    found = Counter(map(tuple, torch.cat(pairs).tolist()))
    assert found == Counter((k % 251, k % 10) for k in range(60_000))


def test_fashion_mnist_is_found_in_each_usual_folder(
    tmp_path: Path, contents: dict[str, bytes]
) -> None:
    test_files = {name: content for name, content in contents.items() if "t10k" in name}
    for folder in ("", "raw", "FashionMNIST/raw"):
        root = tmp_path / f"root of {folder.replace('/', ' ')}"
        put(root / folder, test_files, unpacked=True)
        test = FashionMNIST(root, "test", seed=0, mirrors=NOWHERE)
        assert test[257]["input"].shape == (1, 28, 28)
        assert test[257]["input"][0, 0, 0] == 257 % 251
        assert test[257]["target"] == 7


def test_a_whole_file_is_used_where_another_one_is_damaged(
    tmp_path: Path, contents: dict[str, bytes], packed: dict[str, bytes]
) -> None:
    put(tmp_path, {name: content[:-10] for name, content in packed.items()})
    put(tmp_path, contents, unpacked=True)
    assert len(FashionMNIST(tmp_path, "test", seed=0, mirrors=NOWHERE)) == 10_000


def test_damaged_files_are_named_and_not_used(
    tmp_path: Path, contents: dict[str, bytes], packed: dict[str, bytes]
) -> None:
    name = "t10k-images-idx3-ubyte.gz"
    good, zipped = contents[name], packed[name]
    damaged = {
        "magic": (good[:3] + b"\x01" + good[4:], name.removesuffix(".gz")),
        "truncated": (good[:-1], name.removesuffix(".gz")),
        "too long": (good + b"\x00", name.removesuffix(".gz")),
        "packed": (zipped[:100] + bytes([zipped[100] ^ 1]) + zipped[101:], name),
    }
    for case, (content, file) in damaged.items():
        root = tmp_path / case
        put(root, contents, unpacked=True)
        (root / name.removesuffix(".gz")).unlink()
        (root / file).write_bytes(content)
        with pytest.raises(UserError) as error:
            FashionMNIST(root, "test", seed=0, mirrors=NOWHERE)
        assert error.value.exit_code == DATA_UNAVAILABLE == 69
        assert f"{root / file}: damaged" in str(error.value)


def test_without_files_and_network_the_error_says_what_to_do(tmp_path: Path, server: str) -> None:
    root, mirrors = tmp_path / "data", (f"{server}one/", f"{server}two/")
    with pytest.raises(UserError) as error:
        FashionMNIST(root, "train", seed=0, mirrors=mirrors)
    assert error.value.exit_code == DATA_UNAVAILABLE
    for tried in (*mirrors, *FILES, root / "raw", root / "FashionMNIST/raw"):
        assert str(tried) in str(error.value)
    assert "python train.py --config config/synthetic.yaml" in str(error.value)
    assert left_in(root) == ["FashionMNIST", "raw"]


def test_a_damaged_download_is_thrown_away_and_the_next_mirror_tried(
    tmp_path: Path, server: str, packed: dict[str, bytes]
) -> None:
    put(tmp_path / "served/bad", {name: content[:-10] for name, content in packed.items()})
    put(tmp_path / "served/good", packed)
    only_bad = tmp_path / "only bad"
    with pytest.raises(UserError, match="bad/train-images"):
        FashionMNIST(only_bad, "test", seed=0, mirrors=(f"{server}bad/",))
    assert left_in(only_bad) == ["FashionMNIST", "raw"]

    both = tmp_path / "both"
    mirrors = (f"{server}bad/", f"{server}good/")
    assert len(FashionMNIST(both, "test", seed=0, mirrors=mirrors)) == 10_000
    assert left_in(both) == sorted(["FashionMNIST", "raw", *packed])
    for name, content in packed.items():
        assert (both / "FashionMNIST/raw" / name).read_bytes() == content


def test_data_that_cannot_be_had_ends_a_command_with_69(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    config = Path(fashion_mnist.__file__).parent.parent / "config/fashion_mnist.yaml"
    run = tmp_path / "run"
    root = f"data.root={tmp_path / 'nothing here'}"
    code = command(
        "train", "--config", config, "--run-dir", run, root, f"data.mirrors=[{NOWHERE[0]}]"
    )
    assert code == 69
    assert "Offline: python train.py" in capsys.readouterr().err
    assert not run.exists()
