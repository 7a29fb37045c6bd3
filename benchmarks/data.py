"""The time to load batches, by number of workers: from tensors, and from image files.

From tensors: one epoch of 55,000 images of FashionMNIST's shape, batch 64, normalised and not
augmented. It is compared with the same arithmetic on batches that are indexed by hand, and given as
a fraction of the time in which the tutorial's network (784-512-512-10) makes its training steps.
From files: images per second from PNG files that are decoded and scaled one by one, compared with
torch's DataLoader, which collates a list of samples. The cases alternate; the tables show medians.
"""

# mypy: disable-error-code="import-not-found, misc, no-any-return, no-untyped-call"
# (the payload's modules are imported at run time)

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

PAYLOAD = Path(__file__).resolve().parent.parent / "{{cookiecutter.project_slug}}"
sys.path.insert(0, str(PAYLOAD))

from base.base_dataset import BaseDataset  # noqa: E402
from base.batch_loader import BatchLoader  # noqa: E402
from data_loader.fashion_mnist import FashionMNIST  # noqa: E402
from data_loader.image_files import read_image  # noqa: E402
from model.networks import MLP  # noqa: E402

QUICK = bool(os.environ.get("QUICK"))
ROUNDS = 1 if QUICK else 5
BATCH = 64
FILES = 100 if QUICK else 600
SIDE = 512  # pixels


class Random(FashionMNIST):
    """Random pixels of FashionMNIST's shape, without augmentation."""

    in_memory = True
    uses_global_rng = False

    def __init__(self, length: int) -> None:
        rng = torch.Generator().manual_seed(0)
        super().__init__(Path(), None, seed=0, shift=0, flip=False)
        self.mean_and_std = (0.3, 0.35)
        self.images = torch.randint(256, (length, 1, 28, 28), generator=rng).byte()
        self.targets = torch.randint(10, (length,), generator=rng)
        self.indices = torch.arange(length)


class Single(Dataset[dict[str, Tensor]]):
    """The same samples one by one, as most data sets return them."""

    def __init__(self, data: BaseDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.data[index]


class Files(BaseDataset):
    """PNG files, each of which is decoded and scaled to 28×28 pixels."""

    title = "files"

    def __init__(self, folder: Path, count: int) -> None:
        rng = torch.Generator().manual_seed(0)
        self.files = [folder / f"{k}.png" for k in range(count)]
        for file in self.files:
            pixels = torch.randint(256, (SIDE, SIDE), generator=rng).byte()
            Image.fromarray(pixels.numpy()).save(file)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input": read_image(self.files[index], 28)}


def seconds(batches: Callable[[], Iterable[Any]]) -> float:
    """Returns the time of an iteration over batches."""
    start = time.perf_counter()
    for _ in batches():
        pass
    return time.perf_counter() - start


def by_hand(data: Random) -> Iterable[dict[str, Tensor]]:
    """Yields the batches of one epoch with hand-written indexing."""
    mean, std = data.mean_and_std
    for indices in torch.randperm(len(data)).split(BATCH):
        images = (data.images[indices].float() - 255 * mean) / (255 * std)
        yield {"input": images, "target": data.targets[indices]}


def measure_alternately(cases: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Returns the measurements of each case, without a warm-up round."""
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(ROUNDS + 1):
        for name, measure in cases.items():
            taken = measure()
            if number:
                found[name].append(taken)
    return found


def main() -> None:
    """Prints two tables."""
    data = Random(11_000 if QUICK else 55_000)

    def ours(workers: int) -> Iterable[Any]:
        loader = BatchLoader(data, BATCH, 0, workers=workers)
        return loader.steps(0, loader.steps_per_epoch)

    def training() -> Iterable[None]:
        model = MLP(data, classes=10)
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        for batch in by_hand(data):
            nn.functional.cross_entropy(model(batch["input"]), batch["target"]).backward()
            optimizer.step()
            optimizer.zero_grad()
            yield

    cases = {"indexed by hand": partial(seconds, partial(by_hand, data))}
    cases |= {f"BatchLoader, {n} workers": partial(seconds, partial(ours, n)) for n in (0, 1, 2)}
    found = measure_alternately(cases | {"training": partial(seconds, training)})
    print(f"{'batches from tensors':24s} µs per batch  of training step  over by hand")
    count = -(-len(data) // BATCH)
    steps = statistics.median(found.pop("training"))
    hand = statistics.median(found["indexed by hand"])
    for name, times in found.items():
        taken = statistics.median(times)
        line = f"{1e6 * taken / count:12.0f} {taken / steps:17.1%} {(taken - hand) / steps:13.1%}"
        print(f"{name:24s} {line}")

    with tempfile.TemporaryDirectory() as folder:
        files = Files(Path(folder), FILES)

        def decoded(workers: int) -> Iterable[Any]:
            return BatchLoader(files, BATCH, 0, workers=workers).steps(0, -(-FILES // BATCH))

        def usual(workers: int) -> Iterable[Any]:
            return DataLoader(Single(files), BATCH, shuffle=True, num_workers=workers)

        cases = {
            f"BatchLoader, {n} workers": partial(seconds, partial(decoded, n)) for n in (0, 1, 2)
        }
        cases |= {
            f"DataLoader, {n} workers": partial(seconds, partial(usual, n)) for n in (0, 1, 2)
        }
        found = measure_alternately(cases)
    print(f"\n{'batches from files':24s} images per second")
    for name, times in found.items():
        print(f"{name:24s} {FILES / statistics.median(times):17.0f}")


if __name__ == "__main__":
    main()
