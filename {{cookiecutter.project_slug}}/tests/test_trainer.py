"""The training loop: steps, evaluation, checkpoints, and the sanity check."""
# ruff: noqa: D103  the names of the tests state what they test

import random
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Generator, Tensor, nn

from base.base_dataset import BaseDataset, Batch, class_labels
from base.base_trainer import BaseTrainer
from base.batch_loader import BatchLoader, Step
from builders import fit_dataset, restore_trainer
from data_loader.synthetic import Synthetic
from model.losses import cross_entropy
from profiling import profile_steps
from sanity_check import check_trainer
from storage.checkpoint_file import load_checkpoint, save_checkpoint
from trainer.classifier import Classifier
from utils.errors import UserError
from utils.randomness import GlobalRandomState

MakeTrainer = Callable[..., Any]
Logged = Callable[..., list[float]]
SMALL_MODEL = ("model.name=networks.MLP", "model.width=16")


class WithoutAugmentation(Synthetic):
    """Synthetic data that is not augmented."""

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        return super().transform(batch, None)


class TwoChannels(Synthetic):
    """Synthetic images with two channels, which the model does not accept."""

    def transform(self, batch: Batch, rng: Generator | None) -> Batch:
        inputs = super().transform(batch, None)["input"]
        return {**batch, "input": inputs.repeat(1, 2, 1, 1)}


class UndeclaredGlobalRng(Synthetic):
    """Draws from NumPy's global generator, but states that it does not."""

    uses_global_rng = False

    def __getitems__(self, indices: Tensor) -> Batch:
        np.random.rand()
        return super().__getitems__(indices)


class InheritedGlobalRng(UndeclaredGlobalRng):
    """Inherits what its base class states."""


class DeclaredGlobalRng(UndeclaredGlobalRng):
    """Draws from NumPy's global generator, and states that it does."""

    uses_global_rng = True


@pytest.fixture
def plain_data(tmp_path: Path) -> BaseDataset:
    """Training images that are not augmented."""
    return fit_dataset(WithoutAugmentation(tmp_path, "train", seed=0))


def all_samples(dataset: BaseDataset) -> Batch:
    """All samples in one transformed batch."""
    samples = dataset.__getitems__(torch.arange(len(dataset)))
    return dataset.transform(samples, None)


def mean_loss(trainer: BaseTrainer, batch: Batch) -> float:
    """The cross entropy of a batch."""
    return nn.functional.cross_entropy(trainer.predict(batch), batch["target"]).item()


def saved_step(file: Path) -> int:
    """The number of steps made before a checkpoint was saved."""
    return int(load_checkpoint(file)["progress"]["step"])


def assert_equal_tensors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def copy_of_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


# Steps


def test_training_lowers_the_loss(make_trainer: MakeTrainer, logged: Logged) -> None:
    trainer = make_trainer("trainer.epochs=3", "logger.every_steps=1")
    trainer.fit()
    losses = logged(trainer.run, "train", "loss")
    assert len(losses) == trainer.progress.step == 3 * 16
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    accuracies = logged(trainer.run, "validation", "accuracy")
    assert len(accuracies) == 3
    assert accuracies[-1] > max(0.4, accuracies[0])


def test_accumulated_batches_give_the_same_update_as_one_large_batch(
    make_trainer: MakeTrainer, plain_data: BaseDataset, logged: Logged
) -> None:
    def train(*changes: str) -> tuple[dict[str, Tensor], list[float]]:
        trainer = make_trainer(*SMALL_MODEL, *changes, "logger.every_steps=1", train=plain_data)
        trainer.fit()
        # The last step of an epoch has 22 samples: one batch, or batches of 16 and 6.
        assert trainer.progress.step == 2 * 13
        losses = logged(trainer.run, "train", "loss")
        (trainer.run / "metrics.csv").unlink()
        return trainer.model.state_dict(), losses

    large_weights, large_losses = train("data.batch_size=64", "trainer.accumulate=1")
    small_weights, small_losses = train("data.batch_size=16", "trainer.accumulate=4")
    assert small_losses == pytest.approx(large_losses, rel=1e-4)
    for name, weight in large_weights.items():
        assert torch.allclose(small_weights[name], weight, atol=1e-5), name


