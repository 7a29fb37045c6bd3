"""Networks for grey or colour images."""

from itertools import product
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset
from base.base_model import BaseModel
from config.schema import Count


class MLP(BaseModel):
    """Fully connected, for images of 28×28 pixels in ten classes 784-512-512-10 by default.

    Args:
        dataset: what it is for: shape of the inputs, classes.
        width: Units in each of the two hidden layers.
        classes: Outputs; by default as many as there are classes, or one.
    """

    def __init__(
        self, dataset: BaseDataset, width: Count = 512, classes: Count | None = None
    ) -> None:
        super().__init__()
        inputs, classes = dataset.example.numel(), classes or len(dataset.classes) or 1
        hidden = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, classes))

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, classes), of inputs of any shape (N, ...)."""
        logits: Tensor = self.layers(input)
        return logits


class ConvNet(BaseModel):
    """Fixed filters and two stages; each halves the image, and a stage ends with a residual.

    The filters are not learned: that saves their share of the time, and what they find is nearly
    white from the first step on. Each feature comes as it is and negated (CReLU: Shang et al.,
    arXiv:1603.05201). Residual: the input is added to the output (He et al., arXiv:1512.03385).

    Args:
        dataset: what it is for: channels of the images, classes.
        width: Channels in the first stage; the second has twice as many.
        classes: Outputs; by default as many as there are classes.
        mirror: Whether an evaluated image is also looked at in a mirror, and the mean taken.
    """

    filters: Tensor

    def __init__(
        self,
        dataset: BaseDataset,
        width: Count = 32,
        classes: Count | None = None,
        mirror: bool = False,
    ) -> None:
        super().__init__()
        self.channels, self.mirror = (channels := dataset.example.shape[1]), mirror
        filters = torch.cat([cosines(5, 16), -cosines(5, 16)]).repeat(channels, 1, 1, 1)
        self.register_buffer("filters", filters, persistent=False)
        self.contrast = nn.BatchNorm2d(32 * channels, affine=False)
        self.stage1 = convolution(32 * channels, width, stride=2)
        self.residual1 = convolution(width, width)
        self.stage2 = convolution(width, 2 * width, stride=2)
        self.residual2 = convolution(2 * width, 2 * width)
        self.head = nn.Linear(2 * width, classes or len(dataset.classes))
        whole: Any = self  # whose types lack this in torch 2.12
        whole.to(memory_format=torch.channels_last)

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, classes), of images of any size, shape (N, C, H, W)."""
        logits = self._look(input)
        if self.mirror and not self.training:
            logits = (logits + self._look(input.flip(3))) / 2
        return logits

    def _look(self, input: Tensor) -> Tensor:
        groups = self.channels
        found = nn.functional.conv2d(input, self.filters, stride=2, padding=2, groups=groups)
        features = self.stage1(self.contrast(found).relu_())
        features = self.stage2(features + self.residual1(features))
        logits: Tensor = self.head((features + self.residual2(features)).amax((2, 3)))
        return logits


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution, normalised and rectified (to stride is a quarter of the work of pooling)."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def cosines(size: int, count: int) -> Tensor:
    """The lowest frequencies of a patch: filters, float32, shape (count, 1, size, size).

    They are orthonormal, and the principal components of patches of natural images are close to
    them (discrete cosine transform: Ahmed, Natarajan and Rao, 1974).
    """
    numbers = torch.arange(size)
    waves = nn.functional.normalize(torch.cos(torch.pi / size * numbers[:, None] * (numbers + 0.5)))
    pairs = sorted(product(range(size), repeat=2), key=lambda pair: (sum(pair), pair))
    return torch.stack([torch.outer(waves[i], waves[j]) for i, j in pairs[:count]])[:, None]
