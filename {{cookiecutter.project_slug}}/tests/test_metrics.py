"""Metrics: the same numbers as torchmetrics, their protocol, and the means of a meter."""
# ruff: noqa: D103  the names of the tests say what they test

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, MetricCollection, classification
from torchmetrics import Metric as TorchMetric
from torchmetrics.wrappers import ClasswiseWrapper

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from logger.meter import Meter
from metrics.average import MeanLoss
from metrics.classification import ClassificationMetrics, metrics_of_predictions, predictions_of
from metrics.protocol import higher_is_better, scalar_results
from metrics.sample_values import SampleValues
from metrics.worst_samples import worst_misclassified
from model.losses import cross_entropy
from sanity_check import check_trainer
from trainer.classifier import Classifier
from utils.errors import UserError

BETTER = {"loss": False, "accuracy": True, "f1": True}


def test_classification_metrics_agree_with_torchmetrics() -> None:
    rng = torch.Generator().manual_seed(0)
    ours = ClassificationMetrics(7)
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
        logits = torch.randn(size, 7, generator=rng)
        logits[:, 5] -= 9  # never predicted
        logits[:, 6] -= 9  # neither predicted nor a target
        target = torch.randint(6, (size,), generator=rng)
        losses.append(torch.rand(size, generator=rng))
        ours.update(losses[-1], logits, target)
        for metric in theirs.values():
            metric.update(logits, target)
    results = ours.compute()
    assert results.keys() == {"loss", *theirs}
    torch.testing.assert_close(results["loss"], torch.cat(losses).mean())
    for name, metric in theirs.items():
        torch.testing.assert_close(results[name], metric.compute(), msg=name)
    ours.reset()
    ours.update(losses[-1], logits, target)
    assert ours.compute()["confusion"].sum() == 5