def test_update_returns_means_over_the_samples_of_a_step(
    make_trainer: MakeTrainer, plain_data: BaseDataset
) -> None:
    changes = ("data.batch_size=16", "trainer.accumulate=4", "loss.label_smoothing=0")
    trainer = make_trainer(*SMALL_MODEL, *changes, train=plain_data)
    (step,) = trainer.loaders["train"].steps(12, 13)
    assert step.sample_counts == [16, 6]
    inputs = torch.cat([batch["input"] for batch in step.batches])
    targets = torch.cat([batch["target"] for batch in step.batches])
    expected = mean_loss(trainer, {"input": inputs, "target": targets})
    outputs = trainer.update(step)
    assert outputs["loss"].item() == pytest.approx(expected, rel=1e-5)


def test_logged_means_are_means_over_samples(
    make_trainer: MakeTrainer, plain_data: BaseDataset, logged: Logged
) -> None:
    # Two steps of 700 and 90 samples. At such a learning rate no weight changes.
    changes = ("data.batch_size=700", "trainer.epochs=1", "optimizer.lr=1e-30")
    trainer = make_trainer(*SMALL_MODEL, *changes, "loss.label_smoothing=0", train=plain_data)
    expected = mean_loss(trainer, all_samples(plain_data))
    trainer.fit()
    assert logged(trainer.run, "train", "loss") == [pytest.approx(expected, rel=1e-5)]


def test_label_smoothing_applies_to_training_and_evaluation(
    make_trainer: MakeTrainer, plain_data: BaseDataset, logged: Logged
) -> None:
    # A single step with all samples: the logged loss is that of the initial weights.
    changes = ("data.batch_size=790", "trainer.epochs=1", "loss.label_smoothing=0.3")
    trainer = make_trainer(*SMALL_MODEL, *changes, train=plain_data)
    batch = all_samples(plain_data)
    logits = trainer.predict(batch)
    trainer.fit()
    smoothed = nn.functional.cross_entropy(logits, batch["target"], label_smoothing=0.3).item()
    assert logged(trainer.run, "train", "loss") == [pytest.approx(smoothed, rel=1e-4)]
    validation = all_samples(trainer.loaders["validation"].dataset)
    logits = trainer.predict(validation)
    target = validation["target"]
    validation_loss = nn.functional.cross_entropy(logits, target, label_smoothing=0.3).item()
    assert logged(trainer.run, "validation", "loss") == [pytest.approx(validation_loss, rel=1e-4)]


def test_balanced_training_gives_each_class_the_same_weight(make_trainer: MakeTrainer) -> None:
    imbalanced = Synthetic(Path(), "train", 0)
    fit_dataset(imbalanced)
    is_eighth = torch.arange(len(imbalanced)) % 8 == 0
    kept = (imbalanced.targets > 0) | is_eighth
    imbalanced.images = imbalanced.images[kept]
    imbalanced.targets = imbalanced.targets[kept]
    changes = ("loss.balanced=true", "loss.label_smoothing=0")
    trainer = make_trainer(*SMALL_MODEL, *changes, train=imbalanced)
    batch = all_samples(imbalanced)
    losses = nn.functional.cross_entropy(trainer.predict(batch), batch["target"], reduction="none")
    means_by_class = [losses[batch["target"] == target].mean() for target in range(10)]
    with trainer.evaluating() as model:
        loss = trainer.training_step(model, batch)["loss"]
    assert loss.item() == pytest.approx(torch.stack(means_by_class).mean().item(), rel=1e-5)
    assert abs(loss - losses.mean()) > 1e-4


