"""A small U-Net."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count


class UNet(BaseModel):
    """Two scales and back, with a bridge at each (Ronneberger et al., arXiv:1505.04597).

    Args:
        width: Channels at full size; twice and four times as many at a half and a quarter.
        classes: Classes of a pixel.
    """

    def __init__(self, width: Count = 16, classes: Count = 3) -> None:
        super().__init__()
        self.fine = block(1, width)
        self.middle = block(width, 2 * width)
        self.coarse = block(2 * width, 4 * width)
        self.back_middle = block(6 * width, 2 * width)
        self.back_fine = block(3 * width, width)
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, classes, H, W), of images, shape (N, 1, H, W), H and W by four."""
        fine = self.fine(input)
        middle = self.middle(nn.functional.max_pool2d(fine, 2))
        coarse = self.coarse(nn.functional.max_pool2d(middle, 2))
        middle = self.back_middle(torch.cat([middle, larger(coarse)], dim=1))
        logits: Tensor = self.head(self.back_fine(torch.cat([fine, larger(middle)], dim=1)))
        return logits


def block(inputs: int, outputs: int) -> nn.Sequential:
    """A convolution, normalised and rectified."""
    layer = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())


def larger(features: Tensor) -> Tensor:
    """Features of twice the height and width."""
    return nn.functional.interpolate(features, scale_factor=2.0)
