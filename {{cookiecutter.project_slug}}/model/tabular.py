"""Networks for the rows of tables."""

from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count, Fraction
from data_loader.tabular_csv import TabularCSV


class TabularNet(BaseModel):
    """Multilayer perceptron; in regression, its output is a standardized number.

    Args:
        dataset: data set that defines the features and the classes.
        width: Units in each hidden layer.
        depth: Number of hidden layers.
        dropout: Dropout probability.
    """

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

    def forward(self, input: Tensor) -> Tensor:
        """Computes logits, shape (N, classes), or a number, shape (N, 1), from rows, (N, F)."""
        outputs: Tensor = self.layers(input)
        return outputs