def test_one_hot_targets_give_the_same_results_as_class_indices(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("loss.label_smoothing=0.1", "logger.every_steps=1")
    (batch,) = next(trainer.loaders["train"].steps(0, 1)).batches
    one_hot = {**batch, "target": nn.functional.one_hot(batch["target"], 10).float()}

    def results(targets: Batch) -> dict[str, Tensor]:
        trainer.metrics.reset()
        with trainer.evaluating() as model:
            trainer.evaluation_step(model, targets)
            outputs = trainer.training_step(model, targets)
            return {"training loss": outputs["loss"], **trainer.metrics.compute()}

    expected = results(batch)
    torch.testing.assert_close(results(one_hot), expected)
    assert expected["accuracy"] > 0


def test_soft_targets_weight_the_losses_of_the_classes() -> None:
    logits = torch.randn(5, 3)
    first = torch.tensor([0, 1, 2, 0, 1])
    second = torch.tensor([1] * 5)
    one_hot = nn.functional.one_hot
    soft = 0.75 * one_hot(first, 3) + 0.25 * one_hot(second, 3)
    expected = 0.75 * cross_entropy(logits, first) + 0.25 * cross_entropy(logits, second)
    assert torch.allclose(cross_entropy(logits, soft), expected)
    assert class_labels(soft).tolist() == first.tolist()


def test_precision_applies_to_the_forward_pass_and_weights_stay_float32(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset]
) -> None:
    batch = all_samples(splits["test"])
    exact = make_trainer("trainer.precision=fp32").predict(batch)
    trainer = make_trainer("trainer.precision=bf16")
    rounded = trainer.predict(batch)
    assert rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    assert torch.allclose(exact, rounded, rtol=0.05, atol=0.05)
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}


def test_float32_matrix_products_use_tf32_only_if_it_is_set(make_trainer: MakeTrainer) -> None:
    try:
        make_trainer()
        assert torch.get_float32_matmul_precision() == "highest"
        make_trainer("trainer.tf32=true")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's compiler itself
def test_compiled_model_keeps_the_names_of_its_weights(make_trainer: MakeTrainer) -> None:
    eager = make_trainer()
    compiled = make_trainer("trainer.compile=true")
    assert compiled.parallel_model is compiled.model
    assert eager.model.state_dict().keys() == compiled.model.state_dict().keys()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # Python 3.13.0
def test_evaluation_in_training_is_compiled_and_the_sanity_check_is_not(
    make_trainer: MakeTrainer,
) -> None:
    from torch._dynamo.utils import counters

    trainer = make_trainer(*SMALL_MODEL, "trainer.compile=true", "trainer.ema=0.9")
    counters.clear()
    check_trainer(trainer)
    statistics: dict[str, int] = counters["stats"]
    assert statistics["unique_graphs"] == 0
    expected = make_trainer(*SMALL_MODEL, "trainer.ema=0.9").evaluate("validation")
    torch.testing.assert_close(trainer.evaluate("validation"), expected)
    assert statistics["unique_graphs"] > 0


def test_restored_trainer_is_compiled_only_on_request(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL)
    state = trainer.state_dict()
    state["settings"]["trainer"]["compile"] = True
    file = trainer.run / "checkpoints/last.pt"
    save_checkpoint(file, state)
    restored, _ = restore_trainer([file], "validation", [])
    assert not restored.options.compile
    compiled, _ = restore_trainer([file], "validation", ["trainer.compile=true"])
    assert compiled.options.compile


# Subclasses


class Projecting(Classifier):
    """Sets attributes in its constructor that `configure_*` and the steps use."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.projection = nn.Linear(10, 10)
        self.projection_rate = 0.25
        self.seen_in_metrics: Any = None

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        optimizer = torch.optim.SGD(self.projection.parameters(), lr=self.projection_rate)
        return [*super().configure_optimizers(), optimizer]

    def configure_metrics(self) -> Any:
        self.seen_in_metrics = self.projection
        return super().configure_metrics()

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        logits = self.projection(model(batch["input"]))
        return {"loss": nn.functional.cross_entropy(logits, batch["target"])}


def test_configure_methods_use_attributes_that_the_constructor_of_a_subclass_sets(
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.max_steps=2", kind=Projecting)
    check_trainer(trainer)
    before = copy_of_weights(trainer.projection)
    trainer.fit()
    assert trainer.seen_in_metrics is trainer.projection
    _, optimizer = trainer.optimizers
    assert optimizer.param_groups[0]["initial_lr"] == 0.25
    for name, weight in trainer.projection.state_dict().items():
        assert not torch.equal(weight, before[name]), name


class Averaging(Classifier):
    """Has a second network and a list of counters, which each update changes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.teacher = nn.Linear(3, 2)
        self.counters: list[Any] = [StepCounter(), StepCounter()]

    def update(self, step: Step) -> dict[str, Tensor]:
        with torch.no_grad():
            self.teacher.weight += 1
        self.counters[0].count += 1
        self.counters[1].count += 10
        return super().update(step)


