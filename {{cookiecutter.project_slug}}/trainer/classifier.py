"""Training of classifiers: each sample belongs to one class."""

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import Batch, labels
from base.base_trainer import BaseTrainer
from config.schema import Fraction
from logger.figures import Figure, confusion_matrix_figure
from metrics.classification import ClassificationMetrics
from model.losses import cross_entropy
from utils.errors import UserError


class Classifier(BaseTrainer):
    """Trains a network that gives logits, shape (N, C), for ``input``, against ``target``.

    Targets are classes, int64, shape (N,), or shares of the classes, floats, shape (N, C).

    Args:
        label_smoothing: Probability that is distributed uniformly over all classes in the target.
        balanced: Weight samples by the inverse frequency of their class.
    """

    def __init__(
        self, *, label_smoothing: Fraction = 0.0, balanced: bool = False, **kwargs: Any
    ) -> None:
        self.label_smoothing = label_smoothing
        self.balanced = balanced
        super().__init__(**kwargs)

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, target = model(batch["input"]), batch["target"]
        if self.balanced:
            losses = cross_entropy(logits, target, self.label_smoothing)
            loss = (losses * self.class_weights[labels(target)]).mean()
        else:
            loss = cross_entropy(logits, target, self.label_smoothing, "mean")
        if not self.log_due:  # accuracy would cost as much as a step of a small network
            return {"loss": loss}
        return {"loss": loss, "accuracy": (logits.argmax(1) == labels(target)).float().mean()}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        logits, target = model(batch["input"]), batch["target"]
        if (shape := tuple(logits.shape[1:])) != (count := len(self.dataset.classes),):
            hint = "" if count else "; a classifier is not for data that have none"
            text = f"the model gives {shape} for an input, but there are {count} classes"
            raise UserError(text + hint)
        self.metrics.update(cross_entropy(logits, target), logits, labels(target))

    @cached_property
    def class_weights(self) -> Tensor:
        """What a sample of each class counts for, by how rare it is; 1 in the mean over samples."""
        if (targets := getattr(self.dataset, "targets", None)) is None:
            raise UserError(f"trainer.balanced: {self.dataset.title} has no attribute `targets`")
        counts = torch.bincount(labels(targets), minlength=len(self.dataset.classes))
        return (len(targets) / (counts * (counts > 0).sum()).clamp(min=1)).to(self.device)

    def configure_metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(len(self.dataset.classes))

    def describe(self, outputs: Tensor) -> list[list[dict[str, str | float]]]:
        """The three most probable classes."""
        best, classes = outputs.softmax(1).topk(min(3, outputs.shape[1])), self.dataset.classes
        return [
            [{"class": classes[k], "probability": p} for k, p in zip(*ranked, strict=True)]
            for ranked in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        heading = f"{self.dataset.title}: {split}, accuracy {results['accuracy'].item():.2%}"
        picture = confusion_matrix_figure(results["confusion"], self.dataset.classes, heading)
        return {"confusion_matrix": picture, **self._draw_misclassified(split)}

    def tables(self, results: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
        columns, classes = ("precision", "recall", "f1"), self.dataset.classes
        values = torch.stack([results[f"{name}_by_class"] for name in columns], dim=1).tolist()
        cells = [
            [name, *(f"{v:.4f}" for v in row)] for name, row in zip(classes, values, strict=True)
        ]
        confusion = zip(classes, results["confusion"].tolist(), strict=True)
        counts = [[name, *map(str, row)] for name, row in confusion]
        title = self.dataset.title
        confusions = [[f"{title}: true \\ predicted", *classes], *counts]
        return {"by_class": [[title, *columns], *cells], "confusion_matrix": confusions}

    def _draw_misclassified(self, split: str) -> dict[str, Figure]:
        """Samples that the model takes for another class, from as many as a batch has."""
        loader = self.loaders[split]
        dataset, batch = loader.dataset, loader.sample_batch(loader.size)
        guesses, true = self.predict(batch).argmax(1), labels(batch["target"])
        wrong = (guesses != true).nonzero().squeeze(1)[:25]
        pairs = zip(true[wrong], guesses[wrong], strict=True)
        titles = [f"{dataset.classes[t]}\nas {dataset.classes[g]}" for t, g in pairs]
        samples = {name: value[wrong] for name, value in batch.items()}
        figure = dataset.draw(samples, f"{dataset.title}: {split}, misclassified", titles)
        return {"misclassified": figure} if titles and figure else {}
