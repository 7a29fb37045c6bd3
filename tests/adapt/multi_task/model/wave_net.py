"""A network with an output for each of two tasks."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count


class WaveNet(BaseModel):
    """Convolutions that both tasks share, then a linear layer for each.

    Args:
        width: Channels of the convolutions.
        classes: Number of shapes.
    """

    def __init__(self, width: Count = 32, classes: Count = 3) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv1d(1, width, 9, stride=2),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Conv1d(width, width, 9, stride=2),
            nn.BatchNorm1d(width),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(10 * width, 2 * width),
            nn.ReLU(),
        )
        self.shape = nn.Linear(2 * width, classes)
        self.frequency = nn.Linear(2 * width, 1)
        self.log_variances = nn.Parameter(torch.zeros(2))

    def forward(self, input: Tensor) -> dict[str, Tensor]:
        """Logits of the shape, shape (N, classes), and the frequency, shape (N,)."""
        features = self.features(input)
        return {"shape": self.shape(features), "frequency": self.frequency(features).squeeze(1)}
