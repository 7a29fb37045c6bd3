"""Your trainer: what a training step and an evaluation step compute."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from metrics.classification import (
    ClassificationMetrics,
    mean_probabilities,
    metrics_of_predictions,
    predictions_of,
)


class MyTrainer(BaseTrainer):
    """Trains by the cross entropy of logits, shape (N, C), and classes, int64, shape (N,)."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch["input"])
        return {"loss": functional.cross_entropy(logits, batch["target"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        logits = model(batch["input"])
        losses = functional.cross_entropy(logits, batch["target"], reduction="none")
        self.metrics.update(losses, logits, batch["target"])
        self.record_samples(**predictions_of(losses, logits, batch["target"]))

    def sample_metrics(self, samples: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The metrics for which evaluate.py computes confidence intervals."""
        return metrics_of_predictions(samples, len(self.dataset.classes))

    def ensemble_outputs(self, outputs: Sequence[Any], members: Sequence[BaseTrainer]) -> Tensor:
        """What evaluate.py evaluates if it gets several runs."""
        return mean_probabilities(outputs)

    def configure_metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(len(self.dataset.classes))

    def describe(self, outputs: Tensor) -> list[list[dict[str, Any]]]:
        """The most probable class of each sample."""
        described = []
        for index in outputs.argmax(1).tolist():
            described.append([{"class": self.dataset.classes[index]}])
        return described