class StepCounter:
    """An object with a state."""

    def __init__(self) -> None:
        self.count = 0

    def state_dict(self) -> dict[str, int]:
        return {"count": self.count}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.count = state["count"]


def test_attributes_with_a_state_dict_are_saved_and_restored(make_trainer: MakeTrainer) -> None:
    settings = (*SMALL_MODEL, "trainer.max_steps=5")
    trainer = make_trainer(*settings, kind=Averaging)
    trainer.fit()
    state = load_checkpoint(trainer.run / "checkpoints/last.pt")

    resumed = make_trainer(*settings, kind=Averaging)
    assert not torch.equal(resumed.teacher.weight, trainer.teacher.weight)
    resumed.load_state_dict(state)
    assert_equal_tensors(resumed.teacher.state_dict(), trainer.teacher.state_dict())
    assert [counter.count for counter in resumed.counters] == [5, 50]


def test_new_attributes_keep_their_initial_state_when_an_older_run_resumes(
    make_trainer: MakeTrainer,
) -> None:
    older = make_trainer(*SMALL_MODEL)
    trainer = make_trainer(*SMALL_MODEL, kind=Averaging)
    before = copy_of_weights(trainer.teacher)
    trainer.load_state_dict(older.state_dict())
    assert_equal_tensors(trainer.teacher.state_dict(), before)
    assert [counter.count for counter in trainer.counters] == [0, 0]


# Evaluation


def test_evaluation_counts_each_sample_once(make_trainer: MakeTrainer) -> None:
    # 210 samples: a short last batch
    trainer = make_trainer("data.batch_size=64", "loss.label_smoothing=0")
    for step in trainer.loaders["train"].steps(0, 5):
        trainer.update(step)
    batch = all_samples(trainer.loaders["validation"].dataset)
    target = batch["target"]
    prediction = trainer.predict(batch).argmax(1)
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    for true, predicted in zip(target, prediction, strict=True):
        confusion[true, predicted] += 1
    correct = confusion.diag()
    support = confusion.sum(1)
    predicted_counts = confusion.sum(0)
    f1 = 2 * correct / (support + predicted_counts)

    for _ in range(2):  # the second evaluation does not include the samples of the first
        results = trainer.evaluate("validation")
        assert torch.equal(results["confusion"], confusion)
        assert results["accuracy"].item() == pytest.approx(correct.sum().item() / 210)
        assert results["loss"].item() == pytest.approx(mean_loss(trainer, batch), rel=1e-5)
        assert results["f1"].item() == pytest.approx(f1.mean().item())
        assert torch.allclose(results["recall_by_class"], correct / support)
        precision = correct / predicted_counts.clamp(min=1)
        assert torch.allclose(results["precision_by_class"], precision)


