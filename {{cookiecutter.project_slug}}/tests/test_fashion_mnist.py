"""FashionMNIST: finding, checking and downloading its files, and augmentation."""
# ruff: noqa: D103  the names of the tests say what they test

import contextlib
import gc
import gzip
import hashlib
import shutil
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from exported import prepare_image
from PIL import Image
from torch import Tensor
from torchvision import datasets

from base.base_dataset import BaseDataset
from builders import fit_dataset
from config.loading import changes_that_need_force, load_settings
from data_loader.fashion_mnist import FashionMNIST
from data_loader.fashion_mnist_files import FILES, Content
from utils.errors import DATA_UNAVAILABLE, UserError
from utils.randomness import make_generator

# These files have the names and sizes of FashionMNIST's, so that nothing is downloaded. Image k is
# of class k % 10. Its first pixel is k % 251, and its other pixels are black.

pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket")
CONFIG = ROOT / "config/fashion_mnist.yaml"
NOWHERE = ("http://127.0.0.1:9/",)  # nothing listens there


def idx(shape: tuple[int, ...]) -> bytes:
    """The content of an IDX file."""
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, dtype=">u4").tobytes()
    values = np.zeros((shape[0], int(np.prod(shape[1:]))), dtype=np.uint8)
    is_label = len(shape) == 1
    values[:, 0] = np.arange(shape[0]) % (10 if is_label else 251)
    return header + values.tobytes()


@pytest.fixture(scope="module")
def contents() -> dict[str, bytes]:
    """The contents of the four files, by the names of their archives."""
    return {name: idx(shape) for name, (_, shape) in FILES.items()}


@pytest.fixture(scope="module")
def packed(contents: dict[str, bytes]) -> Iterator[dict[str, bytes]]:
    """The four archives, whose MD5 is taken for the right one while this fixture is active."""
    archives = {name: gzip.compress(content, 1) for name, content in contents.items()}
    with pytest.MonkeyPatch.context() as patch:
        for name, archive in archives.items():
            hashes = (hashlib.md5(archive).hexdigest(), hashlib.md5(contents[name]).hexdigest())
            patch.setitem(FILES, name, Content(hashes, FILES[name].shape))
        resources = [(name, content.md5[0]) for name, content in FILES.items()]
        patch.setattr(datasets.FashionMNIST, "resources", resources)
        yield archives


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a server of the files below ``tmp_path/served``."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Logs nothing."""

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # of a client that only checks the URL
                super().do_GET()

    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
    gc.collect()  # torchvision's errors keep connections open; Python warns when it deletes them


