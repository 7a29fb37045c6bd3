"""The loop: steps, evaluation, and what is kept of it."""
# ruff: noqa: D103  the names of the tests say what they test

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from base.base_dataset import BaseDataset, Batch, class_labels
from builders import restore_trainer
from data_loader.synthetic import Synthetic
from model.losses import cross_entropy
from sanity_check import check_trainer
from storage.checkpoint_file import load_checkpoint, save_checkpoint
from trainer.classifier import Classifier
from utils.errors import UserError

MakeTrainer = Callable[..., Any]
Logged = Callable[..., list[float]]
SMALL = ("model.name=networks.MLP", "model.width=16")


class Plain(Synthetic):
    """Synthetic data that is not augmented."""

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        return super().transform(batch, None)


class Tall(Synthetic):
    """Synthetic images of which two are stacked, for which no model is made here."""

    def transform(self, batch: Batch, generator: Generator | None) -> Batch:
        return {**batch, "input": super().transform(batch, None)["input"].repeat(1, 2, 1, 1)}


@pytest.fixture
def plain(tmp_path: Path) -> BaseDataset:
    """Training images that are not augmented."""
    return Plain(tmp_path, "train", seed=0)


def whole(dataset: BaseDataset) -> Batch:
    """All samples in one batch."""
    return dataset.transform(dataset.__getitems__(torch.arange(len(dataset))), None)


def mean_loss(trainer: Classifier, batch: Batch) -> float:
    """The loss of a batch as it is."""
    return nn.functional.cross_entropy(trainer.predict(batch), batch["target"]).item()


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


def test_accumulated_batches_make_the_same_step_as_one_large_batch(
    make_trainer: MakeTrainer, plain: BaseDataset, logged: Logged
) -> None:
    found = []
    for changes in (
        ["data.batch_size=64", "trainer.accumulate=1"],
        ["data.batch_size=16", "trainer.accumulate=4"],
    ):
        trainer = make_trainer(*SMALL, *changes, "logger.every_steps=1", train=plain)
        trainer.fit()
        assert trainer.progress.step == 2 * 13  # the last step of an epoch has 22 samples: 16 and 6
        found.append((trainer.model.state_dict(), logged(trainer.run, "train", "loss")))
        (trainer.run / "metrics.csv").unlink()
    (large, large_losses), (small, small_losses) = found
    assert small_losses == pytest.approx(large_losses, rel=1e-4)
    assert all(torch.allclose(small[name], large[name], atol=1e-5) for name in large)


def test_training_is_label_smoothed_and_evaluation_is_not(
    make_trainer: MakeTrainer, plain: BaseDataset, logged: Logged
) -> None:
    # One step with all samples, so that the logged loss is that of the first weights.
    changes = ("data.batch_size=790", "trainer.epochs=1", "trainer.label_smoothing=0.3")
    trainer = make_trainer(*SMALL, *changes, train=plain)
    batch = whole(plain)
    logits = trainer.predict(batch)
    trainer.fit()
    smoothed = nn.functional.cross_entropy(logits, batch["target"], label_smoothing=0.3).item()
    assert logged(trainer.run, "train", "loss") == [pytest.approx(smoothed, rel=1e-4)]
    evaluated = mean_loss(trainer, whole(trainer.loaders["validation"].dataset))
    assert logged(trainer.run, "validation", "loss") == [pytest.approx(evaluated, rel=1e-4)]


def test_balanced_training_weighs_each_class_alike(make_trainer: MakeTrainer) -> None:
    rare = Synthetic(Path(), "train", 0)
    chosen = (rare.targets > 0) | (torch.arange(len(rare)) % 8 == 0)
    rare.images, rare.targets = rare.images[chosen], rare.targets[chosen]
    trainer = make_trainer(*SMALL, "trainer.balanced=true", "trainer.label_smoothing=0", train=rare)
    batch = whole(rare)
    losses = nn.functional.cross_entropy(trainer.predict(batch), batch["target"], reduction="none")
    by_class = torch.stack([losses[batch["target"] == k].mean() for k in range(10)])
    with trainer.evaluating() as model:
        loss = trainer.training_step(model, batch)["loss"]
    assert loss.item() == pytest.approx(by_class.mean().item(), rel=1e-5)
    assert abs(loss - losses.mean()) > 1e-4


