"""An autoencoder."""

from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count


class Autoencoder(BaseModel):
    """Fully connected, with a narrow layer in the middle.

    Args:
        side: Pixels of an image's side.
        width: Units of the hidden layers.
        code: Numbers that represent an image.
    """

    def __init__(self, side: Count = 16, width: Count = 128, code: Count = 4) -> None:
        super().__init__()
        pixels = side * side
        self.encoder = nn.Sequential(
            nn.Flatten(), nn.Linear(pixels, width), nn.GELU(), nn.Linear(width, code)
        )
        self.decoder = nn.Sequential(
            nn.Linear(code, width),
            nn.GELU(),
            nn.Linear(width, pixels),
            nn.Unflatten(1, (1, side, side)),
        )

    def forward(self, input: Tensor) -> Tensor:
        """The images again, shape (N, 1, H, W)."""
        images: Tensor = self.decoder(self.encoder(input))
        return images
