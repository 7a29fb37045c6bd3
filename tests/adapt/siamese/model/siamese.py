"""A network that compares two words."""

from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count
from data_loader.word_pairs import LENGTH


class Siamese(BaseModel):
    """The same encoder for both words; words with a small distance are the same.

    Args:
        letters: Number of different letters, including padding.
        width: Units of the layers.
        size: Dimension of the representation of a word.
    """

    def __init__(self, letters: Count = 27, width: Count = 64, size: Count = 32) -> None:
        super().__init__()
        self.letters = nn.Embedding(letters, width)
        self.encoder = nn.Sequential(
            nn.Conv1d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(LENGTH * width, width),
            nn.ReLU(),
            nn.Linear(width, size),
        )

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        """Distances, shape (N,), of words, int64, shape (N, 9)."""
        return nn.functional.pairwise_distance(self.encode(left), self.encode(right))

    def encode(self, words: Tensor) -> Tensor:
        """Representations, shape (N, size)."""
        representations: Tensor = self.encoder(self.letters(words).transpose(1, 2))
        return representations
