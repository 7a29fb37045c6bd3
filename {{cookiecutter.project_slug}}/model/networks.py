"""Networks for grey or colour images."""

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

    The filters are not learned, which saves their share of the time. Each feature comes as it is
    and negated (CReLU: Shang et al., arXiv:1603.05201); its mean over 2×2 pixels does not depend on
    where an edge is exactly (as in HOG: Dalal and Triggs, 2005), and of that the square root, so
    that weak edges count, too (Perronnin et al., ECCV 2010). Residual: the input is added to the
    output (He et al., arXiv:1512.03385).

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
        filters = torch.cat([cosines(3), -cosines(3)]).repeat(channels, 1, 1, 1)
        self.register_buffer("filters", filters, persistent=False)
        self.contrast = nn.BatchNorm2d(len(filters), affine=False)
        self.stage1 = convolution(len(filters), width, stride=2)
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
        # (N, C, H, W), from here on 18 features of each channel: (N, 18 C, H, W)
        found = nn.functional.conv2d(input, self.filters, padding=1, groups=self.channels).relu_()
        found = nn.functional.avg_pool2d(found, 2, ceil_mode=True).sqrt_()  # half as high and wide
        features = self.stage1(self.contrast(found))
        features = self.stage2(features + self.residual1(features))
        logits: Tensor = self.head((features + self.residual2(features)).amax((2, 3)))
        return logits


def convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """A convolution, normalised and rectified (to stride is a quarter of the work of pooling)."""
    layer = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def cosines(size: int) -> Tensor:
    """All frequencies of a patch: filters, float32, shape (size * size, 1, size, size).

    They are orthonormal, and the principal components of patches of natural images are close to
    them (discrete cosine transform: Ahmed, Natarajan and Rao, 1974).
    """
    numbers = torch.arange(size)
    waves = nn.functional.normalize(torch.cos(torch.pi / size * numbers[:, None] * (numbers + 0.5)))
    return torch.einsum("ay,bx->abyx", waves, waves).reshape(-1, 1, size, size)
