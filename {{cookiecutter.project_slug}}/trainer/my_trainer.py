"""Your trainer: what a training step and an evaluation step compute."""

from torch import Tensor, nn
from torch.nn import functional

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from metrics.classification import ClassificationMetrics


class MyTrainer(BaseTrainer):
    """Trains by the cross entropy of logits, shape (N, C), and classes, int64, shape (N,)."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": functional.cross_entropy(model(batch["input"]), batch["target"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        logits, target = model(batch["input"]), batch["target"]
        losses = functional.cross_entropy(logits, target, reduction="none")
        self.metrics.update(losses, logits, target)

    def configure_metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(len(self.dataset.classes))

    def describe(self, outputs: Tensor) -> list[list[dict[str, str]]]:
        """The most probable class."""
        return [[{"class": self.dataset.classes[k]}] for k in outputs.argmax(1).tolist()]
