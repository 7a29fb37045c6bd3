"""Training steps of any kind: autograd, several optimizers and passes, and what is checked."""
# ruff: noqa: D103  the names of the tests state what they test

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_runs import differences
from test_trainer import WithoutAugmentation
from torch import Tensor, nn
from torch.nn.functional import softplus

from base.base_dataset import BaseDataset, Batch
from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from base.invalid_labels import NO_INDEX
from builders import fit_dataset
from data_loader import synthetic
from data_loader.synthetic import Synthetic
from sanity_check import check_trainer
from trainer.classifier import Classifier
from utils.errors import UserError

Captured = pytest.CaptureFixture[str]
Command = Callable[..., int]
MakeTrainer = Callable[..., Any]
SMALL_MODEL = (
    "model.name=networks.MLP",
    "model.width=16",
    "checkpoint.monitor=loss",
    "loss.label_smoothing=0",
)


@pytest.fixture
def plain_data() -> BaseDataset:
    """Training images without augmentation, which depends on the division into batches."""
    return fit_dataset(WithoutAugmentation(Path(), "train", seed=0))


# Several optimizers and passes


class Adversaries(Classifier):
    """Trains the first layer and the others by different losses, one after the other."""

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        layers: Any = self.model.layers
        first = torch.optim.SGD(layers[1].parameters(), lr=0.1)
        return [first, torch.optim.Adam(layers[3:].parameters(), lr=0.01)]

    def first_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": softplus(model(batch["input"])).mean()}

    def update(self, step: Step) -> dict[str, Tensor]:
        first, others = self.optimizers
        outputs = self.optimize(step, first, self.first_step)
        return {"first": outputs["loss"], **self.optimize(step, others)}


def test_each_optimizer_changes_its_own_parameters_only(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=Adversaries)
    step = next(trainer.loaders["train"].steps(0, 1))
    first, _ = trainer.optimizers
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.optimize(step, first, trainer.first_step)
    for name, parameter in trainer.model.named_parameters():
        assert torch.equal(parameter, before[name]) == (not name.startswith("layers.1.")), name
        assert parameter.grad is None


def test_each_pass_accumulates_and_clips(
    make_trainer: MakeTrainer, plain_data: BaseDataset
) -> None:
    norms = []
    weights = []
    for changes in (
        ("data.batch_size=50", "trainer.accumulate=1"),
        ("data.batch_size=10", "trainer.accumulate=5"),
    ):
        settings = (*SMALL_MODEL, *changes, "trainer.clip_norm=0.01")
        trainer = make_trainer(*settings, kind=Adversaries, train=plain_data)
        trainer.update(next(trainer.loaders["train"].steps(0, 1)))
        norms.append(trainer.gradient_norm.item())
        weights.append(trainer.model.state_dict())
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    assert norms[0] > 0.01
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-6), name


def test_several_optimizers_train_with_a_scaler(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.precision=fp16", kind=Adversaries)
    trainer.fit()
    assert trainer.scaler.get_scale() > 1
    _, others = trainer.optimizers
    assert {int(state["step"]) for state in others.state.values()} == {32}


class Critic(Adversaries):
    """Makes three steps with one optimizer for each step with the other."""

    def update(self, step: Step) -> dict[str, Tensor]:
        first, others = self.optimizers
        for _ in range(3):
            outputs = self.optimize(step, others)
        self.optimize(step, first, self.first_step)
        return outputs


def test_an_optimizer_may_make_several_steps_in_a_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        *SMALL_MODEL, "trainer.clip_norm=1", "trainer.precision=fp16", kind=Critic
    )
    check_trainer(trainer)
    trainer.fit()
    _, others = trainer.optimizers
    assert {int(state["step"]) for state in others.state.values()} == {3 * 32}


class Sharpness(Classifier):
    """Sharpness-aware minimization (arXiv:2010.01412): two passes for a step of the optimizer."""

    def update(self, step: Step) -> dict[str, Tensor]:
        self.compute_gradients(step)
        moved = []
        with torch.no_grad():
            for parameter in self.model.parameters():
                assert parameter.grad is not None
                shift = 1e-4 * torch.sign(parameter.grad)
                parameter.add_(shift)
                moved.append((parameter, shift))
                parameter.grad = None
        outputs = self.compute_gradients(step)
        with torch.no_grad():
            for parameter, shift in moved:
                parameter.sub_(shift)
        self.clip_gradients()
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()
        return outputs


