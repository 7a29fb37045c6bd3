"""Your model."""

from torch import Tensor, nn

from base.base_dataset import BaseDataset
from base.base_model import BaseModel


class MyModel(BaseModel):
    """One hidden layer.

    Args:
        dataset: says how many numbers go in, and how many classes come out.
        width: units in the hidden layer.
    """

    def __init__(self, dataset: BaseDataset, width: int = 32) -> None:
        super().__init__()
        self.hidden = nn.Linear(dataset.example.shape[1], width)
        self.head = nn.Linear(width, len(dataset.classes))

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, C), of inputs, float32, shape (N, D)."""
        logits: Tensor = self.head(self.hidden(input).relu())
        return logits
