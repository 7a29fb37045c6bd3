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

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        """Logits of the pixels, and the means and log-variances that the code is drawn from."""
        mean, log_variance = self.encoder(input).chunk(2, dim=1)
        code = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        return {"logits": self.decoder(code), "mean": mean, "log_variance": log_variance}
