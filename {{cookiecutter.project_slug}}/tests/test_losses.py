"""Losses that `loss.name` selects: their values, their settings, and errors."""
# ruff: noqa: D103  the names of the tests state what they test

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import CONFIG
from torch import Tensor, nn

from base.base_dataset import BaseDataset, Batch
from base.base_trainer import BaseTrainer
from base.invalid_labels import naming_invalid_labels
from builders import build_loader, fit_dataset
from config.loading import load_settings
from config.schema import LossSettings
from data_loader.synthetic import Synthetic
from model import losses
from model.losses import cross_entropy
from optim.losses import build_loss
from sanity_check import check_trainer
from storage.checkpoint_file import load_checkpoint
from utils.errors import UserError

Command = Callable[..., int]
MakeTrainer = Callable[..., Any]
SMALL_MODEL = ("model.name=networks.MLP", "model.width=16", "checkpoint.monitor=loss")


class Labels:
    """Stands for a data set with three classes, of which the last is rare."""

    title = "labels"
    classes = ("a", "b", "c")
    targets = torch.tensor([0] * 4 + [1] * 4 + [2] * 2)


def make_loss(dataset: Any = Labels, **settings: Any) -> Any:
    section = load_settings(CONFIG, [f"loss={json.dumps(settings)}"]).loss
    return build_loss(section, dataset, torch.device("cpu"), weighted_by=dataset)


# Values


def test_cross_entropy_is_the_mean_negative_log_probability_of_the_targets() -> None:
    logits = torch.randn(5, 4)
    target = torch.tensor([0, 3, 1, 1, 2])
    log_probabilities = torch.log(logits.exp() / logits.exp().sum(1, keepdim=True))
    expected = -log_probabilities[torch.arange(5), target]
    assert torch.allclose(cross_entropy(logits, target, reduction="none"), expected, atol=1e-5)
    assert torch.allclose(cross_entropy(logits, target), expected.mean(), atol=1e-5)


def test_label_smoothing_mixes_the_target_with_the_uniform_distribution() -> None:
    logits = torch.randn(5, 4)
    target = torch.tensor([0, 3, 1, 1, 2])
    uniform = -logits.log_softmax(1).mean(1)
    expected = 0.8 * cross_entropy(logits, target, reduction="none") + 0.2 * uniform
    found = cross_entropy(logits, target, label_smoothing=0.2, reduction="none")
    assert torch.allclose(found, expected, atol=1e-5)


def test_ignored_targets_do_not_count() -> None:
    logits = torch.randn(5, 4)
    target = torch.tensor([0, 3, -1, 1, 2])
    kept = target >= 0
    for weight in (None, torch.tensor([1.0, 2.0, 3.0, 4.0])):
        found = cross_entropy(logits, target, ignore_index=-1, weight=weight)
        expected = cross_entropy(logits[kept], target[kept], weight=weight)
        assert torch.allclose(found, expected)


def test_balanced_weights_give_each_class_the_same_weight() -> None:
    logits = torch.randn(10, 3)
    loss = make_loss(name="cross_entropy", balanced=True)
    plain = cross_entropy(logits, Labels.targets, reduction="none")
    means = [plain[Labels.targets == index].mean() for index in range(3)]
    assert torch.allclose(loss(logits, Labels.targets), torch.stack(means).mean())


class IgnoredLabels:
    """Some labels do not count, and a class has no samples."""

    title = "ignored labels"
    classes = ("a", "b", "c", "d")
    targets = torch.tensor([0] * 4 + [1] * 4 + [2] * 2 + [255] * 5)


def test_balanced_weights_do_not_count_ignored_targets() -> None:
    loss = make_loss(IgnoredLabels, name="cross_entropy", balanced=True, ignore_index=255)
    logits = torch.randn(15, 4)
    plain = cross_entropy(logits, IgnoredLabels.targets, ignore_index=255, reduction="none")
    means = [plain[IgnoredLabels.targets == index].mean() for index in range(3)]
    found = loss(logits, IgnoredLabels.targets)
    assert torch.allclose(found, torch.stack(means).mean())
    assert torch.isfinite(loss(torch.randn(1, 4), torch.tensor([3])))


def test_evaluation_uses_no_class_weights(make_trainer: MakeTrainer) -> None:
    weights = "loss.class_weights=[9, 1, 1, 1, 1, 1, 1, 1, 1, 1]"
    trainer = make_trainer(*SMALL_MODEL, weights, "loss.label_smoothing=0")
    batch = trainer.loaders["validation"].sample_batch(1000)
    plain = cross_entropy(trainer.predict(batch), batch["target"])
    assert trainer.evaluate("validation")["loss"].item() == pytest.approx(plain.item(), rel=1e-4)
    assert trainer.loss(trainer.predict(batch), batch["target"]) > 1.1 * plain


