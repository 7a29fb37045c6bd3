"""A decoder-only transformer."""

import torch
from torch import Tensor, nn

from base.base_model import BaseModel
from config.schema import Count
from data_loader.sentences import LENGTH, Sentences


class Transformer(BaseModel):
    """Predicts the next word at each position; the output layer shares the word embeddings.

    Args:
        dataset: data set that defines the vocabulary.
        width: Dimension of the embeddings.
        heads: Attention heads of a layer.
        layers: Number of layers.
    """

    mask: Tensor

    def __init__(
        self, dataset: Sentences, width: Count = 64, heads: Count = 4, layers: Count = 2
    ) -> None:
        super().__init__()
        self.words = nn.Embedding(len(dataset.vocabulary), width)
        self.positions = nn.Embedding(LENGTH, width)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, len(dataset.vocabulary), bias=False)
        self.head.weight = self.words.weight
        for embedding in (self.words, self.positions):
            nn.init.normal_(embedding.weight, std=0.02)
        self.register_buffer("mask", torch.full((LENGTH, LENGTH), -torch.inf).triu(1))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of the next words, shape (N, L, vocabulary), of words, int64, shape (N, L)."""
        length = tokens.shape[1]
        positions = torch.arange(length, device=tokens.device)
        hidden = self.words(tokens) + self.positions(positions)
        # Without `is_causal`, torch compares the values of the mask, which cannot be exported.
        hidden = self.layers(hidden, self.mask[:length, :length], is_causal=True)
        logits: Tensor = self.head(self.norm(hidden))
        return logits
