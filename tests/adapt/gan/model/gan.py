"""Two networks that train each other."""

from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count


class GAN(BaseModel):
    """A generator of points, and a discriminator that distinguishes them from real points.

    Args:
        width: Units of the hidden layers.
    """

    def __init__(self, width: Count = 128) -> None:
        super().__init__()
        self.generator = network(width, 2)
        self.discriminator = network(width, 1)

    def forward(self, input: Tensor) -> Tensor:
        """Points, shape (N, 2), made of noise, shape (N, 2)."""
        points: Tensor = self.generator(input)
        return points


def network(width: int, outputs: int) -> nn.Sequential:
    """Fully connected, with two hidden layers."""
    return nn.Sequential(
        nn.Linear(2, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, outputs),
    )
