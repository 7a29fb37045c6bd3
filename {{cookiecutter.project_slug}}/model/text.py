"""Networks for sentences."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count, Fraction
from data_loader.text_csv import PADDING, TextCSV


class TextNet(BaseModel):
    """Convolution over three words, then the maximum over all positions (Kim, arXiv:1408.5882).

    Args:
        dataset: data set that defines the vocabulary and the classes.
        width: Dimension of the word embeddings, and number of convolution filters.
        dropout: Dropout probability.
    """

    def __init__(self, dataset: TextCSV, width: Count = 64, dropout: Fraction = 0.2) -> None:
        super().__init__()
        self.words = nn.Embedding(len(dataset.vocabulary), width, padding_idx=PADDING)
        self.groups = nn.Conv1d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, len(dataset.classes))

    def forward(self, input: Tensor) -> Tensor:
        """Computes logits, shape (N, classes), from word indices, int64, shape (N, length)."""
        embeddings = self.words(input).transpose(1, 2)  # (N, width, length)
        features = self.groups(embeddings).relu()
        # Zero is the smallest value after ReLU, so padding does not change the maximum.
        padding = input[:, None] == PADDING
        features = torch.where(padding, 0, features)
        pooled = self.dropout(features.amax(2))
        logits: Tensor = self.head(pooled)
        return logits
