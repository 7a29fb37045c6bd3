"""Networks for the rows of tables."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count, Fraction
from data_loader.tabular_csv import TabularCSV


class TabularNet(BaseModel):
    """Multilayer perceptron; in regression, its output is in the units of the target column.

    Args:
        dataset: data set that defines the features, the classes, and the mean and standard
            deviation of a numeric target.
        width: Units in each hidden layer.
        depth: Number of hidden layers.
        dropout: Dropout probability.
    """

    mean_and_std: Tensor

    def __init__(
        self, dataset: TabularCSV, width: Count = 64, depth: Count = 2, dropout: Fraction = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = dataset.example.shape[1]
        for _ in range(depth):
            layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(dropout)]
            inputs = width
        outputs = len(dataset.classes) or 1
        layers.append(nn.Linear(width, outputs))
        self.layers = nn.Sequential(*layers)
        self.register_buffer("mean_and_std", torch.tensor(dataset.target_mean_and_std))

    def forward(self, input: Tensor) -> Tensor:
        """Computes logits, shape (N, classes), or values, shape (N, 1), from rows, shape (N, F)."""
        mean, std = self.mean_and_std
        outputs: Tensor = mean + std * self.layers(input)
        return outputs