class ModeRecorder(Classifier):
    """Records the mode of all modules in each step."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recorded: list[tuple[str, set[bool]]] = []

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        self.recorded.append(("train", {m.training for m in model.modules()}))
        return super().training_step(model, batch)

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        self.recorded.append(("evaluate", {m.training for m in model.modules()}))
        super().evaluation_step(model, batch)


@pytest.mark.parametrize("changes", [[], ["trainer.ema=0.9"]], ids=["weights", "average"])
def test_model_is_in_evaluation_mode_during_evaluation_only(
    make_trainer: MakeTrainer, changes: list[str]
) -> None:
    trainer = make_trainer("data.batch_size=300", *changes, kind=ModeRecorder)
    trainer.fit()
    epoch = [("train", {True})] * 3 + [("evaluate", {False})]
    assert trainer.recorded == epoch * 2
    trainer.predict(all_samples(trainer.loaders["validation"].dataset))
    assert all(module.training for module in trainer.model.modules())


def test_evaluation_does_not_change_the_model(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    before = copy_of_weights(trainer.model)
    trainer.evaluate("validation")
    assert_equal_tensors(trainer.model.state_dict(), before)


@pytest.mark.parametrize("changes", [[], ["trainer.ema=0.9"]], ids=["weights", "average"])
def test_evaluating_restores_mode_and_rng_state_after_an_exception(
    make_trainer: MakeTrainer, changes: list[str]
) -> None:
    trainer = make_trainer(*SMALL_MODEL, *changes)
    generators = GlobalRandomState(trainer.device)
    before = generators.state_dict()
    with pytest.raises(ZeroDivisionError), trainer.evaluating() as model:
        assert not any(module.training for module in model.modules())
        assert not torch.is_grad_enabled()
        random.random()
        np.random.rand()
        torch.rand(1)
        _ = 1 / 0
    assert torch.is_grad_enabled()
    assert all(module.training for module in trainer.model.modules())
    assert all(module.training for module in trainer.evaluated_model.modules())
    after = generators.state_dict()
    assert after["python"] == before["python"]
    assert after["numpy"] == before["numpy"]
    assert torch.equal(after["cpu"], before["cpu"])


# Early stopping and checkpoints


def test_early_stopping_ends_training_without_improvement(
    make_trainer: MakeTrainer, logged: Logged
) -> None:
    # At such a learning rate no weight changes, so only the first validation is an improvement.
    changes = ("optimizer.lr=1e-30", "trainer.epochs=9", "trainer.early_stop=2")
    trainer = make_trainer(*SMALL_MODEL, *changes)
    trainer.fit()
    assert len(set(logged(trainer.run, "validation", "loss"))) == 1
    assert trainer.progress.step == 3 * 16
    assert trainer.progress.validations_without_improvement == 2
    trainer.fit()  # makes no more steps
    assert trainer.progress.step == 3 * 16


def test_a_tie_does_not_replace_the_best_checkpoint(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "optimizer.lr=1e-30", "trainer.epochs=2")
    trainer.fit()
    assert saved_step(trainer.run / "checkpoints/best.pt") == 16


@pytest.mark.parametrize(
    ("metric", "select_best"), [("accuracy", max), ("loss", min)], ids=["accuracy", "loss"]
)
def test_best_and_last_checkpoints_are_of_the_best_and_the_last_epoch(
    make_trainer: MakeTrainer,
    logged: Logged,
    metric: str,
    select_best: Callable[[Sequence[float]], float],
) -> None:
    trainer = make_trainer(
        *SMALL_MODEL,
        f"checkpoint.monitor={metric}",
        "trainer.epochs=4",
        "scheduler={name: exponential, factor: 8}",  # so that later epochs are worse
        "trainer.clip_norm=1",
    )
    trainer.fit()
    values = logged(trainer.run, "validation", metric)
    best_value = select_best(values)
    best_epoch = values.index(best_value) + 1
    assert best_epoch < 4
    folder = trainer.run / "checkpoints"
    assert saved_step(folder / "best.pt") == 16 * best_epoch
    assert saved_step(folder / "last.pt") == 16 * 4
    restored, _ = restore_trainer([folder / "best.pt"], "validation", [])
    results = restored.evaluate("validation")
    assert results[metric].item() == pytest.approx(best_value, rel=1e-5)


def test_newest_checkpoints_are_kept(make_trainer: MakeTrainer) -> None:
    changes = ("checkpoint.every_steps=3", "checkpoint.keep=2", "trainer.max_steps=8")
    trainer = make_trainer(*SMALL_MODEL, *changes)
    trainer.fit()
    folder = trainer.run / "checkpoints"
    names = ["best.pt", "last.pt", "step_00000006.pt", "step_00000008.pt"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert saved_step(folder / "step_00000006.pt") == 6


# The sanity check


def test_sanity_check_reports_a_model_that_does_not_fit_the_data(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(train=fit_dataset(TwoChannels(Path(), "train", 0)))
    with pytest.raises(UserError, match=r"model .*data .*RuntimeError: .*, line \d+\)$"):
        check_trainer(trainer)


def test_model_that_cannot_be_constructed_is_reported(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"networks\.ConvNet.*RuntimeError: .*, line \d+\)$"):
        make_trainer(f"model.width={2**40}")


LOSS = torch.tensor(1.0, requires_grad=True)


@pytest.mark.parametrize(
    ("outputs", "text"),
    [
        ({"los": LOSS}, "los.*`loss`"),
        (LOSS, "must return a dict, not Tensor"),
        ({"loss": torch.ones(50)}, r"'loss' has the shape \(50,\)"),
        ({"loss": 1.0}, r"'loss' is 1\.0 \(float\)"),
        ({"loss": LOSS, "accuracy": torch.ones(2)}, r"'accuracy' has the shape \(2,\)"),
        ({"loss": LOSS, "accuracy": 0.5}, r"'accuracy' is 0\.5 \(float\)"),
        ({"loss": LOSS, "grad_norm": LOSS}, "'grad_norm', which the trainer logs itself"),
    ],
)
def test_sanity_check_reports_what_a_training_step_must_not_return(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, outputs: object, text: str
) -> None:
    def training_step(*_: object) -> object:
        return outputs

    trainer = make_trainer(*SMALL_MODEL)
    monkeypatch.setattr(Classifier, "training_step", training_step)
    with pytest.raises(UserError, match=rf"Classifier\.training_step.*{text}") as caught:
        check_trainer(trainer)
    assert caught.value.exit_code == 2


def test_a_scalar_of_the_evaluation_step_does_not_replace_a_metric(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Classifier.evaluation_step

    def evaluation_step(trainer: Classifier, *arguments: Any) -> dict[str, torch.Tensor]:
        original(trainer, *arguments)  # updates the metrics
        return {"accuracy": torch.tensor(1.0)}

    trainer = make_trainer(*SMALL_MODEL)
    monkeypatch.setattr(Classifier, "evaluation_step", evaluation_step)
    with pytest.raises(UserError, match=r"evaluation_step returns 'accuracy'.*metric"):
        check_trainer(trainer)


def test_sanity_check_reports_an_unknown_metric_to_monitor(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("checkpoint.monitor=acuracy")
    with pytest.raises(UserError, match=r"checkpoint\.monitor = 'acuracy': .*loss, accuracy"):
        check_trainer(trainer)


@pytest.mark.parametrize("kind", [UndeclaredGlobalRng, InheritedGlobalRng])
def test_sanity_check_reports_undeclared_use_of_the_global_rng(
    make_trainer: MakeTrainer, kind: type[Synthetic]
) -> None:
    trainer = make_trainer(train=fit_dataset(kind(Path(), "train", 0)))
    with pytest.raises(UserError, match=rf"{kind.__name__} .*uses_global_rng = True"):
        check_trainer(trainer)


def test_sanity_check_accepts_declared_use_of_the_global_rng(make_trainer: MakeTrainer) -> None:
    check_trainer(make_trainer(train=fit_dataset(DeclaredGlobalRng(Path(), "train", 0))))


class GradientPenalty(Classifier):
    """Adds the squared gradient of the loss by the input."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images = batch["input"].clone().requires_grad_()
        outputs = super().training_step(model, {**batch, "input": images})
        (gradient,) = torch.autograd.grad(outputs["loss"], images, create_graph=True)
        return {**outputs, "loss": outputs["loss"] + gradient.square().sum()}


