"""FashionMNIST: 70,000 grey images of clothes, 28×28, in ten classes (arXiv:1708.07747)."""

import gzip
import hashlib
import math
import socket
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from base.base_dataset import BaseDataset, Batch, Sample
from config.schema import MayChangeOnResume
from data_loader import transforms
from utils.errors import DATA_UNAVAILABLE, UV, UserError

NAMES = "T-shirt/top, Trouser, Pullover, Dress, Coat, Sandal, Shirt, Sneaker, Bag, Ankle boot"
# MD5 of each archive, as torchvision checks it, and the shape of what is in it.
FILES = {
    "train-images-idx3-ubyte.gz": ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", (60_000, 28, 28)),
    "train-labels-idx1-ubyte.gz": ("25c81989df183df01b3e8a0aad5dffbe", (60_000,)),
    "t10k-images-idx3-ubyte.gz": ("bef4ecab320f06d8554ea6380940ec79", (10_000, 28, 28)),
    "t10k-labels-idx1-ubyte.gz": ("bb300cfdad3c16e7a12a480ee83cd310", (10_000,)),
}


class FashionMNIST(BaseDataset):
    """Images as uint8, shape (1, 28, 28), and their classes, int64, held in memory.

    Args:
        root: folder of the files, packed (.gz) or not, or where they are downloaded to.
        split: train, validation (5,000 of the training images), test, or None for no images.
        seed: what the choice of the validation images is drawn from.
        shift: Pixels that a training image is padded by on each side before a random crop.
        shifted: Share of the training images that this is done to.
        flip: Whether training images are mirrored at random.
        normalize: Whether pixels get mean 0 and standard deviation 1, and not values from 0 to 1.
        one_hot: Whether targets are floats, 1 for the image's class and 0 for the others.
        mirrors: Addresses that the files are downloaded from, in this order; torchvision's if none.

    Raises:
        UserError: if the files are neither there nor to be downloaded.
    """

    title = "FashionMNIST"
    classes = NAMES.split(", ")
    fitted = ("mean_and_std",)  # of the training pixels, as shares of 255
    mean_and_std: tuple[float, float]
    in_memory = True
    device_tensors = ("images", "targets", "indices")

    def __init__(
        self,
        root: Path,
        split: str | None,
        seed: int,
        shift: Annotated[int, Field(ge=0, le=14)] = 1,
        shifted: Annotated[float, Field(ge=0, le=1)] = 1.0,
        flip: bool = True,
        normalize: bool = True,
        one_hot: bool = False,
        mirrors: Annotated[tuple[str, ...], MayChangeOnResume()] = (),
    ) -> None:
        self.shift, self.shifted, self.flip = shift, shifted, flip
        self.one_hot = one_hot
        self.indices = torch.arange(0)
        if split is not None:
            prefix = "t10k" if split == "test" else "train"
            self.images, self.targets = load_tensors(root, prefix, mirrors)
            self.indices = transforms.split_indices(self.targets, split, 5_000, seed)
        if split == "train":  # other splits are given what is learned here
            pixels = self.images[self.indices]
            self.mean_and_std = transforms.pixel_statistics(pixels) if normalize else (0.0, 1.0)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        return {k: v[0] for k, v in self.__getitems__(torch.tensor([index])).items()}

    def __getitems__(self, indices: Tensor) -> Batch:
        places = self.indices[indices]
        # It takes images[places] four times as long.
        return {"input": self.images.index_select(0, places), "target": self.targets[places]}

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        images = batch["input"]
        if generator is not None:
            images = transforms.augment(images, self.shift, self.flip, generator, self.shifted)
        batch = {**batch, "input": transforms.normalize(images, *self.mean_and_std)}
        if self.one_hot and "target" in batch:
            batch["target"] = functional.one_hot(batch["target"], len(self.classes)).float()
        return batch

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        return [(source, {"input": transforms.read_image(Path(source), 28)})]


@cache  # training and validation images are parts of one tensor
def load_tensors(root: Path, part: str, mirrors: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Images, uint8, shape (N, 1, 28, 28), and classes, int64, shape (N,), of train or t10k."""
    problems: list[str] = []
    names = [name for name in FILES if name.startswith(part)]
    images, targets = (_read(root, name, problems) for name in names)
    if images is None or targets is None:
        _download(root, mirrors, problems)
        images, targets = (_read(root, name, problems) for name in names)
    if images is None or targets is None:
        tried = "\n  ".join(["FashionMNIST cannot be had:", *dict.fromkeys(problems)])
        hand = f"By hand: put {', '.join(FILES)} into {root / 'FashionMNIST/raw'}, or name the "
        other = f"folder that holds them by data.root or DATA_ROOT.\nOffline: {UV}python train.py "
        raise UserError(f"{tried}\n{hand}{other}--config config/synthetic.yaml", DATA_UNAVAILABLE)
    return images.unsqueeze(1), targets.long()


def _read(root: Path, name: str, problems: list[str]) -> Tensor | None:
    """The tensor in an IDX file in or below `root`; a damaged one is noted and not used."""
    md5, shape = FILES[name]
    header = np.array([0x0800 + len(shape), *shape], dtype=">i4").tobytes()
    folders = (root / "FashionMNIST/raw", root / "raw", root)
    files = [folder / file for folder in folders for file in (name, name.removesuffix(".gz"))]
    for file in filter(Path.is_file, files):
        content = file.read_bytes()
        if file.suffix == ".gz":
            whole = hashlib.md5(content, usedforsecurity=False).hexdigest() == md5
            content = gzip.decompress(content) if whole else b""
        if content.startswith(header) and len(content) == len(header) + math.prod(shape):
            values = np.frombuffer(bytearray(content), dtype=np.uint8, offset=len(header))
            return torch.from_numpy(values).reshape(shape)
        problems.append(f"{file}: damaged (wrong MD5, magic number or length); delete it")
    problems.append(f"{name}: not in {', '.join(map(str, folders))}")
    return None


def _download(root: Path, mirrors: tuple[str, ...], problems: list[str]) -> None:
    """Has torchvision download the files, check their MD5 and unpack them."""
    from torchvision import datasets  # takes seconds to import

    source = datasets.FashionMNIST
    socket.setdefaulttimeout(30)  # seconds; torchvision would wait forever
    for mirror in mirrors or source.mirrors:
        try:
            # The folder is named after the class.
            type(source.__name__, (source,), {"mirrors": [mirror]})(root, download=True)
            return
        except (AssertionError, HTTPException, OSError, RuntimeError, ValueError) as error:
            problems.append(" ".join(str(error).split()))