@pytest.mark.parametrize("classes", [2, 10])
def test_the_calibration_error_is_that_of_torchmetrics(classes: int) -> None:
    rng = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(1000, classes, generator=rng)
    target = torch.randint(classes, (1000,), generator=rng)
    theirs = classification.MulticlassCalibrationError(classes, n_bins=15)
    expected = theirs(logits.softmax(1), target)
    samples = predictions_of(None, logits, target)
    assert "loss" not in samples
    metrics = metrics_of_predictions(samples, classes)
    assert metrics["ece"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_worst_samples_of_all_batches_are_kept() -> None:
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(100, 3, generator=rng)
    logits[7] = torch.tensor([0.0, 500.0, 0.0])  # the probability of its class is 0 in float32
    target = torch.randint(3, (100,), generator=rng)
    target[7] = 2
    log_probabilities = logits.log_softmax(1)
    highest, predicted = log_probabilities.exp().max(1)
    values = {
        "true": target,
        "predicted": predicted,
        "probability": highest,
        "true_log_probability": log_probabilities[torch.arange(100), target],
    }

    def record(rows: Tensor) -> dict[str, Tensor]:
        collected = SampleValues()
        for indices in rows.split(30):
            collected.update(indices, {name: value[indices] for name, value in values.items()})
        return collected.compute()

    found = worst_misclassified(record(torch.randperm(100, generator=rng)))

    of_target = values["true_log_probability"]
    wrong = (predicted != target).nonzero().squeeze(1)
    worst = wrong[of_target[wrong].argsort()][:25].tolist()
    assert worst[0] == 7
    assert [sample.index for sample in found] == worst
    assert [sample.true for sample in found] == target[worst].tolist()
    assert [sample.predicted for sample in found] == predicted[worst].tolist()
    assert [sample.confidence for sample in found] == pytest.approx(highest[worst].tolist())

    correct = (predicted == target).nonzero().squeeze(1)
    assert worst_misclassified(record(correct)) == []


def test_the_mean_f1_is_that_of_the_classes_with_samples() -> None:
    metrics = ClassificationMetrics(3)
    target = torch.tensor([0, 0, 1, 1])
    predicted = torch.tensor([0, 2, 1, 1])  # class 2 has no samples, but is predicted
    metrics.update(torch.ones(4), torch.eye(3)[predicted], target)
    assert metrics.compute()["f1"].item() == pytest.approx((2 / 3 + 1) / 2)


def test_the_state_of_classification_metrics_is_not_part_of_a_checkpoint() -> None:
    assert ClassificationMetrics(3).state_dict() == {}


# The protocol


def test_scalar_results_are_those_with_one_value() -> None:
    results = {"loss": torch.tensor(0.5), "samples": torch.tensor([7]), "f1": torch.rand(3)}
    assert scalar_results(results) == {"loss": 0.5, "samples": 7}
    assert math.isnan(scalar_results({"loss": torch.tensor(math.nan)})["loss"])


def test_our_metrics_state_a_direction_for_each_scalar() -> None:
    metrics = ClassificationMetrics(3)
    metrics.update(torch.rand(3), torch.eye(3), torch.arange(3))
    scalars = scalar_results(metrics.compute())
    assert {name: higher_is_better(metrics, name) for name in scalars} == BETTER
    assert higher_is_better(metrics, "unknown") is None


def test_a_subclass_can_state_further_directions() -> None:
    class WithCalibration(ClassificationMetrics):
        higher_is_better = {**ClassificationMetrics.higher_is_better, "ece": False}  # noqa: RUF012

    assert higher_is_better(WithCalibration(3), "ece") is False
    assert higher_is_better(WithCalibration(3), "accuracy") is True


def test_a_collection_of_torchmetrics_is_asked_per_metric() -> None:
    accuracy = classification.MulticlassAccuracy(3)
    ece = classification.MulticlassCalibrationError(3)
    collection = MetricCollection({"accuracy": accuracy, "ece": ece, "loss": MeanMetric()})
    assert higher_is_better(collection, "accuracy") is True
    assert higher_is_better(collection, "ece") is False
    assert higher_is_better(collection, "loss") is None  # a mean of any values
    assert higher_is_better(collection, "unknown") is None


def test_a_collection_uses_the_names_of_its_results() -> None:
    collection = MetricCollection({"top1": classification.MulticlassAccuracy(3)}, prefix="val_")
    collection.update(torch.eye(3), torch.arange(3))
    assert list(collection.compute()) == ["val_top1"]
    assert higher_is_better(collection, "val_top1") is True
    assert higher_is_better(collection, "top1") is None


def test_a_single_metric_of_torchmetrics_states_its_direction() -> None:
    accuracy = classification.MulticlassAccuracy(3)
    assert higher_is_better(accuracy, "accuracy") is True
    assert higher_is_better(classification.MulticlassCalibrationError(3), "ece") is False
    assert higher_is_better(MeanMetric(), "loss") is None
    accuracy.update(torch.eye(3), torch.arange(3))
    accuracy.compute()
    assert higher_is_better(accuracy, "accuracy") is True


class TopAndBottom(TorchMetric):
    """A metric of torchmetrics with two results."""

    higher_is_better = True

    def update(self, values: Tensor) -> None:
        self.values = values

    def compute(self) -> dict[str, Tensor]:
        return {"top": self.values.max(), "bottom": self.values.min()}


def test_a_direction_that_a_metric_states_holds_for_all_of_its_results() -> None:
    two_results: Any = TopAndBottom()
    assert higher_is_better(two_results, "top") is True
    assert higher_is_better(two_results, "bottom") is True


def test_the_direction_of_a_result_with_another_name_than_its_metric_is_unknown() -> None:
    by_class: Any = ClasswiseWrapper(classification.MulticlassAccuracy(3, average=None))
    metrics = MetricCollection({"by_class": by_class})
    metrics.update(torch.eye(3), torch.arange(3))
    name = "multiclassaccuracy_0"
    assert name in metrics.compute()
    assert higher_is_better(metrics, name) is None


# Metrics in trainers


class WithTorchmetrics(BaseTrainer):
    """A trainer of a project that uses metrics of torchmetrics."""

    def configure_metrics(self) -> MetricCollection:
        top2 = classification.MulticlassAccuracy(10, top_k=2)
        return MetricCollection({"mean": MeanMetric(), "top2": top2})

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": cross_entropy(model(batch["input"]), batch["target"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        logits = model(batch["input"])
        target = batch["target"]
        self.metrics.update(
            value=cross_entropy(logits, target, reduction="none"), preds=logits, target=target
        )


def test_metrics_of_torchmetrics_can_be_monitored(
    make_trainer: Callable[..., Any], logged: Callable[..., list[float]]
) -> None:
    trainer = make_trainer("checkpoint.monitor=top2", kind=WithTorchmetrics)
    assert trainer.higher_is_better("top2")
    trainer.fit()
    best = max(logged(trainer.run, "validation", "top2"))
    assert trainer.progress.best == pytest.approx(best)


class Calibrated(Classifier):
    """A classifier with metrics of torchmetrics, without those that its tables need."""

    def configure_metrics(self) -> Any:
        ece = classification.MulticlassCalibrationError(10)
        return MetricCollection({"ece": ece, "accuracy": classification.MulticlassAccuracy(10)})

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        self.metrics.update(model(batch["input"]).softmax(1), batch["target"])


def test_a_trainer_asks_its_metrics_for_the_direction(make_trainer: Callable[..., Any]) -> None:
    trainer = make_trainer()
    assert {name: trainer.higher_is_better(name) for name in BETTER} == BETTER
    trainer = make_trainer(kind=Calibrated)
    assert trainer.higher_is_better("accuracy")
    assert not trainer.higher_is_better("ece")


class Undirected:
    """Metrics that do not state a direction."""

    def reset(self) -> None:
        self.losses: list[Tensor] = []

    def update(self, losses: Tensor, logits: Tensor, target: Tensor) -> None:
        self.losses.append(losses)

    def compute(self) -> dict[str, Tensor]:
        return {"mean": torch.cat(self.losses).mean()}

    def to(self, device: torch.device) -> "Undirected":
        self.reset()
        return self


class Plain(Classifier):
    """A classifier with metrics that its tables do not know."""

    def configure_metrics(self) -> Any:
        return Undirected()


@pytest.mark.parametrize(
    ("kind", "monitor", "message"),
    [
        (Calibrated, "ece", r"KeyError: 'precision_by_class' \(.*classifier\.py, line"),
        (Plain, "mean", r"checkpoint\.monitor = 'mean'.*checkpoint\.mode=max"),
    ],
)
def test_unsuitable_metrics_are_reported_before_training(
    make_trainer: Callable[..., Any], kind: type[Classifier], monitor: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        check_trainer(make_trainer(f"checkpoint.monitor={monitor}", kind=kind))


def test_a_meter_keeps_the_values_at_the_time_of_adding() -> None:
    meter = Meter()
    temperature = torch.tensor(1.0)
    for _ in range(3):
        meter.add({"temperature": temperature}, samples=5)
        temperature += 1  # in place, as an optimizer does
    assert meter.read() == {"temperature": 2.0}
    assert meter.read() == {}


def test_a_meter_restores_the_sums_of_any_number_of_processes() -> None:
    first = Meter()
    second = Meter()
    first.add({"loss": torch.tensor(1.0)}, samples=2)
    second.add({"loss": torch.tensor(4.0)}, samples=1)
    merged = Meter()
    merged.load_rank_states([first.state_dict(), second.state_dict()])
    merged.add({"loss": torch.tensor(5.0)}, samples=3)
    assert merged.read() == {"loss": pytest.approx((2 * 1 + 4 + 3 * 5) / 6)}


def test_values_of_no_samples_do_not_count() -> None:
    meter = Meter()
    meter.add({"loss": torch.tensor(torch.nan)}, samples=0)
    meter.add({"loss": torch.tensor(2.0)}, samples=4)
    assert meter.read() == {"loss": 2.0}


def test_the_mean_loss_is_over_samples_and_lower_is_better() -> None:
    metric = MeanLoss()
    metric.update(torch.tensor([1.0, 2.0, 3.0]))
    metric.update(torch.tensor([6.0]))
    assert metric.compute() == {"loss": torch.tensor(3.0)}
    assert higher_is_better(metric, "loss") is False
    metric.reset()
    metric.update(torch.tensor([4.0]))
    assert metric.compute() == {"loss": torch.tensor(4.0)}


def test_a_monitored_metric_without_a_direction_is_reported_before_training(
    make_trainer: Callable[..., Any],
) -> None:
    trainer = make_trainer("checkpoint.monitor=mean", kind=WithTorchmetrics)
    with pytest.raises(UserError, match=r"checkpoint\.monitor.*'mean'.*checkpoint\.mode=max"):
        check_trainer(trainer)


class Nested(Undirected):
    """A metric with nested results."""

    def compute(self) -> Any:
        return {"classes": {"first": torch.tensor(1.0)}}


class WithNumbers(Undirected):
    """A metric with Python numbers."""

    higher_is_better = {"mean": "yes"}  # noqa: RUF012  no boolean

    def compute(self) -> Any:
        return {"mean": 0.5}


class ComplexMean(Undirected):
    """A metric with a complex result."""

    def compute(self) -> Any:
        return {"mean": torch.tensor(1j)}


class Vector(Undirected):
    """A metric without a scalar."""

    def compute(self) -> Any:
        return {"per_class": torch.ones(3)}


def fails() -> Any:
    raise ValueError("num_classes is missing")


CONFIGURED: dict[str, tuple[Callable[[], Any], str]] = {
    "dict": (lambda: {"accuracy": classification.MulticlassAccuracy(10)}, "dict.*MetricColl"),
    "none": (lambda: None, "NoneType"),
    "module": (lambda: nn.ModuleDict({"mean": MeanMetric()}), "ModuleDict.*`reset`"),
    "error": (fails, "ValueError: num_classes is missing"),
}


@pytest.mark.parametrize("name", CONFIGURED)
def test_an_error_in_configure_metrics_names_the_method(
    make_trainer: Callable[..., Any], name: str
) -> None:
    configure, part = CONFIGURED[name]

    class Configured(Classifier):
        def configure_metrics(self) -> Any:
            return configure()

    with pytest.raises(UserError, match=rf"^Configured\.configure_metrics .*{part}"):
        check_trainer(make_trainer(kind=Configured))


@pytest.mark.parametrize(
    ("metric", "part"),
    [
        (Nested, r"Nested\.compute.*'classes'.*dict"),
        (WithNumbers, r"WithNumbers\.compute.*'mean'.*float"),
        (ComplexMean, r"ComplexMean\.compute.*'mean'.*complex"),
        (Vector, r"checkpoint\.monitor.*per_class"),
    ],
)
def test_results_that_are_no_real_tensors_are_reported_before_training(
    make_trainer: Callable[..., Any], metric: Any, part: str
) -> None:
    class Measured(Plain):
        def configure_metrics(self) -> Any:
            return metric()

    with pytest.raises(UserError, match=part):
        check_trainer(make_trainer("checkpoint.monitor=mean", kind=Measured))


def test_a_direction_is_a_boolean() -> None:
    metric: Any = WithNumbers()
    assert higher_is_better(metric, "mean") is None


def test_a_trainer_that_returns_no_direction_is_reported(make_trainer: Callable[..., Any]) -> None:
    class Undecided(Classifier):
        def higher_is_better(self, name: str) -> Any:
            return None

    with pytest.raises(UserError, match=r"Undecided\.higher_is_better\('loss'\).*None"):
        check_trainer(make_trainer("checkpoint.monitor=loss", kind=Undecided))
