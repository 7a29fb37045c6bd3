"""Contrastive training: two views of an image get similar embeddings."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from config.schema import Positive
from metrics.protocol import Metric


class Contrastive(BaseTrainer):
    """Trains with the loss NT-Xent (Chen et al., arXiv:2002.05709); only evaluation uses classes.

    Args:
        temperature: divisor of the similarities.
    """

    def __init__(self, temperature: Positive = 0.2, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = temperature

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        views = torch.cat([batch["input"], batch["other"]])
        embeddings = normalize(model(views).float())
        similarities = embeddings @ embeddings.T / self.temperature
        similarities.fill_diagonal_(-torch.inf)
        count = len(views)
        other_views = (torch.arange(count, device=self.device) + count // 2) % count
        return {"loss": cross_entropy(similarities, other_views)}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        self.metrics.update(normalize(model(batch["input"]).float()), batch["target"])

    def configure_metrics(self) -> Metric:
        return NeighbourAccuracy()


class NeighbourAccuracy(nn.Module):
    """The fraction of samples whose most similar other sample has the same class: ``same``."""

    higher_is_better: ClassVar = {"same": True}

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Discards all samples."""
        self.embeddings: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, embeddings: Tensor, targets: Tensor) -> None:
        """Adds a batch: embeddings of length 1, shape (N, D), and classes, shape (N,)."""
        self.embeddings.append(embeddings)
        self.targets.append(targets)

    def compute(self) -> dict[str, Tensor]:
        """Returns the fraction."""
        embeddings = torch.cat(self.embeddings)
        targets = torch.cat(self.targets)
        similarities = (embeddings @ embeddings.T).fill_diagonal_(-torch.inf)
        nearest = similarities.argmax(1)
        return {"same": (targets[nearest] == targets).float().mean()}