def test_an_update_may_have_two_passes(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=Sharpness)
    check_trainer(trainer)
    trainer.fit()
    assert trainer.evaluate("validation")["accuracy"] > 0.25  # by chance: 0.1


# Autograd


class Penalized(Classifier):
    """Penalizes the gradient of the loss with respect to the inputs, also in evaluation."""

    evaluates_with_gradients = True

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        images = batch["input"].clone().requires_grad_()
        loss = self.loss(model(images), batch["target"])
        (gradient,) = torch.autograd.grad(loss, images, create_graph=True)
        return {"loss": loss + gradient.square().sum()}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Any:
        super().evaluation_step(model, batch)
        return {"penalized": self.training_step(model, batch)["loss"]}

    def predict_step(self, model: nn.Module, batch: Batch) -> Tensor:
        images = batch["input"].clone().requires_grad_()
        (gradient,) = torch.autograd.grad(model(images).sum(), images)
        return gradient.flatten(1)

    def describe(self, outputs: Tensor) -> list[list[dict[str, Any]]]:
        return [[{"slope": row.norm().item()}] for row in outputs]


def test_a_trainer_may_use_autograd_in_training_evaluation_and_prediction(
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=Penalized)
    check_trainer(trainer)
    trainer.fit()
    results = trainer.evaluate("validation")
    assert results["penalized"] > results["loss"]
    assert not any(value.requires_grad for value in results.values())
    assert trainer.predict(trainer.loaders["validation"].sample_batch(3)).norm() > 0
    assert trainer.progress.step == 32


class Undeclared(Penalized):
    """Does not declare that its evaluation uses autograd."""

    evaluates_with_gradients = False


def test_autograd_in_evaluation_that_is_not_declared_is_reported_with_the_fix(
    make_trainer: MakeTrainer,
) -> None:
    with pytest.raises(UserError, match=r"Undeclared\..*evaluates_with_gradients = True"):
        check_trainer(make_trainer(*SMALL_MODEL, kind=Undeclared))


class Detached(Classifier):
    """Its loss has no gradient, which a declaration for the evaluation would not change."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = super().training_step(model, batch)
        return {"loss": outputs["loss"].detach()}


def test_a_training_loss_without_a_gradient_is_reported_as_it_is(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"Detached\.training_step.*does not require grad") as error:
        check_trainer(make_trainer(*SMALL_MODEL, kind=Detached))
    assert "evaluates_with_gradients" not in str(error.value)


# The sanity check


class WithMemory(Classifier):
    """Has a queue and a list that each training step changes."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seen: list[int] = []
        self.teacher = nn.Linear(2, 2)

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(len(batch["input"]))
        with torch.no_grad():
            self.teacher.weight += 1
        return super().training_step(model, batch)


