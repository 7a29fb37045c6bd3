"""Training of classifiers: each sample belongs to one class."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset, Batch, class_labels
from base.base_trainer import BaseTrainer
from base.invalid_labels import NO_INDEX, describe_invalid_label, first_invalid_label
from logger.confusion_matrix import confusion_matrix_figure
from logger.figures import Figure
from metrics.classification import (
    ClassificationMetrics,
    mean_probabilities,
    metrics_of_predictions,
    predictions_of,
)
from metrics.worst_samples import Misclassified, worst_misclassified
from utils.errors import UserError

MAX_ANSWERS = 3  # classes that predict.py prints for an input
NO_VALUE = "-"  # in a table, for a ratio of a class without samples
MAX_NAME_CHARACTERS = 24  # of a sample's name in a figure


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
            label = int(targets[index])
            raise UserError(describe_invalid_label(dataset, split, index, label))

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = model(batch["input"])
        outputs = {"loss": self.loss(logits, batch["target"])}
        self.record_losses(logits, batch["target"])
        # Only for the steps that are logged: it takes as long as a step of a small network.
        if self.is_log_step(self.progress.step + 1):
            is_correct = logits.argmax(1) == class_labels(batch["target"])
            outputs["accuracy"] = is_correct.float().mean()
        return outputs

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor] | None:
        logits = model(batch["input"])
        self._check_classes(logits)
        loss = self.loss.unweighted
        sample_losses = loss.of_samples(logits, batch["target"])
        losses = sample_losses
        if losses is None:
            losses = loss(logits, batch["target"]).expand(len(logits))
        labels = class_labels(batch["target"])
        self.metrics.update(losses, logits, labels)
        log_probabilities = logits.float().log_softmax(1)
        self.record_samples(
            **predictions_of(sample_losses, logits, labels),
            # Probabilities of 0 in float32 can still be compared by their logarithms.
            true_log_probability=log_probabilities.gather(1, labels.unsqueeze(1)).squeeze(1),
        )
        return None  # a subclass may return scalars

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
        """The confusion matrix, and the worst samples if there are any and they are images."""
        heading = f"{self.dataset.title}: {split}, accuracy {results['accuracy'].item():.2%}"
        confusion = confusion_matrix_figure(results["confusion"], self.dataset.classes, heading)
        figures = {"confusion_matrix": confusion}
        misclassified = self._draw_misclassified(split)
        if misclassified is not None:
            figures["misclassified"] = misclassified
        return figures

    def tables(self, results: Mapping[str, Tensor]) -> dict[str, list[list[str]]]:
        """Precision, recall and F1 by class, the confusion matrix, and the worst samples."""
        title = self.dataset.title
        classes = self.dataset.classes
        ratios = [results[f"{name}_by_class"] for name in ("precision", "recall", "f1")]
        support = results["confusion"].sum(1).tolist()
        by_class = [[title, "samples", "precision", "recall", "f1"]]
        for index, name in enumerate(classes):
            row = [name, str(support[index])]
            for ratio in ratios:
                if support[index] == 0:
                    row.append(NO_VALUE)
                else:
                    row.append(f"{ratio[index].item():.4f}")
            by_class.append(row)
        confusion = [[f"{title}: true \\ predicted", *classes]]
        for name, counts in zip(classes, results["confusion"].tolist(), strict=True):
            confusion.append([name, *(str(count) for count in counts)])
        tables = {"by_class": by_class, "confusion_matrix": confusion}
        misclassified = self._list_misclassified()
        if misclassified:
            tables["misclassified"] = misclassified
        return tables

    def sample_columns(self, samples: Mapping[str, Tensor]) -> Mapping[str, Sequence[Any]]:
        """The true and the predicted class, the probability of the latter, and the loss."""
        columns = dict(super().sample_columns(samples))
        columns.pop("true_log_probability", None)
        return columns

    def sample_metrics(self, samples: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Loss, accuracy, F1, and the expected calibration error."""
        return metrics_of_predictions(samples, len(self.dataset.classes))

    def ensemble_outputs(self, outputs: Sequence[Any], members: Sequence[BaseTrainer]) -> Tensor:
        """Logits whose probabilities are the means of those of the members."""
        return mean_probabilities(outputs)

    def _misclassified(self, split: str) -> list[Misclassified]:
        """The worst samples of the last evaluation of a split."""
        samples = self.samples(split)
        if "true_log_probability" not in samples:  # a subclass evaluates in another way
            return []
        return worst_misclassified(samples)

    def _list_misclassified(self) -> list[list[str]]:
        """A table of the worst samples of the last evaluation; empty if there are none."""
        samples = self._misclassified(self.evaluated_split)
        if not samples:
            return []
        dataset = self.loaders[self.evaluated_split].dataset
        header = ["true", "predicted", "probability", "probability of true"]
        rows = [[f"{dataset.title}: misclassified", *header]]
        for sample in samples:
            rows.append(
                [
                    dataset.sample_name(sample.index),
                    dataset.classes[sample.true],
                    dataset.classes[sample.predicted],
                    f"{sample.confidence:.4f}",
                    f"{sample.true_probability:.4f}",
                ]
            )
        return rows

    def _draw_misclassified(self, split: str) -> Figure | None:
        """The worst samples of a split; None if there are none, or they are no images."""
        samples = self._misclassified(split)
        if not samples:
            return None
        loader = self.loaders[split]
        dataset = loader.dataset
        titles = []
        for sample in samples:
            name = dataset.sample_name(sample.index)
            if len(name) > MAX_NAME_CHARACTERS:  # the end of a path says more than its start
                name = f"…{name[1 - MAX_NAME_CHARACTERS :]}"
            true = dataset.classes[sample.true]
            predicted = dataset.classes[sample.predicted]
            titles.append(f"{name}\n{true}\nas {predicted} {sample.confidence:.0%}")
        batch = loader.load_batch(torch.tensor([sample.index for sample in samples]))
        return dataset.draw(batch, f"{dataset.title}: {split}, worst misclassified", titles)
