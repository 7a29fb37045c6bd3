"""Metrics that stay on the device until they are read."""

from torchmetrics import MeanMetric, MetricCollection, classification


def classification_metrics(classes: int) -> MetricCollection:
    """Metrics of a classifier, updated with ``value`` (losses), ``preds`` and ``target``.

    `loss`, `accuracy` and `f1` (mean over the classes) are scalars; ``*_by_class`` have one value
    a class, shape (C,); `confusion` counts samples by true (row) and predicted (column) class,
    shape (C, C).
    """
    metrics = {
        "accuracy": classification.MulticlassAccuracy(classes, average="micro"),
        "f1": classification.MulticlassF1Score(classes, average="macro"),
        "precision_by_class": classification.MulticlassPrecision(classes, average=None),
        "recall_by_class": classification.MulticlassRecall(classes, average=None),
        "f1_by_class": classification.MulticlassF1Score(classes, average=None),
        "confusion": classification.MulticlassConfusionMatrix(classes),
    }
    return MetricCollection({"loss": MeanMetric(), **metrics})