def test_the_check_leaves_nothing_behind(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("trainer.ema=0.9", kind=WithMemory)  # with batch normalization
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    teacher = trainer.teacher.weight.clone()
    check_trainer(trainer)
    assert trainer.seen == []
    assert torch.equal(trainer.teacher.weight, teacher)
    assert trainer.progress.step == 0
    assert differences(before, dict(trainer.model.state_dict())) == []
    assert not any(module._forward_hooks for module in trainer.model.modules())


def test_a_run_with_the_check_is_the_same_as_without(make_trainer: MakeTrainer) -> None:
    states = []
    for has_check in (False, True):
        trainer = make_trainer("trainer.ema=0.9", "trainer.max_steps=3", kind=WithMemory)
        if has_check:
            check_trainer(trainer)
        trainer.fit()
        states.append(trainer.state_dict())
    assert differences(states[0], states[1]) == []


class Silent(Classifier):
    """Evaluates nothing."""

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        model(batch["input"])


class Vector(Classifier):
    """Returns a vector from its evaluation."""

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Any:
        return {"hits": model(batch["input"]).argmax(1) == batch["target"]}


class PlainNumber(Classifier):
    """Returns a number from its evaluation."""

    def evaluation_step(self, model: nn.Module, batch: Batch) -> Any:
        return {"loss": self.loss(model(batch["input"]), batch["target"]).item()}


class OtherArguments(Classifier):
    """Updates its metrics with one argument too few."""

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        self.metrics.update(model(batch["input"]))


class Undescribed(Classifier):
    """Describes predictions that it does not make."""

    def describe(self, outputs: Any) -> Any:
        return outputs["scores"]


class FailingUpdate(Classifier):
    """Divides by zero in its training step."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": model(batch["input"]).mean() * (1 // 0)}


class OneOptimizer(Classifier):
    """Returns one optimizer instead of a list."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Silent, r"Silent\.evaluation_step.*self\.metrics"),
        (Vector, r"Vector\.evaluation_step: 'hits' has the shape"),
        (PlainNumber, r"PlainNumber\.evaluation_step: 'loss' is .*float.*\.item"),
        (OtherArguments, r"OtherArguments\.evaluation_step .*TypeError: .*update"),
        (Undescribed, r"Undescribed\..*describe.*line \d+"),
        (FailingUpdate, r"FailingUpdate\.training_step.*ZeroDivisionError.*line \d+"),
    ],
)
def test_an_error_in_a_method_is_reported_with_its_name(
    make_trainer: MakeTrainer, kind: type[BaseTrainer], text: str
) -> None:
    with pytest.raises(UserError, match=text) as caught:
        check_trainer(make_trainer(*SMALL_MODEL, kind=kind))
    assert caught.value.exit_code == 2
    assert len(str(caught.value).splitlines()) == 1


def test_a_single_optimizer_needs_no_list(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=OneOptimizer)
    check_trainer(trainer)
    assert len(trainer.optimizers) == 1


def test_a_forward_that_returns_nothing_is_reported(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(*SMALL_MODEL)
    monkeypatch.setattr(type(trainer.model), "forward", lambda *_: None)
    with pytest.raises(UserError, match=r"MLP\.forward returns None"):
        check_trainer(trainer)


def test_one_class_too_few_is_reported(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"\(9,\).*10 classes"):
        check_trainer(make_trainer(*SMALL_MODEL, "model.classes=9"))


class Uncopyable(Classifier):
    """Has an attribute that cannot be copied."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lines = (line for line in ["a"])

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        next(self.lines, None)


def test_an_attribute_that_cannot_be_copied_is_shared_and_named(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    check_trainer(make_trainer(*SMALL_MODEL, kind=Uncopyable))
    assert "Uncopyable.lines" in caplog.text


class IgnoredLabel(Synthetic):
    """A label that losses of torch ignore, but the metrics of a classifier do not."""

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        super().__init__(root, split, seed)
        self.targets = self.targets.clone()
        self.targets[17] = NO_INDEX


def test_an_ignored_label_in_the_validation_set_is_found_before_training(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setattr(synthetic, "Synthetic", IgnoredLabel)
    assert train(tmp_path / "run", *SMALL_MODEL) == 2
    assert "target -100 of sample 17 " in capsys.readouterr().err


class Scripted(nn.Module):
    """A classifier with a layer of TorchScript, whose copy has no parameters of its own."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.flatten = nn.Flatten()
        self.head = torch.jit.script(nn.Linear(28 * 28, classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.flatten(images))
        return logits


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_module_of_torchscript_is_not_copied(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(*SMALL_MODEL)
    trainer.model = Scripted(10)
    check_trainer(trainer)
    assert "cannot copy Classifier.model" in caplog.text


class Table(nn.Module):
    """A classifier with an embedding that has sparse gradients."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.table = nn.Embedding(4, classes, sparse=True)

    def forward(self, images: Tensor) -> Tensor:
        scores: Tensor = self.table((images.flatten(1).mean(1) > 0).long())
        return scores


@pytest.mark.parametrize("clip_norm", ["null", "0.1"])
def test_sparse_gradients_are_trained(make_trainer: MakeTrainer, clip_norm: str) -> None:
    settings = ("optimizer={name: SGD, lr: 0.1}", "logger.every_steps=1", "trainer.max_steps=2")
    trainer = make_trainer(*SMALL_MODEL, *settings, f"trainer.clip_norm={clip_norm}")
    trainer.model = Table(10)
    before = trainer.model.table.weight.detach().clone()
    check_trainer(trainer)
    trainer.fit()
    assert not torch.equal(trainer.model.table.weight, before)