def put(folder: Path, files: dict[str, bytes], unpacked: bool = False) -> None:
    """Writes files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        file = folder / name
        if unpacked:
            file = folder / name.removesuffix(".gz")
        file.write_bytes(content)


def left_in(folder: Path) -> list[str]:
    """The names of all files and folders below a folder, including damaged downloads."""
    return sorted(path.name for path in folder.rglob("*"))


def test_fashion_mnist_is_read_and_split(tmp_path: Path, packed: dict[str, bytes]) -> None:
    put(tmp_path, packed)
    train = FashionMNIST(tmp_path, "train", seed=0)
    fit_dataset(train)
    validation = FashionMNIST(tmp_path, "validation", seed=0)
    assert len(train) == 55_000
    assert len(validation) == 5_000
    found: Counter[tuple[int, int]] = Counter()  # first pixel and class nearly identify an image
    for part in (train, validation):
        batch = part.__getitems__(torch.arange(len(part)))
        assert batch["target"].bincount().tolist() == [len(part) // 10] * 10
        assert torch.equal(part.targets, batch["target"])  # as samplers and class weights use it
        first_pixels = batch["input"][:, 0, 0, 0].tolist()
        found.update(zip(first_pixels, batch["target"].tolist(), strict=True))
    assert found == Counter((k % 251, k % 10) for k in range(60_000))


def test_unpacked_files_of_other_data_are_refused(
    tmp_path: Path, contents: dict[str, bytes], packed: dict[str, bytes]
) -> None:
    digits = {name: content[:-1] + b"\x07" for name, content in contents.items()}
    put(tmp_path, digits, unpacked=True)
    with pytest.raises(UserError, match="MD5"):
        FashionMNIST(tmp_path, "test", seed=0, mirrors=NOWHERE)


def test_pixels_and_targets_can_be_as_in_the_tutorial_of_pytorch(
    tmp_path: Path, packed: dict[str, bytes]
) -> None:
    put(tmp_path, packed)
    train = fit_dataset(
        FashionMNIST(tmp_path, "train", seed=0, shift=0, normalize=False, one_hot=True)
    )
    raw = train.__getitems__(torch.arange(300))
    batch = train.transform(raw, None)
    assert torch.allclose(batch["input"], raw["input"] / 255)  # as torchvision's ToTensor
    assert batch["target"].sum(1).tolist() == [1] * 300
    assert batch["target"].argmax(1).tolist() == raw["target"].tolist()
    assert batch["target"].dtype == torch.float32
    assert train.transform({"input": raw["input"]}, None).keys() == {"input"}  # to predict


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


def test_a_valid_file_is_used_if_its_archive_is_damaged(
    tmp_path: Path, contents: dict[str, bytes], packed: dict[str, bytes]
) -> None:
    put(tmp_path, {name: content[:-10] for name, content in packed.items()})
    put(tmp_path, contents, unpacked=True)
    assert len(FashionMNIST(tmp_path, "test", seed=0, mirrors=NOWHERE)) == 10_000


def test_damaged_files_are_reported_and_not_used(
    tmp_path: Path, contents: dict[str, bytes], packed: dict[str, bytes]
) -> None:
    name = "t10k-images-idx3-ubyte.gz"
    good = contents[name]
    zipped = packed[name]
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


def test_a_failed_download_reports_what_was_tried_and_what_to_do(
    tmp_path: Path, server: str
) -> None:
    root = tmp_path / "data"
    mirrors = (f"{server}one/", f"{server}two/")
    with pytest.raises(UserError) as error:
        FashionMNIST(root, "train", seed=0, mirrors=mirrors)
    assert error.value.exit_code == DATA_UNAVAILABLE
    for tried in (*mirrors, *FILES, "HTTP Error 404", root / "raw", root / "FashionMNIST/raw"):
        assert str(tried) in str(error.value)
    assert "python train.py --config config/synthetic.yaml" in str(error.value)
    assert left_in(root) == ["FashionMNIST", "raw"]


@pytest.mark.parametrize("previous", [None, 7.0])
def test_a_failed_download_restores_the_default_socket_timeout(
    tmp_path: Path, previous: float | None
) -> None:
    original = socket.getdefaulttimeout()
    socket.setdefaulttimeout(previous)
    try:
        with pytest.raises(UserError):
            FashionMNIST(tmp_path, "test", seed=0, mirrors=NOWHERE)
        assert socket.getdefaulttimeout() == previous
    finally:
        socket.setdefaulttimeout(original)


def test_the_next_mirror_is_tried_after_a_damaged_download(
    tmp_path: Path, server: str, packed: dict[str, bytes]
) -> None:
    put(tmp_path / "served/bad", {name: content[:-10] for name, content in packed.items()})
    put(tmp_path / "served/good", packed)
    only_bad = tmp_path / "only bad"
    with pytest.raises(UserError, match="Error downloading train-images"):
        FashionMNIST(only_bad, "test", seed=0, mirrors=(f"{server}bad/",))
    assert not any(only_bad.rglob("*ubyte"))
    both = tmp_path / "both"
    mirrors = (f"{server}bad/", f"{server}good/")
    assert len(FashionMNIST(both, "test", seed=0, mirrors=mirrors)) == 10_000
    assert len(FashionMNIST(only_bad, "test", seed=0, mirrors=mirrors[1:])) == 10_000
    for name, content in packed.items():
        assert (both / "FashionMNIST/raw" / name).read_bytes() == content


def test_unavailable_data_ends_a_command_with_exit_code_69(
    tmp_path: Path, command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    changes = (f"data.root={tmp_path / 'empty'}", f"data.mirrors=[{NOWHERE[0]}]")
    assert command("train", "--config", CONFIG, "--run-dir", run, *changes) == 69
    assert "python train.py --config config/synthetic.yaml" in capsys.readouterr().err
    assert not run.exists()


def test_a_trained_model_classifies_image_files(
    tmp_path: Path,
    packed: dict[str, bytes],
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(tmp_path / "data", packed)
    run = tmp_path / "run"
    changes = (f"data.root={tmp_path / 'data'}", "trainer.max_steps=1")
    assert command("train", "--config", CONFIG, "--run-dir", run, *changes) == 0
    shutil.rmtree(tmp_path / "data")  # inference does not need it
    Image.new("L", (28, 28)).save(tmp_path / "black.png")
    capsys.readouterr()
    assert command("predict", run, tmp_path / "black.png") == 0
    printed = capsys.readouterr().out
    assert sum(printed.count(name) for name in FashionMNIST.classes) == 3


# Augmentation


def crops(image: Tensor, shift: int) -> list[Tensor]:
    """All crops of a padded image, shape (1, H, W)."""
    _, height, width = image.shape
    padded = torch.zeros(1, height + 2 * shift, width + 2 * shift, dtype=image.dtype)
    padded[:, shift : shift + height, shift : shift + width] = image
    found = []
    for y in range(2 * shift + 1):
        for x in range(2 * shift + 1):
            found.append(padded[:, y : y + height, x : x + width])
    return found


@pytest.fixture
def clothes(tmp_path: Path, splits: dict[str, BaseDataset]) -> Callable[..., FashionMNIST]:
    """``clothes(shift=1, flip=True)``: FashionMNIST without images of its own."""

    def make(shift: int, flip: bool, shifted: float = 1.0) -> FashionMNIST:
        dataset = FashionMNIST(tmp_path, None, 0, shift=shift, shifted=shifted, flip=flip)
        dataset.mean_and_std = splits["train"].state_dict()["mean_and_std"]
        return dataset

    return make


def test_images_are_cropped_at_random_with_the_given_probability(
    clothes: Callable[..., FashionMNIST],
) -> None:
    image = torch.randint(256, (1, 6, 5), dtype=torch.uint8)
    dataset = clothes(shift=1, flip=False, shifted=0.4)
    batch = {"input": image.expand(9999, 1, 6, 5)}
    plain = dataset.transform(batch, None)["input"]
    augmented = dataset.transform(batch, make_generator(0))["input"]
    moved = (augmented != plain).flatten(1).any(1)
    # One of the nine crops is the original image. The standard error is 0.005.
    assert moved.float().mean().item() == pytest.approx(0.4 * 8 / 9, abs=0.02)


def test_augmented_images_are_all_crops_and_flipped_crops(
    clothes: Callable[..., FashionMNIST],
) -> None:
    image = torch.randint(256, (1, 6, 5), dtype=torch.uint8)
    plain = crops(image, 1)
    flipped = [crop.flip(2) for crop in plain]
    for flip, expected in ((False, plain), (True, plain + flipped)):
        dataset = clothes(shift=1, flip=flip)
        batch = {"input": image.expand(500, 1, 6, 5)}
        augmented = dataset.transform(batch, make_generator(0))["input"]
        normalized = dataset.transform({"input": torch.stack(expected)}, None)["input"]
        assert distinct(augmented) == distinct(normalized)


def distinct(images: Tensor) -> set[bytes]:
    """The different images in a batch."""
    return {image.numpy().tobytes() for image in images}


def test_the_description_of_an_input_suffices_to_prepare_an_image(tmp_path: Path) -> None:
    data = FashionMNIST(tmp_path, None, 0)
    data.mean_and_std = (0.3, 0.25)
    gradient = Image.linear_gradient("L").resize((60, 31)).convert("RGBA")
    gradient.putalpha(Image.radial_gradient("L").resize((60, 31)))
    gradient.save(tmp_path / "x.png")
    ((_, sample),) = data.read_inputs(str(tmp_path / "x.png"))
    expected = data.transform(data.collate([sample]), None)["input"]
    array = prepare_image(tmp_path / "x.png", {"preparation": data.describe_input()})
    torch.testing.assert_close(torch.from_numpy(array), expected)


def test_mirrors_may_change_on_resume() -> None:
    before = load_settings(CONFIG)
    state = {"settings": before.model_dump(mode="json"), "fingerprint": ""}
    after = load_settings(CONFIG, ["data.mirrors=[https://a.example]"])
    assert changes_that_need_force(state, after, "") == []