def test_a_small_gamma_has_finite_gradients_for_certain_predictions() -> None:
    logits = torch.tensor([[100.0, 0.0]], requires_grad=True)
    losses.focal(logits, torch.tensor([0]), gamma=0.5).backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_focal_loss_without_focus_is_cross_entropy() -> None:
    logits = torch.randn(5, 3)
    target = torch.tensor([0, 2, 1, 1, 2])
    assert torch.allclose(losses.focal(logits, target, gamma=0), cross_entropy(logits, target))
    probability = logits.softmax(1)[torch.arange(5), target]
    expected = -((1 - probability) ** 2) * probability.log()
    assert torch.allclose(losses.focal(logits, target, 2.0, reduction="none"), expected)


def test_pos_weight_multiplies_the_loss_of_labels_that_apply() -> None:
    logits = torch.randn(4, 2)
    target = torch.tensor([[1, 0], [0, 1], [1, 1], [0, 0]])
    probability = logits.sigmoid()
    weight = torch.tensor([3.0, 1.0])
    expected = -(weight * target * probability.log() + (1 - target) * (1 - probability).log())
    found = losses.binary_cross_entropy(logits, target, pos_weight=(3.0, 1.0), reduction="none")
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 3])
def test_dice_is_zero_for_a_perfect_segmentation_and_one_for_a_wrong_one(channels: int) -> None:
    target = torch.randint(max(channels, 2), (2, 8, 8), generator=torch.Generator())
    if channels == 1:
        logits = 100.0 * (2 * target[:, None] - 1)
    else:
        logits = 100.0 * nn.functional.one_hot(target, channels).movedim(-1, 1)
    assert losses.dice(logits, target, smooth=0).item() == pytest.approx(0, abs=1e-6)
    if channels == 1:
        assert losses.dice(-logits, target, smooth=0).item() == pytest.approx(1)


def test_gaussian_likelihood_is_that_of_the_distribution() -> None:
    outputs = torch.randn(6, 4)
    target = torch.randn(6, 2)
    mean, log_variance = outputs.chunk(2, 1)
    normal = torch.distributions.Normal(mean, (log_variance / 2).exp())
    assert torch.allclose(losses.gaussian(outputs, target), -normal.log_prob(target).mean())


def test_the_quantile_loss_is_least_at_the_quantile() -> None:
    target = torch.arange(1001.0)[:, None]
    by_value = {}
    for value in (200.0, 250.0, 300.0):
        outputs = torch.full((1001, 1), value)
        by_value[value] = losses.quantile(outputs, target, quantiles=(0.25,)).item()
    assert min(by_value, key=by_value.__getitem__) == 250.0


@pytest.mark.parametrize("name", ["mse", "l1", "huber", "gaussian", "quantile", "SmoothL1Loss"])
def test_the_unit_of_the_targets_does_not_matter(name: str) -> None:
    class Numbers:
        title = "numbers"
        classes = ()
        target_mean_and_std = (0.0, 1000.0)

    class Standardized(Numbers):
        target_mean_and_std = (0.0, 1.0)

    target = torch.randn(6, 2)
    outputs = torch.randn(6, {"gaussian": 4, "quantile": 6}.get(name, 2))
    in_units = 1000 * outputs
    if name == "gaussian":
        in_units[:, 2:] = outputs[:, 2:]  # logarithms of variances of standardized targets
    found = make_loss(Numbers, name=name)(in_units, 1000 * target)
    assert torch.allclose(found, make_loss(Standardized, name=name)(outputs, target), atol=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "focal", "CrossEntropyLoss", "MultiMarginLoss"])
def test_the_loss_of_each_sample_has_the_mean_that_training_minimizes(name: str) -> None:
    loss = make_loss(name=name)
    logits = torch.randn(5, 3, dtype=torch.bfloat16)
    target = torch.tensor([0, 2, 1, 1, 2])
    per_sample = loss(logits, target, reduction="none")
    assert per_sample.shape == (5,)
    assert per_sample.dtype == torch.float32
    assert torch.allclose(per_sample.mean(), loss(logits, target))


# Training


@pytest.mark.parametrize(
    "loss",
    [
        "{name: focal, gamma: 1.5}",
        "{name: cross_entropy, balanced: true, label_smoothing: 0.1}",
        "{name: CrossEntropyLoss, label_smoothing: 0.1}",
        "{name: CrossEntropyLoss, balanced: true}",
        "{name: cross_entropy, class_weights: [1, 1, 1, 1, 1, 2, 2, 2, 2, 2]}",
        "{name: MultiMarginLoss, margin: 0.5}",
        "{name: losses.focal}",
    ],
)
def test_a_classifier_learns_with_any_loss(
    tmp_path: Path, train: Command, logged: Callable[..., list[float]], loss: str
) -> None:
    run = tmp_path / "run"
    assert train(run, *SMALL_MODEL, f"loss={loss}") == 0
    accuracies = logged(run, "validation", "accuracy")
    assert accuracies[-1] > 0.25  # by chance: 0.1
    name = loss.partition("name: ")[2].rstrip("}").partition(",")[0]
    assert load_checkpoint(run / "checkpoints/last.pt")["settings"]["loss"]["name"] == name


