"""Training of embeddings: the views of an image come together, those of others go apart."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from base.base_dataset import Batch
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer, Loaders
from config.schema import Positive, Settings
from metrics.protocol import Metric


class Contrastive(BaseTrainer):
    """NT-Xent (Chen et al., arXiv:2002.05709). Classes serve to evaluate alone.

    Args:
        temperature: What similarities are divided by.
    """

    def __init__(
        self,
        settings: Settings,
        model: BaseModel,
        loaders: Loaders,
        run: Path,
        temperature: Positive = 0.2,
    ) -> None:
        self.temperature = temperature
        super().__init__(settings, model, loaders, run)

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        views = torch.cat([batch["input"], batch["other"]])
        embeddings, count = normalize(model(views).float()), len(views)
        similar = (embeddings @ embeddings.T / self.temperature).fill_diagonal_(-torch.inf)
        twins = (torch.arange(count, device=self.device) + count // 2) % count
        return {"loss": cross_entropy(similar, twins)}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        self.metrics.update(normalize(model(batch["input"]).float()), batch["target"])

    def configure_metrics(self) -> Metric:
        return Neighbours()

    def higher_is_better(self, name: str) -> bool:
        return True


class Neighbours(nn.Module):
    """How often the most similar other sample is of the same class."""

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Forgets all samples."""
        self.embeddings: list[Tensor] = []
        self.targets: list[Tensor] = []

    def update(self, embeddings: Tensor, targets: Tensor) -> None:
        """Takes account of a batch: shapes (N, D), of length 1, and (N,)."""
        self.embeddings.append(embeddings)
        self.targets.append(targets)

    def compute(self) -> dict[str, Tensor]:
        """The share, ``same``."""
        embeddings, targets = torch.cat(self.embeddings), torch.cat(self.targets)
        nearest = (embeddings @ embeddings.T).fill_diagonal_(-torch.inf).argmax(1)
        return {"same": (targets[nearest] == targets).float().mean()}
