"""FashionMNIST's files: found, checked, downloaded, and what is said if they cannot be had."""
# ruff: noqa: D103  the names of the tests say what they test

import contextlib
import gc
import gzip
import hashlib
import shutil
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
from torchvision import datasets

from base.base_dataset import BaseDataset
from data_loader import fashion_mnist
from data_loader.fashion_mnist import FILES, FashionMNIST
from utils.errors import DATA_UNAVAILABLE, UserError
from utils.randomness import make_generator

# FashionMNIST: files of the right names and sizes, so nothing has to be downloaded. Image k is
# black but for its first pixel, k % 251, and is of class k % 10.


pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket")
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
        resources = [(name, md5) for name, (md5, _) in FILES.items()]
        patch.setattr(datasets.FashionMNIST, "resources", resources)
        yield found


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address at which the files below ``tmp_path/served`` can be had."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            """Says nothing."""

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):  # of a client that looked where it leads
                super().do_GET()

    handler = partial(Quiet, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever).start()
        yield f"http://127.0.0.1:{running.server_port}/"
        running.shutdown()
    gc.collect()  # torchvision's errors hold connections, which Python warns of when they go


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
    samples = [part.__getitems__(torch.arange(len(part))) for part in (train, validation)]
    assert [s["target"].bincount().tolist() for s in samples] == [[5_500] * 10, [500] * 10]
    # The first pixels and classes tell, with the fewest doubts, which image of the file it is.
    pairs = [torch.stack([s["input"][:, 0, 0, 0].long(), s["target"]], 1) for s in samples]
    found = Counter(map(tuple, torch.cat(pairs).tolist()))
    assert found == Counter((k % 251, k % 10) for k in range(60_000))


def test_pixels_and_targets_can_be_those_of_the_tutorial(
    tmp_path: Path, packed: dict[str, bytes]
) -> None:
    put(tmp_path, packed)
    train = FashionMNIST(tmp_path, "train", seed=0, shift=0, normalize=False, one_hot=True)
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
    for tried in (*mirrors, *FILES, "HTTP Error 404", root / "raw", root / "FashionMNIST/raw"):
        assert str(tried) in str(error.value)
    assert "python train.py --config config/synthetic.yaml" in str(error.value)
    assert left_in(root) == ["FashionMNIST", "raw"]


def test_a_damaged_download_is_not_used_and_the_next_mirror_tried(
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
    assert "python train.py --config config/synthetic.yaml" in capsys.readouterr().err
    assert not run.exists()


def test_a_trained_run_classifies_image_files(
    tmp_path: Path,
    packed: dict[str, bytes],
    command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    put(tmp_path / "data", packed)
    config = Path(fashion_mnist.__file__).parent.parent / "config/fashion_mnist.yaml"
    run, root = tmp_path / "run", f"data.root={tmp_path / 'data'}"
    assert command("train", "--config", config, "--run-dir", run, root, "trainer.max_steps=1") == 0
    shutil.rmtree(tmp_path / "data")  # which new images do not need
    Image.new("L", (28, 28)).save(tmp_path / "black.png")
    capsys.readouterr()
    assert command("predict", run, tmp_path / "black.png") == 0
    said = capsys.readouterr().out
    assert sum(said.count(name) for name in FashionMNIST.classes) == 3


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

    def make(shift: int, flip: bool, shifted: float = 1.0) -> FashionMNIST:
        dataset = FashionMNIST(tmp_path, None, 0, shift=shift, shifted=shifted, flip=flip)
        dataset.mean_and_std = splits["train"].state_dict()["mean_and_std"]
        return dataset

    return make


def test_a_share_of_the_images_is_shifted(clothes: Callable[..., FashionMNIST]) -> None:
    image = torch.randint(256, (1, 6, 5), dtype=torch.uint8)
    dataset, batch = (
        clothes(shift=1, flip=False, shifted=0.4),
        {"input": image.expand(9999, 1, 6, 5)},
    )
    plain = dataset.transform(batch, None)["input"]
    moved = (dataset.transform(batch, make_generator(0))["input"] != plain).flatten(1).any(1)
    # Of the nine places, one is where the image was. The standard error is 0.005.
    assert moved.float().mean().item() == pytest.approx(0.4 * 8 / 9, abs=0.02)


def test_augmented_images_are_all_the_shifted_and_mirrored_ones(
    clothes: Callable[..., FashionMNIST],
) -> None:
    image = torch.randint(256, (1, 6, 5), dtype=torch.uint8)
    straight, mirrored = crops(image, 1), [crop.flip(2) for crop in crops(image, 1)]
    for flip, wanted in ((True, straight + mirrored), (False, straight)):
        dataset = clothes(shift=1, flip=flip)
        found = dataset.transform({"input": image.expand(500, 1, 6, 5)}, make_generator(0))["input"]
        plain = dataset.transform({"input": torch.stack(wanted)}, None)["input"]
        assert {f.numpy().tobytes() for f in found} == {p.numpy().tobytes() for p in plain}
