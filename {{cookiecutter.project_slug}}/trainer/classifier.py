"""Training of classifiers: each sample belongs to one class."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from base.base_dataset import BaseDataset, Batch, class_labels
from base.base_trainer import BaseTrainer
from base.invalid_labels import NO_INDEX, describe_invalid_label, first_invalid_label
from logger.figures import Figure, confusion_matrix_figure
from metrics.classification import ClassificationMetrics
from utils.errors import UserError

MAX_ANSWERS = 3  # classes that predict.py prints for an input
MAX_MISCLASSIFIED = 25  # samples in the figure of misclassified samples


class Classifier(BaseTrainer):
    """Trains a network that computes logits, shape (N, C), from ``input``, by `loss.name`.

    The ``target`` is a class, int64, shape (N,), or class probabilities, float32, shape (N, C).
    """

    default_loss = "cross_entropy"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for split, loader in self.loaders.items():
            self._check_labels(split, loader.dataset)

    def _check_labels(self, split: str, dataset: BaseDataset) -> None:
        """Raises a UserError if one of the `targets` of a data set is not a class."""
        targets = getattr(dataset, "targets", None)
        if targets is None:
            return
        ignored = self.settings.loss.arguments.get("ignore_index", NO_INDEX)
        index = first_invalid_label(targets, len(dataset.classes), ignored)
        if index is not None:
            raise UserError(describe_invalid_label(dataset, split, index, int(targets[index])))

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch["input"])
        outputs = {"loss": self.loss(logits, batch["target"])}
        # Only for the steps that are logged: it takes as long as a step of a small network.
        if self.is_log_step(self.progress.step + 1):
            is_correct = logits.argmax(1) == class_labels(batch["target"])
            outputs["accuracy"] = is_correct.float().mean()
        return outputs

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        logits = model(batch["input"])
        self._check_classes(logits)
        losses = self.loss.unweighted(logits, batch["target"], reduction="none")
        self.metrics.update(losses, logits, class_labels(batch["target"]))

    def _check_classes(self, logits: Tensor) -> None:
        classes = len(self.dataset.classes)
        if logits.shape[1:] == (classes,):
            return
        message = f"the model computes {tuple(logits.shape[1:])} for an input, but there are "
        message += f"{classes} classes"
        if classes == 0:
            message += "; a classifier needs data with classes"
        raise UserError(message)

    def configure_metrics(self) -> ClassificationMetrics:
        return ClassificationMetrics(len(self.dataset.classes))

    def describe(self, outputs: Tensor) -> list[list[dict[str, Any]]]:
        """The most probable classes of each sample, with their probabilities."""
        answers = min(MAX_ANSWERS, outputs.shape[1])
        probabilities, indices = outputs.softmax(1).topk(answers)
        described = []
        for sample_indices, sample_probabilities in zip(indices, probabilities, strict=True):
            ranking = []
            for index, probability in zip(sample_indices, sample_probabilities, strict=True):
                name = self.dataset.classes[int(index)]
                ranking.append({"class": name, "probability": probability.item()})
            described.append(ranking)
        return described

    def figures(self, split: str, results: Mapping[str, Tensor]) -> dict[str, Figure]:
        """The confusion matrix, and misclassified samples if there are any."""
        heading = f"{self.dataset.title}: {split}, accuracy {results['accuracy'].item():.2%}"
        confusion = confusion_matrix_figure(results["confusion"], self.dataset.classes, heading)
        figures = {"confusion_matrix": confusion}
        misclassified = self._draw_misclassified(split)
        if misclassified is not None:
            figures["misclassified"] = misclassified
        return figures

    def tables(self, results: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
        """Precision, recall and F1 by class, and the confusion matrix."""
        title = self.dataset.title
        classes = self.dataset.classes
        by_class = [[title, "precision", "recall", "f1"]]
        for index, name in enumerate(classes):
            row = [name]
            for metric in ("precision", "recall", "f1"):
                row.append(f"{results[f'{metric}_by_class'][index].item():.4f}")
            by_class.append(row)
        confusion = [[f"{title}: true \\ predicted", *classes]]
        for name, counts in zip(classes, results["confusion"].tolist(), strict=True):
            confusion.append([name, *(str(count) for count in counts)])
        return {"by_class": by_class, "confusion_matrix": confusion}

    def _draw_misclassified(self, split: str) -> Figure | None:
        """The first misclassified samples of a random batch; None without any."""
        loader = self.loaders[split]
        dataset = loader.dataset
        batch = loader.sample_batch(loader.step_size)
        predicted = self.predict(batch).argmax(1)
        true = class_labels(batch["target"])
        wrong = (predicted != true).nonzero().squeeze(1)[:MAX_MISCLASSIFIED]
        if len(wrong) == 0:
            return None
        titles = []
        for index in wrong.tolist():
            true_name = dataset.classes[int(true[index])]
            predicted_name = dataset.classes[int(predicted[index])]
            titles.append(f"{true_name}\nas {predicted_name}")
        samples = {name: value[wrong] for name, value in batch.items()}
        return dataset.draw(samples, f"{dataset.title}: {split}, misclassified", titles)
