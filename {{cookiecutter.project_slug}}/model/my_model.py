"""Your model."""

from torch import Tensor, nn

from base.base_dataset import BaseDataset
from base.base_model import BaseModel


class MyModel(BaseModel):
    """Multilayer perceptron with one hidden layer.

    Args:
        dataset: data set that defines the number of inputs and of classes.
        width: Units in the hidden layer.
    """

    def __init__(self, dataset: BaseDataset, width: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(dataset.example.shape[1], width)
        self.head = nn.Linear(width, len(dataset.classes))

    def forward(self, input: Tensor) -> Tensor:
        """Computes logits, shape (N, C), from inputs, float32, shape (N, D)."""
        features = self.hidden(input).relu()
        logits: Tensor = self.head(features)
        return logits
