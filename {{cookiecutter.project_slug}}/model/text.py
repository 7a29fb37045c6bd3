"""Networks for sentences."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count, Fraction
from data_loader.text_csv import PADDING, TextCSV


class TextNet(BaseModel):
    """Looks for groups of three words anywhere in a sentence (Kim, arXiv:1408.5882).

    Args:
        dataset: what it is for: vocabulary, classes.
        width: Numbers that stand for a word, and groups that are looked for.
        dropout: Share of these findings that is left out in training.
    """

    def __init__(self, dataset: TextCSV, width: Count = 64, dropout: Fraction = 0.2) -> None:
        super().__init__()
        self.words = nn.Embedding(len(dataset.vocabulary), width, padding_idx=PADDING)
        self.groups = nn.Conv1d(width, width, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, len(dataset.classes))

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, classes), of the numbers of words, int64, shape (N, length)."""
        found = self.groups(self.words(input).transpose(1, 2)).relu()
        # What is found behind the end does not count, so padding changes nothing.
        found = torch.where(input[:, None] == PADDING, 0, found)
        logits: Tensor = self.head(self.dropout(found.amax(2)))
        return logits
