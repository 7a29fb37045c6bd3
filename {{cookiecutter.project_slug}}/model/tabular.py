"""Networks for the rows of tables."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count, Fraction
from data_loader.tabular_csv import TabularCSV


class TabularNet(BaseModel):
    """Fully connected; a number comes out in the unit of its column.

    Args:
        dataset: what it is for: columns, classes, mean and spread of the numbers to predict.
        width: Units of a hidden layer.
        depth: Hidden layers.
        dropout: Share of the units that are left out in training.
    """

    mean_and_std: Tensor

    def __init__(
        self, dataset: TabularCSV, width: Count = 64, depth: Count = 2, dropout: Fraction = 0.0
    ) -> None:
        super().__init__()
        sizes = [dataset.example.shape[1], *[width] * depth]
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear(width, len(dataset.classes) or 1))
        self.register_buffer("mean_and_std", torch.tensor(dataset.target_mean_and_std))

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, classes), or numbers, shape (N, 1), of rows, shape (N, F)."""
        mean, std = self.mean_and_std
        outputs: Tensor = mean + std * self.layers(input)
        return outputs
