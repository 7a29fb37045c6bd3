"""A recurrent network for sequences of tokens."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count


class Reader(BaseModel):
    """A gated recurrent unit, whose largest outputs within a sequence are classified.

    Args:
        tokens: Tokens that there are, 0 (padding) among them.
        width: Units of the embedding, and of the recurrent layer.
        classes: Number of classes.
    """

    def __init__(self, tokens: Count = 10, width: Count = 32, classes: Count = 2) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, width, padding_idx=0)
        self.recurrent = nn.GRU(width, width, batch_first=True)
        self.head = nn.Linear(width, classes)

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, classes), of tokens, int64, shape (N, L), padded with 0 at the end."""
        outputs, _ = self.recurrent(self.embedding(input))
        padding = (input == 0).unsqueeze(2)
        logits: Tensor = self.head(outputs.masked_fill(padding, -torch.inf).amax(1))
        return logits