def test_one_hot_targets_are_as_good_as_classes(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("trainer.label_smoothing=0.1")
    (batch,) = next(trainer.loaders["train"].steps(0, 1))
    one_hot = {**batch, "target": nn.functional.one_hot(batch["target"], 10).float()}
    trainer.log_due, found = True, []
    for kind in (batch, one_hot):
        trainer.metrics.reset()
        with trainer.evaluating() as model:
            trainer.evaluation_step(model, kind)
            found.append(trainer.training_step(model, kind) | trainer.metrics.compute())
    torch.testing.assert_close(found[0], found[1])
    assert found[0]["accuracy"] > 0


def test_the_loss_of_soft_targets_is_the_mean_over_their_shares() -> None:
    logits, one, other = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1]), torch.tensor([1] * 5)
    soft = (3 * nn.functional.one_hot(one, 3) + nn.functional.one_hot(other, 3)) / 4
    wanted = 0.75 * cross_entropy(logits, one) + 0.25 * cross_entropy(logits, other)
    assert torch.allclose(cross_entropy(logits, soft), wanted)
    assert class_labels(soft).tolist() == one.tolist()


def test_the_forward_pass_has_the_precision_asked_for_and_the_weights_float32(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset]
) -> None:
    trainers = [make_trainer(f"trainer.precision={name}") for name in ("fp32", "bf16")]
    exact, rough = (trainer.predict(whole(splits["test"])) for trainer in trainers)
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    assert torch.allclose(exact, rough, rtol=0.05, atol=0.05)
    assert {p.dtype for p in trainers[1].model.parameters()} == {torch.float32}


def test_products_of_float32_are_exact_unless_tf32_is_set(make_trainer: MakeTrainer) -> None:
    try:
        make_trainer()
        assert torch.get_float32_matmul_precision() == "highest"
        make_trainer("trainer.tf32=true")
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision("highest")


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch's compiler itself
def test_a_compiled_model_keeps_the_names_of_its_weights(make_trainer: MakeTrainer) -> None:
    plain, compiled = make_trainer(), make_trainer("trainer.compile=true")
    assert plain.model.state_dict().keys() == compiled.model.state_dict().keys()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Guards may run slower:RuntimeWarning")  # Python 3.13.0
def test_what_is_evaluated_in_training_is_compiled_and_nothing_else_is(
    make_trainer: MakeTrainer,
) -> None:
    from torch._dynamo.utils import counters

    trainer = make_trainer(*SMALL, "trainer.compile=true", "trainer.ema=0.9")
    counters.clear()
    check_trainer(trainer)
    graphs: dict[str, int] = counters["stats"]
    assert graphs["unique_graphs"] == 0
    plain = make_trainer(*SMALL, "trainer.ema=0.9").evaluate("validation")
    torch.testing.assert_close(trainer.evaluate("validation"), plain)
    assert graphs["unique_graphs"] > 0

    file = trainer.run / "checkpoints/last.pt"
    save_checkpoint(file, trainer.state_dict())
    assert not restore_trainer([file], "validation", [])[0].options.compile
    assert restore_trainer([file], "validation", ["trainer.compile=true"])[0].options.compile


# Evaluation