# Errors


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        (["loss.name=focl"], ["loss.name", "focl", "focal"]),
        (["loss.name=CrossEntropyLos"], ["loss.name", "CrossEntropyLoss"]),
        (["loss.name=Linear"], ["loss.name", "Linear"]),
        (["loss.label_smoothin=0.1"], ["loss.label_smoothin", "label_smoothing"]),
        (["loss={name: focal, gamma: -1}"], ["loss.gamma", "-1"]),
        (["loss={name: quantile, quantiles: [2]}"], ["loss.quantiles", "2"]),
        (["loss.class_weights=[1, 2]"], ["loss.class_weights", "2", "10 classes"]),
        (["loss={name: mse, balanced: true}"], ["mse", "class weights"]),
        (["trainer.name=classifier.Clasifier"], ["classifier.Classifier"]),
        (["loss={name: gaussian}"], ["gaussian"]),
    ],
)
def test_an_error_in_the_loss_is_reported_before_anything_is_written(
    tmp_path: Path,
    train: Command,
    capsys: pytest.CaptureFixture[str],
    changes: list[str],
    parts: list[str],
) -> None:
    assert train(tmp_path / "run", *SMALL_MODEL, *changes) == 2
    message = capsys.readouterr().err
    assert "Traceback" not in message
    for part in parts:
        assert part in message
    assert not (tmp_path / "run").exists()


class WithoutLoss(BaseTrainer):
    """Computes its loss itself."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(model(batch["input"]), batch["target"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return self.training_step(model, batch)


class WithLoss(WithoutLoss):
    """Uses a loss that the settings must name."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.loss(model(batch["input"]), batch["target"])}


def test_a_loss_that_the_trainer_does_not_use_is_reported(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "loss.name=focal", kind=WithoutLoss)
    with pytest.raises(UserError, match=r"loss\.name = 'focal'.*WithoutLoss.*self\.loss"):
        check_trainer(trainer)


def test_a_missing_loss_is_reported(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=WithLoss)
    trainer.settings = trainer.settings.model_copy(update={"loss": LossSettings()})
    with pytest.raises(UserError, match=r"WithLoss.*loss\.name"):
        check_trainer(trainer)


class WrongLabel(Synthetic):
    """One of the labels is not a class."""

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        super().__init__(root, split, seed)
        self.targets = self.targets.clone()
        self.targets[17] = 10


def test_a_label_out_of_range_is_named(make_trainer: MakeTrainer) -> None:
    dataset: BaseDataset = fit_dataset(WrongLabel(Path(), "train", 0))
    with pytest.raises(UserError, match=r"target 10 of sample 17 .*10 classes"):
        make_trainer(*SMALL_MODEL, train=dataset)


def test_a_label_out_of_range_in_a_batch_is_named() -> None:
    with pytest.raises(UserError, match=r"target 3 of sample 1 .*3 classes"):
        make_loss(name="cross_entropy")(torch.randn(2, 3), torch.tensor([0, 3]))


def test_a_loss_with_parameters_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    class Learned(nn.modules.loss._Loss):
        """A loss with a weight."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(()))

    Learned.__module__ = losses.__name__
    monkeypatch.setattr(losses, "Learned", Learned, raising=False)
    with pytest.raises(UserError, match=r"losses\.Learned.*parameters.*model"):
        make_loss(name="losses.Learned")


def test_a_module_of_the_project_needs_no_base_class_of_losses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Scaled(nn.Module):
        """The cross entropy times a factor."""

        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def forward(self, outputs: Tensor, target: Tensor) -> Tensor:
            return self.factor * nn.functional.cross_entropy(outputs, target)

    Scaled.__module__ = losses.__name__
    monkeypatch.setattr(losses, "Scaled", Scaled, raising=False)
    logits = torch.randn(4, 3)
    target = torch.tensor([0, 1, 2, 0])
    found = make_loss(name="losses.Scaled", factor=2.0)(logits, target)
    torch.testing.assert_close(found, 2 * nn.functional.cross_entropy(logits, target))


@pytest.mark.parametrize("error", [IndexError("of torch"), ZeroDivisionError("of other code")])
def test_an_error_beside_a_label_out_of_range_is_not_hidden(error: Exception) -> None:
    dataset: BaseDataset = fit_dataset(WrongLabel(Path(), "train", 0))
    loader = build_loader(load_settings(CONFIG, ["data.batch_size=50"]), dataset)
    expected = pytest.raises((UserError, ZeroDivisionError), match=str(error))
    with expected as raised, naming_invalid_labels(loader, "train", 0):
        raise error
    assert ("sample 17" in str(raised.value)) == isinstance(error, IndexError)
