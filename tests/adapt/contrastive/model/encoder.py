"""A network that gives an embedding of an image."""

from torch import Tensor, nn

from base.base_model import BaseModel


class Encoder(BaseModel):
    """Three convolutions with pooling; of each feature, the mean over the image.

    Pooling smooths the noise, by which a network with sharper filters (networks.ConvNet) tells one
    image from all others, with a lower loss, and without learning what shape it has.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs in ((1, 16), (16, 32), (32, 64)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.MaxPool2d(2)]
            layers += [nn.BatchNorm2d(outputs), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(64, 32)

    def forward(self, input: Tensor) -> Tensor:
        """Embeddings, shape (N, 32), of images, shape (N, 1, H, W)."""
        embeddings: Tensor = self.head(self.features(input).mean((2, 3)))
        return embeddings
