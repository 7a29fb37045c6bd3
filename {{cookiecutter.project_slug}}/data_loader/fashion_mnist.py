"""FashionMNIST as a data set: 70,000 grey images of clothes, 28×28, in ten classes."""

from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Generator, Tensor
from torch.nn import functional

from base.base_dataset import BaseDataset, Batch, Sample
from config.schema import MayChangeOnResume
from data_loader import transforms
from data_loader.fashion_mnist_files import load_tensors
from data_loader.image_files import IMAGE_SUFFIXES, describe_image, read_image
from data_loader.splits import split_indices

VALIDATION_IMAGES = 5_000  # of the 60,000 training images
SIZE = 28  # pixels, height and width of an image


class FashionMNIST(BaseDataset):
    """Images (uint8, shape (1, 28, 28)) and their classes (int64), kept in memory.

    See arXiv:1708.07747.

    Args:
        root: folder of the files, compressed (.gz) or not; missing files are downloaded to it.
        split: train, validation (5,000 of the training images), test, or None for no images.
        seed: random seed that selects the validation images.
        shift: Random-crop padding of training images, in pixels on each side.
        shifted: Probability that a training image is randomly cropped.
        flip: Whether training images are randomly flipped horizontally.
        normalize: Whether pixels have mean 0 and standard deviation 1; otherwise, they are scaled
            to [0, 1].
        one_hot: Whether targets are one-hot vectors (floats) instead of class indices.
        mirrors: URLs to download from, tried in this order; by default, those of torchvision.

    Raises:
        UserError: if the files do not exist and cannot be downloaded.
    """

    title = "FashionMNIST"
    classes = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    input_suffixes = IMAGE_SUFFIXES
    fitted = ("mean_and_std",)  # of training pixels scaled to [0, 1]
    mean_and_std: tuple[float, float]
    in_memory = True
    uses_global_rng = False
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
        self.shift = shift
        self.shifted = shifted
        self.flip = flip
        self.normalize = normalize
        self.one_hot = one_hot
        self.indices = torch.arange(0)
        if split is None:
            return
        part = "t10k" if split == "test" else "train"
        self.images, targets = load_tensors(root, part, mirrors)
        self.indices = split_indices(targets, split, VALIDATION_IMAGES, seed)
        self.targets = targets[self.indices]

    def fit(self) -> None:
        self.mean_and_std = (0.0, 1.0)
        if self.normalize:
            self.mean_and_std = transforms.pixel_statistics(self.images[self.indices])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Sample:
        batch = self.__getitems__(torch.tensor([index]))
        return {name: values[0] for name, values in batch.items()}

    def __getitems__(self, indices: Tensor) -> Batch:
        positions = self.indices[indices]
        images = self.images.index_select(0, positions)  # 4 times as fast as images[positions]
        return {"input": images, "target": self.targets[indices]}

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        images = batch["input"]
        if rng is not None:
            if self.shift:
                images = transforms.random_crop(images, self.shift, rng, self.shifted)
            if self.flip:
                images = transforms.random_horizontal_flip(images, rng)
        batch = {**batch, "input": transforms.normalize(images, *self.mean_and_std)}
        if self.one_hot and "target" in batch:
            batch["target"] = functional.one_hot(batch["target"], len(self.classes)).float()
        return batch

    def read_inputs(self, source: str) -> list[tuple[str, Sample]]:
        """Reads an image file; see the base class."""
        return [(source, {"input": read_image(Path(source), SIZE)})]

    def describe_input(self) -> dict[str, Any]:
        mean, std = self.mean_and_std
        return {**describe_image(SIZE), "mean": mean, "std": std, "dtype": "float32"}
