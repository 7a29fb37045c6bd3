"""The files of FashionMNIST, which are downloaded where they are missing."""

import gzip
import hashlib
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.command import next_command
from utils.errors import DATA_UNAVAILABLE, UserError


class Content(NamedTuple):
    """What a file must contain.

    Attributes:
        md5: the hashes of the archive, which torchvision checks too, and of the file in it. The
            files of MNIST have the same names and shapes.
        shape: the shape of the array.
    """

    md5: tuple[str, str]
    shape: tuple[int, ...]


FILES = {
    "train-images-idx3-ubyte.gz": Content(
        ("8d4fb7e6c68d591d4c3dfef9ec88bf0d", "f4a8712d7a061bf5bd6d2ca38dc4d50a"), (60_000, 28, 28)
    ),
    "train-labels-idx1-ubyte.gz": Content(
        ("25c81989df183df01b3e8a0aad5dffbe", "9018921c3c673c538a1fc5bad174d6f9"), (60_000,)
    ),
    "t10k-images-idx3-ubyte.gz": Content(
        ("bef4ecab320f06d8554ea6380940ec79", "8181f5470baa50b63fa0f6fddb340f0a"), (10_000, 28, 28)
    ),
    "t10k-labels-idx1-ubyte.gz": Content(
        ("bb300cfdad3c16e7a12a480ee83cd310", "15d484375f8d13e6eb1aabb0c3f46965"), (10_000,)
    ),
}
DOWNLOAD_TIMEOUT = 30.0  # seconds without data; torchvision has no timeout
DOWNLOAD_ERRORS = (AssertionError, HTTPException, OSError, RuntimeError, ValueError)


@cache  # so that training and validation images are parts of the same tensor
def load_tensors(root: Path, part: str, mirrors: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Loads one part of the data, downloading it if necessary.

    Args:
        root: folder of the files.
        part: train or t10k.
        mirrors: URLs to download from; those of torchvision if empty.

    Returns:
        Images, uint8, shape (N, 1, 28, 28), and classes, int64, shape (N,).

    Raises:
        UserError: if the files do not exist and cannot be downloaded.
    """
    problems: list[str] = []
    images = _find(root, f"{part}-images-idx3-ubyte.gz", problems)
    targets = _find(root, f"{part}-labels-idx1-ubyte.gz", problems)
    if images is None or targets is None:
        _download(root, mirrors, problems)
        images = _find(root, f"{part}-images-idx3-ubyte.gz", problems)
        targets = _find(root, f"{part}-labels-idx1-ubyte.gz", problems)
    if images is None or targets is None:
        raise UserError(_explain(root, problems), DATA_UNAVAILABLE)
    return images.unsqueeze(1), targets.long()


def _find(root: Path, name: str, problems: list[str]) -> Tensor | None:
    """Reads the first valid copy of a file, in or below `root`.

    Args:
        root: folder of the data.
        name: the archive's name; the file in it is found as well.
        problems: gets a line for each damaged copy, and one if there is no valid one.
    """
    folders = [root / "FashionMNIST/raw", root / "raw", root]
    for folder in folders:
        for file in (folder / name, folder / name.removesuffix(".gz")):
            if not file.is_file():
                continue
            values = _read_idx(file, FILES[name])
            if values is not None:
                return values
            problems.append(f"{file}: damaged, or of other data (wrong MD5); delete it")
    problems.append(f"{name}: not in {', '.join(map(str, folders))}")
    return None


def _read_idx(file: Path, expected: Content) -> Tensor | None:
    """Reads a file in the IDX format, compressed or not; returns None if it is damaged."""
    content = file.read_bytes()
    if hashlib.md5(content, usedforsecurity=False).hexdigest() not in expected.md5:
        return None
    if file.suffix == ".gz":
        content = gzip.decompress(content)
    # The header has a magic number and a length for each dimension, of four bytes each.
    header_bytes = 4 * (1 + len(expected.shape))
    values = np.frombuffer(bytearray(content), dtype=np.uint8, offset=header_bytes)
    return torch.from_numpy(values).reshape(expected.shape)


def _download(root: Path, mirrors: tuple[str, ...], problems: list[str]) -> None:
    """Downloads all files from the first mirror that works, by means of torchvision.

    Args:
        root: folder of the data.
        mirrors: URLs; those of torchvision if empty.
        problems: gets a line for each mirror that does not work.
    """
    from torchvision import datasets  # here, as this import takes seconds

    for mirror in mirrors or datasets.FashionMNIST.mirrors:
        # torchvision names the folder after the class.
        source = type("FashionMNIST", (datasets.FashionMNIST,), {"mirrors": [mirror]})
        try:
            with _socket_timeout(DOWNLOAD_TIMEOUT):
                source(root, download=True)
            return
        except DOWNLOAD_ERRORS as error:
            problems.append(" ".join(str(error).split()))


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """Sets the timeout of new sockets, which applies to the whole process, for a while."""
    previous = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(previous)


def _explain(root: Path, problems: list[str]) -> str:
    """Returns an error message: what was tried, and what the user can do."""
    lines = ["FashionMNIST is unavailable:"]
    for problem in dict.fromkeys(problems):  # each of them once
        lines.append(f"  {problem}")
    lines.append(
        f"By hand: put {', '.join(FILES)} into {root / 'FashionMNIST/raw'}, or set data.root or "
        "DATA_ROOT to the folder that contains them."
    )
    offline = next_command("train.py", "--config", "config/synthetic.yaml")
    lines.append(f"Offline: {offline}")
    return "\n".join(lines)