def test_sanity_check_accepts_a_gradient_penalty(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.max_steps=2", kind=GradientPenalty)
    check_trainer(trainer)
    trainer.fit()
    assert trainer.progress.step == 2


def test_sanity_check_leaves_no_trace(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(train=fit_dataset(DeclaredGlobalRng(Path(), "train", 0)))
    generators = GlobalRandomState(trainer.device)
    rng_before = generators.state_dict()
    weights_before = copy_of_weights(trainer.model)
    check_trainer(trainer)
    assert_equal_tensors(trainer.model.state_dict(), weights_before)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())
    assert all(module.training for module in trainer.model.modules())
    rng_after = generators.state_dict()
    assert rng_after["numpy"] == rng_before["numpy"]
    assert torch.equal(rng_after["cpu"], rng_before["cpu"])


# Profiling


class NeedsTwoSamples(Classifier):
    """Divides by a standard deviation over the batch, which one sample does not have."""

    raises = True
    trained_sizes: ClassVar[list[int]] = []

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        size = len(batch["input"])
        self.trained_sizes.append(size)
        if self.raises and size < 2:
            raise ValueError("two samples are needed")
        outputs = super().training_step(model, batch)
        return {"loss": outputs["loss"] + 0 * batch["input"].std(0).mean()}


@pytest.mark.parametrize("raises", [True, False], ids=["error", "NaN"])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("sampler", ["shuffled", "balanced"])
def test_last_batch_that_is_too_small_is_an_error_before_training(
    make_trainer: MakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    raises: bool,
    accumulate: int,
    sampler: str,
) -> None:
    monkeypatch.setattr(NeedsTwoSamples, "raises", raises)
    options = [
        "model.name=networks.MLP",
        f"trainer.accumulate={accumulate}",
        "trainer.epochs=1",
        "data.batch_size=263",  # 790 = 3 * 263 + 1
        f"data.sampler={sampler}",
    ]
    trainer = make_trainer(*options, kind=NeedsTwoSamples)
    with pytest.raises(UserError) as raised:
        check_trainer(trainer)
    for part in ("1 of 790 samples", "data.batch_size = 263", "data.drop_last=true"):
        assert part in str(raised.value)

    check_trainer(make_trainer(*options, "trainer.max_steps=1", kind=NeedsTwoSamples))
    trainer = make_trainer(*options, "data.drop_last=true", kind=NeedsTwoSamples)
    check_trainer(trainer)
    NeedsTwoSamples.trained_sizes.clear()
    trainer.fit()
    assert NeedsTwoSamples.trained_sizes == [263, 263, 263]


def test_a_tiny_last_batch_is_reported(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    check_trainer(make_trainer("data.batch_size=56"))  # 790 = 14 * 56 + 6
    assert "drop_last" not in caplog.text
    check_trainer(make_trainer("data.batch_size=263"))
    for part in ("1 of 263 samples", "data.drop_last=true"):
        assert part in caplog.text


def test_training_set_smaller_than_a_batch_with_drop_last_is_an_error(
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer("data.batch_size=800", "data.drop_last=true")
    with pytest.raises(UserError, match=r"data\.drop_last = true .*790 .*data\.batch_size = 800"):
        trainer.loaders["train"].check_steps()


class NeedsTwoForEvaluation(Classifier):
    """Cannot evaluate a batch of one sample."""

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        if len(batch["input"]) == 1:
            raise ValueError("two samples are needed")
        super().evaluation_step(model, batch)


def test_last_validation_batch_is_tried_before_training(make_trainer: MakeTrainer) -> None:
    check_trainer(make_trainer("data.batch_size=50", kind=NeedsTwoForEvaluation))
    trainer = make_trainer("data.batch_size=19", kind=NeedsTwoForEvaluation)  # 210 = 2 * 76 + 58
    check_trainer(trainer)
    trainer.loaders["validation"] = BatchLoader(trainer.loaders["validation"].dataset, 209)
    with pytest.raises(UserError, match=r"evaluation_step fails .*two samples are needed"):
        check_trainer(trainer)


class MethodRecorder(Classifier):
    """Records the methods that take part in a step, while the profiler is active."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recorded: list[dict[str, Any]] = []

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        self.recorded.append(methods_of(self))
        return super().training_step(model, batch)


def methods_of(trainer: BaseTrainer) -> dict[str, Any]:
    """All functions and methods that a step calls, by owner and name."""
    optimizer = trainer.optimizers[0]
    owners = [torch.Tensor, nn.Module, torch.autograd, type(optimizer), optimizer]
    owners += [type(trainer), BaseTrainer, trainer, type(trainer.model), trainer.model]
    methods: dict[str, Any] = {}
    for position, owner in enumerate(owners):
        for name, value in vars(owner).items():
            if callable(value) and not isinstance(value, nn.Module):
                methods[f"{position} {name}"] = value
    return methods


def test_profiling_changes_no_method_and_undoes_its_steps(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.ema=0.9", kind=MethodRecorder)
    trainer.progress.compare_by(trainer.criterion)  # as at the start of a run
    before = trainer.state_dict()
    _ = trainer.loss  # built before the methods are listed
    weights_before = copy_of_weights(trainer.model)
    average_before = copy_of_weights(trainer.moving_average)
    methods_before = methods_of(trainer)

    table = profile_steps(trainer, 2)

    assert "backward" in table
    assert len(trainer.recorded) == 2 + 5  # the profiled steps and those of the warm-up
    for methods in [*trainer.recorded, methods_of(trainer)]:
        assert methods == methods_before
    for module in trainer.model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
    assert trainer.progress.step == 0
    assert_equal_tensors(trainer.model.state_dict(), weights_before)
    assert_equal_tensors(trainer.moving_average.state_dict(), average_before)
    after = trainer.state_dict()
    assert after["progress"] == before["progress"]
    assert after["optimizers.0"] == before["optimizers.0"]
    assert after["ranks"][0]["meter"] == before["ranks"][0]["meter"]
    rng_before = before["ranks"][0]["random_state"]
    rng_after = after["ranks"][0]["random_state"]
    assert rng_after["python"] == rng_before["python"]
    assert torch.equal(rng_after["cpu"], rng_before["cpu"])


# The log


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard itself
def test_tensorboard_has_the_values_of_metrics_csv(
    make_trainer: MakeTrainer, logged: Logged
) -> None:
    from tensorboard.backend.event_processing import event_accumulator

    trainer = make_trainer(*SMALL_MODEL, "logger.tensorboard=true", "logger.every_steps=4")
    trainer.fit()
    events = event_accumulator.EventAccumulator(str(trainer.run / "tensorboard"))
    events.Reload()
    for tag, split, metric in (
        ("train/loss", "train", "loss"),
        ("vitals/lr", "train", "lr"),
        ("validation/accuracy", "validation", "accuracy"),
    ):
        values = [event.value for event in events.Scalars(tag)]
        assert values == pytest.approx(logged(trainer.run, split, metric), rel=1e-6)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard itself
def test_tensorboard_shows_curves_then_figures_and_the_main_settings_first(
    make_trainer: MakeTrainer,
) -> None:
    from tensorboard.backend.event_processing import event_accumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    trainer = make_trainer(*SMALL_MODEL, "logger.tensorboard=true", "trainer.epochs=1")
    trainer.fit()
    events = event_accumulator.EventAccumulator(str(trainer.run / "tensorboard"))
    events.Reload()
    tags = events.Tags()
    groups = sorted({tag.partition("/")[0] for tag in [*tags["scalars"], *tags["images"]]})
    assert groups == ["train", "validation", "visuals", "vitals"]
    assert {tag for tag in tags["scalars"] if tag.startswith("train/")} == {
        "train/accuracy",
        "train/loss",
    }
    assert {"visuals/inputs", "visuals/confusion_matrix"} <= set(tags["images"])

    def text(tag: str) -> str:
        (event,) = events.Tensors(f"{tag}/text_summary")
        return bytes(event.tensor_proto.string_val[0]).decode()

    assert "| optimizer.lr | 0.05 |" in text("settings").splitlines()
    assert shlex.join(sys.argv) in text("command")
    content = events.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = HParamsPluginData.FromString(content).experiment
    first = [info.name for info in experiment.hparam_infos if info.differs]
    assert {"model.name", "optimizer.lr", "data.batch_size", "trainer.epochs"} <= set(first)
    assert len(first) < 12
    assert [info.name for info in experiment.hparam_infos][: len(first)] == first
    assert {info.name.tag for info in experiment.metric_infos} <= set(tags["scalars"])
