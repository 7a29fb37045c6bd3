"""A variational autoencoder."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count


class VAE(BaseModel):
    """Fully connected; an image is represented by a normal distribution (arXiv:1312.6114).

    Args:
        side: Pixels of an image's side.
        width: Units of the hidden layers.
        code: Dimension of the distribution.
    """

    def __init__(self, side: Count = 16, width: Count = 128, code: Count = 4) -> None:
        super().__init__()
        pixels = side * side
        self.code = code
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, width), nn.GELU(), nn.Linear(width, 2 * code)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, width),
            nn.GELU(),
            nn.Linear(width, pixels),
            nn.Unflatten(1, (1, side, side)),
        )

    def forward(self, input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the pixels, and mean and standard deviation that the code is drawn from."""
        mean, log_std = self.encoder(input).chunk(2, dim=1)
        std = log_std.exp()
        code = mean + std * torch.randn_like(mean)
        return self.decoder(code), mean, std
