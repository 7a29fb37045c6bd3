"""Metrics: the same numbers as torchmetrics gives."""
# ruff: noqa: D103  the names of the tests say what they test

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection, classification

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from logger.console import format_values
from logger.figures import confusion_matrix_figure, image_grid
from logger.meter import Meter
from metrics.classification import ClassificationMetrics
from model.losses import cross_entropy
from sanity_check import check_trainer
from trainer.classifier import Classifier
from utils.errors import UserError


def test_metrics_of_classes_are_those_of_torchmetrics() -> None:
    draws = torch.Generator().manual_seed(0)
    own = ClassificationMetrics(7)
    theirs = {
        "accuracy": classification.MulticlassAccuracy(7, average="micro"),
        "f1": classification.MulticlassF1Score(7, average="macro"),
        "precision_by_class": classification.MulticlassPrecision(7, average=None),
        "recall_by_class": classification.MulticlassRecall(7, average=None),
        "f1_by_class": classification.MulticlassF1Score(7, average=None),
        "confusion": classification.MulticlassConfusionMatrix(7),
    }
    losses = []
    for size in (64, 64, 5):
        logits = torch.randn(size, 7, generator=draws)
        logits[:, 5] -= 9  # never guessed
        logits[:, 6] -= 9  # neither guessed nor there
        target = torch.randint(6, (size,), generator=draws)
        losses.append(torch.rand(size, generator=draws))
        own.update(losses[-1], logits, target)
        for metric in theirs.values():
            metric.update(logits, target)
    found = own.compute()
    assert found.keys() == {"loss", *theirs}
    torch.testing.assert_close(found["loss"], torch.cat(losses).mean())
    for name, metric in theirs.items():
        torch.testing.assert_close(found[name], metric.compute(), msg=name)
    own.reset()
    own.update(losses[-1], logits, target)
    assert own.compute()["confusion"].sum() == 5


class WithTorchmetrics(BaseTrainer):
    """As a project would use metrics that are there already."""

    def configure_metrics(self) -> MetricCollection:
        top2 = classification.MulticlassAccuracy(10, top_k=2)
        return MetricCollection({"loss": MeanMetric(), "top2": top2})

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": cross_entropy(model(batch["input"]), batch["target"]).mean()}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        logits, target = model(batch["input"]), batch["target"]
        self.metrics.update(value=cross_entropy(logits, target), preds=logits, target=target)


def test_metrics_of_torchmetrics_can_be_used_and_watched(
    make_trainer: Callable[..., Any], logged: Callable[..., list[float]]
) -> None:
    trainer = make_trainer("checkpoint.monitor=top2", kind=WithTorchmetrics)
    assert trainer.higher_is_better("top2")
    assert not trainer.higher_is_better("loss")
    trainer.fit()
    best = max(logged(trainer.run, "validation", "top2"))
    assert trainer.best == pytest.approx(best)


class Calibrated(Classifier):
    """A classifier whose metrics are torchmetrics' alone, which its tables are not made for."""

    def configure_metrics(self) -> Any:
        ece = classification.MulticlassCalibrationError(10)
        return MetricCollection({"ece": ece, "accuracy": classification.MulticlassAccuracy(10)})

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        self.metrics.update(model(batch["input"]).softmax(1), batch["target"])


def test_metrics_say_themselves_whether_more_is_better(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer()
    higher = [name for name in ("loss", "accuracy", "f1") if trainer.higher_is_better(name)]
    assert higher == ["accuracy", "f1"]
    trainer = make_trainer(kind=Calibrated)
    assert trainer.higher_is_better("accuracy")
    assert not trainer.higher_is_better("ece")


class MeanLoss:
    """Metrics that do not say whether more is better."""

    def reset(self) -> None:
        self.losses: list[Tensor] = []

    def update(self, losses: Tensor, logits: Tensor, target: Tensor) -> None:
        self.losses.append(losses)

    def compute(self) -> dict[str, Tensor]:
        return {"loss": torch.cat(self.losses).mean()}

    def to(self, device: torch.device) -> "MeanLoss":
        self.reset()
        return self


class Plain(Classifier):
    """A classifier with metrics that are not its own, either."""

    def configure_metrics(self) -> Any:
        return MeanLoss()


@pytest.mark.parametrize(
    ("kind", "monitor", "said"),
    [
        (Calibrated, "ece", r"KeyError: 'precision_by_class' \(.*classifier\.py, line"),
        (Plain, "loss", r"TypeError: 'MeanLoss' object .*base_trainer\.py, line"),
    ],
)
def test_metrics_that_a_trainer_cannot_do_with_are_told_before_training(
    make_trainer: Callable[..., Any], kind: type[Classifier], monitor: str, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        check_trainer(make_trainer(f"checkpoint.monitor={monitor}", kind=kind))


def test_values_in_a_line_are_of_four_digits() -> None:
    values = {"loss": 0.5, "accuracy": 1.0, "samples": 1234.0}
    assert format_values(values) == "loss 0.5000  accuracy 1.000  samples 1234"


def test_what_is_logged_is_what_a_value_was_when_it_was_added() -> None:
    meter, temperature = Meter(), torch.tensor(1.0)
    for _ in range(3):
        meter.add({"temperature": temperature})
        temperature += 1  # as an optimizer would, in place
    assert meter.read() == {"temperature": 2.0}
    assert meter.read() == {}


def test_a_step_counts_the_same_when_the_number_of_processes_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parts, whole = (Meter(), Meter()), Meter()
    monkeypatch.setattr("logger.meter.WORLD", 2)
    for part, loss, share in zip(parts, (1.0, 4.0), (4 / 3, 2 / 3), strict=True):
        part.add({"loss": torch.tensor(loss)}, share)  # of three samples, two and one
    monkeypatch.setattr("logger.meter.WORLD", 1)
    for part in parts:
        whole.take(part.sums, part.counts)
    whole.add({"loss": torch.tensor(5.0)})
    assert whole.read() == {"loss": pytest.approx((2 + 5) / 2)}


def test_a_picture_of_many_classes_stays_small() -> None:
    for classes, texts in ((30, 900), (400, 0)):
        names = [f"class {k}" for k in range(classes)]
        figure = confusion_matrix_figure(torch.eye(classes, dtype=torch.int64), names, "many")
        assert len(figure.axes[0].texts) == texts
        assert max(figure.get_size_inches()) < 30


def test_a_picture_of_images_has_the_rows_that_it_needs() -> None:
    heights = []
    for count, places in ((16, 4), (17, 4), (21, 5), (25, 5)):
        figure = image_grid(torch.rand(count, 1, 8, 8), ["name"] * count, "images")
        bottom, top = figure.axes[0].get_ylim()
        assert bottom == pytest.approx(1.4 * 8 * places)
        assert top == 0
        assert max(image.get_extent()[2] for image in figure.axes[0].images) <= bottom
        heights.append(figure.get_size_inches()[1])
    assert heights == [pytest.approx(1.8 * places + 0.4) for places in (4, 4, 5, 5)]


def test_class_names_in_signs_that_no_font_has_are_told_of_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from matplotlib import font_manager

    monkeypatch.setattr(font_manager, "get_font_names", lambda: ["DejaVu Sans"])
    with warnings.catch_warnings(action="error"):
        for names in (["배송", "환불"], ["é", "ß"]):
            confusion_matrix_figure(torch.eye(2), names, "한글").savefig(tmp_path / "x.png")
    (record,) = caplog.records
    assert "install Noto Sans CJK" in record.message
