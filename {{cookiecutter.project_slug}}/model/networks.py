"""Networks for grey or colour images."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count


class MLP(BaseModel):
    """Fully connected, 784-512-512-10 by default.

    Args:
        inputs: Pixels of an image, all channels together.
        width: Units in each of the two hidden layers.
        classes: Classes told apart.
    """

    def __init__(self, inputs: Count = 784, width: Count = 512, classes: Count = 10) -> None:
        super().__init__()
        hidden = [nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
        self.layers = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, classes))

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, classes), of images, shape (N, C, H, W)."""
        logits: Tensor = self.layers(input)
        return logits


class ConvNet(BaseModel):
    """A stem and two stages, each of which halves the image; a stage ends with a residual.

    Residual: the input is added to the output (He et al., arXiv:1512.03385).

    Args:
        channels: Channels of an image, 1 for grey and 3 for colour.
        width: Channels after the stem; each stage doubles them.
        classes: Classes told apart.
        mirror: Whether an evaluated image is also looked at in a mirror, and the mean taken.
    """

    def __init__(
        self, channels: Count = 1, width: Count = 16, classes: Count = 10, mirror: bool = False
    ) -> None:
        super().__init__()
        self.mirror = mirror
        stem = nn.Conv2d(channels, width, 5, stride=2, padding=2, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(width), nn.ReLU())
        self.stage1 = convolution(width, 2 * width, nn.MaxPool2d(2))
        self.residual1 = convolution(2 * width, 2 * width)
        self.stage2 = convolution(2 * width, 4 * width, nn.MaxPool2d(2))
        self.residual2 = convolution(4 * width, 4 * width)
        self.head = nn.Linear(4 * width, classes)
        self.to(memory_format=torch.channels_last)

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, classes), of images, shape (N, C, H, W), of 8 pixels a side or more."""
        logits = self._look(input)
        if self.mirror and not self.training:
            logits = (logits + self._look(input.flip(3))) / 2
        return logits

    def _look(self, input: Tensor) -> Tensor:
        features = self.stage1(self.stem(input))
        features = self.stage2(features + self.residual1(features))
        logits: Tensor = self.head((features + self.residual2(features)).amax((2, 3)))
        return logits


def convolution(inputs: int, outputs: int, *pool: nn.Module) -> nn.Sequential:
    """A convolution, pooled, normalised and rectified (pooled first, as that is less work)."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(layer, *pool, nn.BatchNorm2d(outputs), nn.ReLU())
