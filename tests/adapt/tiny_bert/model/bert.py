"""BERT of the library `transformers`."""

from typing import Any

from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from base.base_model import BaseModel
from config.schema import Count
from data_loader.opinions import MAX_WORDS, PADDING, Opinions


class Bert(BaseModel):
    """A small BERT that classifies sentences (Devlin et al., arXiv:1810.04805).

    To start from pretrained weights, load them in `initialize`.

    Args:
        dataset: data set that defines the vocabulary and the classes.
        width: Size of the hidden states.
        layers: Number of layers.
    """

    def __init__(self, dataset: Opinions, width: Count = 64, layers: Count = 3) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=len(dataset.vocabulary),
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=4,
            intermediate_size=4 * width,
            max_position_embeddings=MAX_WORDS,
            pad_token_id=PADDING,
            id2label=dict(enumerate(dataset.classes)),
        )
        self.bert = BertForSequenceClassification(config)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None
    ) -> Any:
        """A `SequenceClassifierOutput`: logits, shape (N, C), and with labels the loss."""
        return self.bert(input_ids=input_ids, attention_mask=attention_mask, labels=labels)
