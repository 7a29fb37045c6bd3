"""Training of classifiers: each sample belongs to one class."""

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torchmetrics import MetricCollection

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from logger.metrics import classification_metrics
from logger.pictures import confusion_picture
from model.losses import cross_entropy

PICTURED = 25  # misclassified samples in a picture


class Classifier(BaseTrainer):
    """Trains a network that gives logits, shape (N, C), for ``input``, against ``target``."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits, target = model(batch["input"]), batch["target"]
        losses = cross_entropy(logits, target, self.options.label_smoothing)
        if not self.log_due:  # accuracy would cost as much as a step of a small network
            return {"loss": losses.mean()}
        return {"loss": losses.mean(), "accuracy": (logits.argmax(1) == target).float().mean()}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        logits, target = model(batch["input"]), batch["target"]
        losses = cross_entropy(logits, target)
        self.metrics.update(value=losses, preds=logits, target=target)

    def build_metrics(self) -> MetricCollection:
        return classification_metrics(len(self.dataset.classes))

    def pictures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        heading = f"{self.dataset.title}: {split}, accuracy {results['accuracy'].item():.2%}"
        picture = confusion_picture(results["confusion"], self.dataset.classes, heading)
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
        return {
            "by_class": [[title, *columns], *cells],
            "confusion_matrix": [[f"{title}: true \\ predicted", *classes], *counts],
        }

    def _draw_misclassified(self, split: str) -> dict[str, Figure]:
        """The first samples of a split that the model takes for another class."""
        loader, classes, found = self.loaders[split], self.dataset.classes, []
        titles: list[str] = []
        for (batch,) in loader.steps(0, loader.steps_per_epoch):
            guesses = self.predict(batch).argmax(1)
            wrong = (guesses != batch["target"]).nonzero().squeeze(1)[: PICTURED - len(titles)]
            found.append({name: value[wrong] for name, value in batch.items()})
            pairs = zip(batch["target"][wrong], guesses[wrong], strict=True)
            titles += [f"{classes[target]}\nnot {classes[guess]}" for target, guess in pairs]
            if len(titles) == PICTURED:
                break
        samples = {name: torch.cat([part[name] for part in found]) for name in found[0]}
        heading = f"{self.dataset.title}: {split}, misclassified"
        figure = self.dataset.draw(samples, heading, titles) if titles else None
        return {} if figure is None else {"misclassified": figure}