def test_evaluation_counts_each_sample_once(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("data.batch_size=64")  # 210 samples: three batches and a short one
    for batches in trainer.loaders["train"].steps(0, 5):
        trainer.update(batches)
    batch = whole(trainer.loaders["validation"].dataset)
    logits, target = trainer.predict(batch), batch["target"]
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    for true, found in zip(target, logits.argmax(1), strict=True):
        confusion[true, found] += 1
    right, true, found = confusion.diag(), confusion.sum(1), confusion.sum(0)
    f1 = 2 * right / (true + found)

    for _ in range(2):  # a second time it gives the same, so nothing is left of the first
        results = trainer.evaluate("validation")
        assert torch.equal(results["confusion"], confusion)
        assert results["accuracy"].item() == pytest.approx(right.sum().item() / 210)
        assert results["loss"].item() == pytest.approx(mean_loss(trainer, batch), rel=1e-5)
        assert results["f1"].item() == pytest.approx(f1.mean().item())
        assert torch.allclose(results["recall_by_class"], right / true)
        assert torch.allclose(results["precision_by_class"], right / found.clamp(min=1))


def test_the_model_is_in_evaluation_mode_for_evaluation_only(make_trainer: MakeTrainer) -> None:
    modes = []

    class Modes(Classifier):
        def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
            modes.append(("train", {m.training for m in model.modules()}))
            return super().training_step(model, batch)

        def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
            modes.append(("evaluate", {m.training for m in model.modules()}))
            super().evaluation_step(model, batch)

    for changes in ([], ["trainer.ema=0.9"]):
        modes.clear()
        trainer = make_trainer("data.batch_size=300", *changes, kind=Modes)
        trainer.fit()
        epoch = [("train", {True})] * 3 + [("evaluate", {False})]
        assert modes == epoch * 2
        trainer.predict(whole(trainer.loaders["validation"].dataset))
        assert all(module.training for module in trainer.model.modules())


def test_evaluation_leaves_the_model_as_it_was(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.evaluate("validation")
    after = trainer.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


# What is kept


def test_early_stopping_ends_training_when_nothing_is_gained(
    make_trainer: MakeTrainer, logged: Logged
) -> None:
    # At such a rate no weight changes, so only the first epoch is a gain.
    changes = ("optimizer.lr=1e-30", "trainer.epochs=9", "trainer.early_stop=2")
    trainer = make_trainer(*SMALL, *changes)
    trainer.fit()
    assert len(set(logged(trainer.run, "validation", "loss"))) == 1
    assert trainer.progress.step == 3 * 16
    best = load_checkpoint(trainer.run / "checkpoints/best.pt")
    assert best["step"] == 3 * 16  # the last of equals
    trainer.fit()  # and it stays ended
    assert trainer.progress.step == 3 * 16


def test_best_is_the_checkpoint_of_the_best_epoch_and_last_that_of_the_last(
    make_trainer: MakeTrainer, logged: Logged, tmp_path: Path
) -> None:
    for metric, choose in (("accuracy", max), ("loss", min)):
        trainer = make_trainer(
            *SMALL,
            f"checkpoint.monitor={metric}",
            "trainer.epochs=4",
            "scheduler={name: exponential, factor: 8}",  # so that it gets worse again
            "trainer.clip_norm=1",
        )
        trainer.fit()
        values = logged(trainer.run, "validation", metric)
        best = values.index(choose(values)) + 1
        assert best < 4
        folder = trainer.run / "checkpoints"
        assert load_checkpoint(folder / "best.pt")["progress"]["step"] == 16 * best
        assert load_checkpoint(folder / "last.pt")["progress"]["step"] == 16 * 4
        again, _ = restore_trainer([folder / "best.pt"], "validation", [])
        found = again.evaluate("validation")
        assert found[metric].item() == pytest.approx(choose(values), rel=1e-5)
        trainer.run.rename(tmp_path / metric)


def test_the_newest_checkpoints_are_kept(make_trainer: MakeTrainer) -> None:
    changes = ("checkpoint.every_steps=3", "checkpoint.keep=2", "trainer.max_steps=8")
    trainer = make_trainer(*SMALL, *changes)
    trainer.fit()
    folder = trainer.run / "checkpoints"
    names = ["best.pt", "last.pt", "step_00000006.pt", "step_00000008.pt"]
    assert sorted(file.name for file in folder.iterdir()) == names
    assert load_checkpoint(folder / "step_00000006.pt")["progress"]["step"] == 6


def test_a_model_that_does_not_fit_the_data_is_an_error_in_one_line(
    make_trainer: MakeTrainer,
) -> None:
    with pytest.raises(UserError, match=r"^model and data do not .*Error: .*, line \d+\)$"):
        check_trainer(make_trainer(train=Tall(Path(), "train", 0)))
    with pytest.raises(UserError, match=r"^networks\.ConvNet cannot be built: .*Error: .*, line"):
        make_trainer(f"model.width={2**40}")


@pytest.mark.parametrize(
    "answer",
    [{"los": torch.tensor(1.0)}, torch.tensor(1.0), {"loss": torch.ones(50)}, {"loss": 1.0}],
    ids=["no loss", "no dict", "a loss a sample", "no tensor"],
)
def test_a_training_step_without_a_scalar_loss_is_an_error_in_one_line(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    trainer = make_trainer()
    monkeypatch.setattr(Classifier, "training_step", lambda *_: answer)
    with pytest.raises(UserError, match=r"^training_step of Classifier returns no scalar loss"):
        check_trainer(trainer)


def test_a_metric_that_is_not_there_cannot_be_monitored(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"monitor = 'acuracy': allowed are .*accuracy"):
        check_trainer(make_trainer("checkpoint.monitor=acuracy"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard itself
def test_tensorboard_shows_what_metrics_csv_says(make_trainer: MakeTrainer, logged: Logged) -> None:
    from tensorboard.backend.event_processing import event_accumulator

    trainer = make_trainer(*SMALL, "logger.tensorboard=true", "logger.every_steps=4")
    trainer.fit()
    events = event_accumulator.EventAccumulator(str(trainer.run / "tensorboard"))
    events.Reload()
    for split, metric in (("train", "loss"), ("train", "lr"), ("validation", "accuracy")):
        shown = [event.value for event in events.Scalars(f"{split}/{metric}")]
        assert shown == pytest.approx(logged(trainer.run, split, metric), rel=1e-6)
    assert {"inputs", "confusion_matrix"} <= set(events.Tags()["images"])
