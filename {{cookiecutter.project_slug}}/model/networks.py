"""Networks for grey or colour images."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from base.base_dataset import BaseDataset
from base.base_model import BaseModel
from config.schema import Count

NEIGHBOUR_CORRELATION = 0.9  # of adjacent pixels, in the model of an image


class MLP(BaseModel):
    """Multilayer perceptron with two hidden layers of ReLU units.

    For 28×28 pixels and ten classes, the default layer sizes are 784-512-512-10.

    Args:
        dataset: data set that defines the input shape and the classes.
        width: Units in each hidden layer.
        classes: Number of outputs; by default the number of classes, or 1 without classes.
    """

    def __init__(
        self, dataset: BaseDataset, width: Count = 512, classes: Count | None = None
    ) -> None:
        super().__init__()
        inputs = dataset.example.numel()
        outputs = classes or len(dataset.classes) or 1
        self.layers = nn.Sequential(
            nn.Flatten(),
            nn.Linear(inputs, width),
            nn.ReLU(),
            nn.Linear(width, width),
            nn.ReLU(),
            nn.Linear(width, outputs),
        )

    def forward(self, input: Tensor) -> Tensor:
        """Computes logits, shape (N, classes), from inputs, shape (N, ...)."""
        logits: Tensor = self.layers(input)
        return logits


class ConvNet(BaseModel):
    """Fixed DCT filters and two convolutional stages, each with a residual block.

    - The filters are constant, so the first layer needs no backward pass. Their scale makes up for
      the normalisation that would follow, which would take 5 % of a step.
    - CReLU keeps the positive and the negative part of each filter response (Shang et al.,
      arXiv:1603.05201).
    - Average pooling over 2×2 pixels makes the responses less sensitive to the exact position of
      an edge, as in HOG (Dalal and Triggs, 2005).
    - The square root increases the effect of weak edges (Perronnin et al., ECCV 2010).
    - A residual block adds its input to its output (He et al., arXiv:1512.03385).

    Args:
        dataset: data set that defines the channels of the images and the classes.
        width: Channels of the first stage; the second stage has twice as many.
        classes: Number of outputs; by default the number of classes.
        mirror: Horizontal-flip test-time augmentation: averages the logits of an image and its
            mirror image.
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
        self.channels = dataset.example.shape[1]
        self.mirror = mirror
        filters = dct_filters(3)
        filters = torch.cat([filters, -filters])  # for CReLU
        filters = filters.repeat(self.channels, 1, 1, 1)
        self.register_buffer("filters", filters, persistent=False)
        self.stage1 = conv_bn_relu(len(filters), width, stride=2)
        self.residual1 = conv_bn_relu(width, width)
        self.stage2 = conv_bn_relu(width, 2 * width)
        self.residual2 = conv_bn_relu(2 * width, 2 * width)
        self.head = nn.Linear(2 * width, classes or len(dataset.classes))
        module: Any = self  # the type hints of Module.to lack memory_format (torch 2.12)
        module.to(memory_format=torch.channels_last)

    def forward(self, input: Tensor) -> Tensor:
        """Computes logits, shape (N, classes), from images of any size, shape (N, C, H, W)."""
        logits = self._logits(input)
        if self.mirror and not self.training:
            flipped_logits = self._logits(input.flip(3))
            logits = (logits + flipped_logits) / 2
        return logits

    def _logits(self, input: Tensor) -> Tensor:
        # 18 responses for each channel, shape (N, 18 C, H, W), then half the height and width.
        responses = functional.conv2d(input, self.filters, padding=1, groups=self.channels)
        responses = functional.avg_pool2d(responses.relu_(), 2, ceil_mode=True)
        features = self.stage1(responses.sqrt_())
        features = features + self.residual1(features)
        # With a stride of 2 in stage 2 instead, a step takes 10 % longer.
        features = self.stage2(functional.avg_pool2d(features, 2, ceil_mode=True))
        features = features + self.residual2(features)
        # With amax, a step takes 2 to 5 % longer.
        pooled = functional.adaptive_max_pool2d(features, 1).flatten(1)
        logits: Tensor = self.head(pooled)
        return logits


def conv_bn_relu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Builds a Conv-BatchNorm-ReLU block with 3×3 kernels.

    A stride of 2 computes a quarter of the outputs that a convolution and 2×2 pooling compute.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


def dct_filters(size: int) -> Tensor:
    """Computes the basis of the two-dimensional discrete cosine transform (DCT-II), scaled.

    The basis is close to the principal components of patches of images that are first-order Markov
    processes (Ahmed, Natarajan and Rao, 1974). The scale gives the responses to such images a
    variance of 1 if the pixels have; without it, high frequencies would have small responses.

    Returns:
        Filters, float32, shape (size * size, 1, size, size).
    """
    frequencies = torch.arange(size)
    positions = torch.arange(size) + 0.5
    waves = torch.cos(torch.pi / size * frequencies[:, None] * positions)
    distances = (positions[:, None] - positions).abs()
    covariance = NEIGHBOUR_CORRELATION**distances
    variances = (waves @ covariance * waves).sum(1)
    waves = waves / variances.sqrt()[:, None]
    filters = torch.einsum("ay,bx->abyx", waves, waves)
    return filters.reshape(-1, 1, size, size)
