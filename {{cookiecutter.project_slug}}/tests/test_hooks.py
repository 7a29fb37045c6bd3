"""What a project's trainer can change: results, hooks, early ends, validation at chosen times."""
# ruff: noqa: D103  the names of the tests state what they test

import json
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from base.base_dataset import Batch
from base.base_trainer import BaseTrainer
from builders import EVALUATION_BATCH_FACTOR, build_training_loaders
from config.schema import Settings
from data_loader import synthetic
from data_loader.synthetic import Synthetic
from sanity_check import check_trainer
from storage.checkpoint_file import load_checkpoint
from trainer import classifier
from trainer.classifier import Classifier
from utils.errors import UserError
from utils.randomness import make_generator

MakeTrainer = Callable[..., Any]
Logged = Callable[..., list[float]]
Command = Callable[..., int]
SMALL_MODEL = ("model.name=networks.MLP", "model.width=16", "checkpoint.monitor=loss")


class Plain(BaseTrainer):
    """Returns the values to average, and has no metrics."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": nn.functional.cross_entropy(model(batch["input"]), batch["target"])}

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor] | None:
        correct = model(batch["input"]).argmax(1) == batch["target"]
        return {**self.training_step(model, batch), "hits": correct.float().mean()}


class Recorder(Plain):
    """Records the calls of its hooks."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.steps: list[tuple[int, float]] = []
        self.evaluations: list[tuple[str, int, float]] = []

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        self.steps.append((self.progress.step, outputs["loss"].item()))

    def after_evaluation(self, split: str, results: Mapping[str, Tensor]) -> None:
        self.evaluations.append((split, self.progress.step, results["loss"].item()))


# Results


def test_returned_values_are_averaged_over_samples(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "data.batch_size=16", kind=Plain)
    dataset = trainer.loaders["validation"].dataset
    batch = dataset.transform(dataset.__getitems__(torch.arange(len(dataset))), None)
    assert len(dataset) % 64 != 0  # the last batch is smaller
    logits = trainer.predict(batch)
    results = trainer.evaluate("validation")
    loss = nn.functional.cross_entropy(logits, batch["target"]).item()
    hits = (logits.argmax(1) == batch["target"]).float().mean().item()
    assert results["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert results["hits"].item() == pytest.approx(hits, rel=1e-6)


def test_mode_sets_the_direction_that_a_metric_does_not_define(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"checkpoint\.monitor = 'hits'.*checkpoint\.mode"):
        check_trainer(make_trainer(*SMALL_MODEL, "checkpoint.monitor=hits", kind=Plain))
    trainer = make_trainer(
        *SMALL_MODEL, "checkpoint.monitor=hits", "checkpoint.mode=max", kind=Plain
    )
    check_trainer(trainer)
    assert trainer.higher_is_better("hits")


class SingleMetric(Plain):
    """Updates one metric of torchmetrics."""

    def configure_metrics(self) -> Any:
        return MeanMetric()

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        self.metrics.update(batch["target"])


def test_a_single_metric_of_torchmetrics_has_the_name_of_its_class(
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=SingleMetric)
    assert list(trainer.evaluate("validation")) == ["MeanMetric"]


class Empty(Plain):
    """Returns nothing and updates nothing."""

    def evaluation_step(self, model: nn.Module, batch: Batch) -> None:
        model(batch["input"])


def test_an_evaluation_without_results_is_an_error(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"Empty\.evaluation_step"):
        check_trainer(make_trainer(*SMALL_MODEL, kind=Empty))


class Prefixed(Plain):
    """Returns a value with a slash in its name."""

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"val/loss": self.training_step(model, batch)["loss"]}

    def higher_is_better(self, name: str) -> bool:
        return {"val/loss": False}[name]


def test_a_metric_with_a_slash_in_its_name_can_be_monitored(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "checkpoint.monitor=val/loss", kind=Prefixed)
    check_trainer(trainer)
    trainer.fit()
    assert trainer.progress.best > 0


# Hooks


def test_hooks_are_called_after_each_step_and_each_evaluation(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.epochs=2", kind=Recorder)
    trainer.fit()
    assert [step for step, _ in trainer.steps] == list(range(1, 33))
    assert [call[:2] for call in trainer.evaluations] == [("validation", 16), ("validation", 32)]


class FailingHook(Plain):
    """Fails after the first evaluation."""

    def after_evaluation(self, split: str, results: Mapping[str, Tensor]) -> None:
        raise ZeroDivisionError


def test_an_error_in_a_hook_loses_no_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=FailingHook)
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    assert (trainer.run / "checkpoints/step_00000016.pt").exists()


class StoppingAfterEvaluation(Plain):
    """Ends training, and changes a saved value, after the first evaluation."""

    saved_attributes = ("evaluations",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.evaluations: Any = None

    def after_evaluation(self, split: str, results: Mapping[str, Tensor]) -> None:
        torch.rand(())  # does not change the random numbers of training
        self.evaluations = [results["loss"].item()]
        self.stop("one is enough")


def test_what_a_hook_changes_after_an_evaluation_is_saved(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.epochs=3", kind=StoppingAfterEvaluation)
    trainer.fit()
    assert trainer.progress.step == 16
    state = load_checkpoint(trainer.run / "checkpoints/last.pt")
    assert state["progress"]["stop_reason"] == "one is enough"
    assert state["evaluations"] == trainer.evaluations
    resumed = make_trainer(*SMALL_MODEL, "trainer.epochs=3", kind=StoppingAfterEvaluation)
    resumed.load_state_dict(state)
    assert resumed.is_finished()
    assert resumed.evaluations == trainer.evaluations
    initial = load_checkpoint(trainer.run / "checkpoints/step_00000000.pt")
    resumed.load_state_dict(initial)
    assert resumed.evaluations is None


class ScalingByValidation(Plain):
    """Multiplies the loss by one of the last validation."""

    last_loss: Tensor = torch.ones(())

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = super().training_step(model, batch)
        return {"loss": outputs["loss"] * self.last_loss}

    def after_evaluation(self, split: str, results: Mapping[str, Tensor]) -> None:
        self.last_loss = results["loss"]


def test_a_result_can_be_part_of_the_training_loss(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.epochs=2", kind=ScalingByValidation)
    trainer.fit()
    assert trainer.progress.step == 32


def test_indices_are_those_of_the_running_evaluation_only(make_trainer: MakeTrainer) -> None:
    class Failing(Plain):
        def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor] | None:
            assert self.evaluated_indices is not None
            raise ValueError("error in evaluation_step")

    trainer = make_trainer(*SMALL_MODEL, kind=Failing)
    with pytest.raises(ValueError, match="error in evaluation_step"):
        trainer.evaluate("validation")
    assert trainer.evaluated_indices is None


class Unsavable(Plain):
    """Has a state that is no plain data."""

    saved_attributes = ("mean",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.mean = {"value": np.float64(1)}


def test_a_state_that_cannot_be_read_again_is_named(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=Unsavable)
    with pytest.raises(UserError, match=r"'mean value' is float64"):
        trainer.fit()
    assert trainer.progress.step == 0


class LateState(Plain):
    """Has a state that is no plain data from its third step on."""

    saved_attributes = ("keys",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.keys: dict[Any, int] = {}

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        if self.progress.step == 3:
            self.keys[np.int64(3)] = 1


def test_a_state_that_cannot_be_read_again_is_never_saved(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=LateState)
    with pytest.raises(UserError, match=r"'keys' has a key of the type int64"):
        trainer.fit()
    load_checkpoint(trainer.run / "checkpoints/last.pt")


@pytest.mark.parametrize("names", [("quue",), "queue"])
def test_wrong_saved_attributes_are_named(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, names: Any
) -> None:
    monkeypatch.setattr(Plain, "saved_attributes", names)
    with pytest.raises(UserError, match=r"Plain\.saved_attributes .*qu"):
        make_trainer(*SMALL_MODEL, kind=Plain).fit()


class DeepState(Plain):
    """Has networks in nested containers, a trained tensor, and a counter."""

    saved_attributes = ("temperature", "biases", "counts")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.networks = {"a": [nn.Linear(1, 1)]}
        self.temperature = torch.ones(1, requires_grad=True)
        self.biases = {"a": [torch.zeros(1, requires_grad=True)]}
        self.counts = Counter({"a": 1})

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        own = [self.temperature, *self.biases["a"]]
        return [*super().configure_optimizers(), torch.optim.SGD(own, lr=0.1)]

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        outputs = super().training_step(model, batch)
        factor = self.temperature.exp() + self.biases["a"][0].exp()
        return {"loss": outputs["loss"] * factor.squeeze()}

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        self.counts["b"] += 1
        with torch.no_grad():
            self.networks["a"][0].weight += 1


def test_deep_state_is_restored_in_place(make_trainer: MakeTrainer) -> None:
    changes = (*SMALL_MODEL, "checkpoint.every_steps=10", "checkpoint.keep=9", "trainer.epochs=2")
    trainer = make_trainer(*changes, kind=DeepState)
    check_trainer(trainer)
    trainer.fit()
    resumed = make_trainer(*changes, kind=DeepState)
    resumed.load_state_dict(load_checkpoint(trainer.run / "checkpoints/step_00000010.pt"))
    resumed.fit()
    assert resumed.counts == trainer.counts
    assert resumed.counts["b"] == 32
    assert torch.equal(resumed.temperature, trainer.temperature)
    assert resumed.temperature.requires_grad
    assert torch.equal(resumed.biases["a"][0], trainer.biases["a"][0])
    assert resumed.biases["a"][0].requires_grad
    assert torch.equal(resumed.networks["a"][0].weight, trainer.networks["a"][0].weight)


class Projected(Plain):
    """Keeps its last layer at zero."""

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            self.model.get_parameter("layers.5.weight").zero_()


def test_the_moving_average_contains_what_after_step_changed(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.ema=0.9", kind=Projected)
    trainer.fit()
    averaged = trainer.evaluated_model.get_parameter("layers.5.weight")
    assert not averaged.any()
    assert trainer.evaluated_model.get_parameter("layers.1.weight").any()


def test_a_validation_that_cannot_be_logged_leaves_the_scheduler_as_it_was(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plateau = "scheduler.name=ReduceLROnPlateau"
    trainer = make_trainer(*SMALL_MODEL, plateau, kind=Plain)
    (scheduler,) = trainer.schedulers
    before = dict(scheduler.state_dict())
    scalars = trainer.run_log.scalars

    def fail(split: str, *arguments: Any) -> None:
        if split == "validation":
            raise OSError("no space left")
        scalars(split, *arguments)

    monkeypatch.setattr(trainer.run_log, "scalars", fail)
    with pytest.raises(OSError, match="no space"):
        trainer.fit()
    assert scheduler.state_dict() == before


class Calibrated(Classifier):
    """Fits a temperature after each evaluation, and uses it in the next one."""

    saved_attributes = ("temperature",)

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.temperature = torch.ones(())
        self.offset = nn.Linear(1, 1)

    def evaluation_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        super().evaluation_step(model, batch)
        return {"temperature": self.temperature, "offset": self.offset.weight.squeeze()}

    def after_evaluation(self, split: str, results: Mapping[str, Tensor]) -> None:
        self.temperature = self.temperature + 1
        with torch.no_grad():
            self.offset.weight.fill_(0.25)


def test_the_state_of_a_trainer_is_restored_for_an_evaluation(
    tmp_path: Path, train: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "Calibrated", Calibrated, raising=False)
    run = tmp_path / "run"
    assert train(run, *SMALL_MODEL, "trainer.name=classifier.Calibrated", "trainer.epochs=1") == 0
    assert command("evaluate", run) == 0
    metrics = json.loads((run / "evaluation/test/metrics.json").read_text())
    assert metrics["temperature"] == 2
    assert metrics["offset"] == 0.25


class WithAClass(Plain):
    """Has a class with `state_dict` as an attribute."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.layer_type = nn.Linear


def test_a_class_is_no_state(make_trainer: MakeTrainer) -> None:
    assert "layer_type" not in make_trainer(*SMALL_MODEL, kind=WithAClass).state_dict()


class WithTheNameOfAnotherState(Plain):
    """Has a network with a name that a checkpoint uses for something else."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.example = nn.Linear(1, 1)


def test_a_name_that_a_checkpoint_uses_otherwise_is_refused(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"WithTheNameOfAnotherState\.example"):
        make_trainer(*SMALL_MODEL, kind=WithTheNameOfAnotherState).state_dict()


class CreatedLater(Plain):
    """Creates a network in the first step."""

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        if not hasattr(self, "critic"):
            self.critic = nn.Linear(1, 1)


def test_a_state_that_is_not_restored_is_named(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.ema=0.9", kind=CreatedLater)
    trainer.fit()
    state = load_checkpoint(trainer.run / "checkpoints/last.pt")
    caplog.clear()
    make_trainer(*SMALL_MODEL, kind=CreatedLater).load_state_dict(state)
    (warning,) = [record.getMessage() for record in caplog.records if "lost" in record.getMessage()]
    assert warning.startswith("critic ")
    assert "CreatedLater" in warning


class FrozenPart(Plain):
    """Keeps a part of its model in evaluation mode."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model.get_submodule("layers.1").eval()


def test_a_part_in_evaluation_mode_stays_in_it(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=FrozenPart)
    trainer.evaluate("validation")
    assert trainer.model.training
    assert not trainer.model.layers[1].training


class Stopping(Recorder):
    """Ends training after five steps."""

    def after_step(self, outputs: Mapping[str, Tensor]) -> None:
        super().after_step(outputs)
        if self.progress.step == 5:
            self.stop("the loss is low enough")


def test_a_trainer_can_end_the_run(make_trainer: MakeTrainer, logged: Logged) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=Stopping)
    trainer.fit()
    assert trainer.progress.step == 5
    assert trainer.is_finished()
    assert (trainer.run / "checkpoints/step_00000005.pt").exists()
    assert len(logged(trainer.run, "validation", "loss")) == 1
    state = load_checkpoint(trainer.run / "checkpoints/last.pt")
    assert state["progress"]["stop_reason"] == "the loss is low enough"


# Validation


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        (["trainer.validate_every_steps=12"], [12, 24, 36, 48]),
        (["trainer.validate_every_epochs=2"], [32, 48]),  # the last step is always validated
    ],
)
def test_validation_comes_at_the_chosen_steps(
    make_trainer: MakeTrainer, changes: list[str], steps: list[int]
) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.epochs=3", *changes, kind=Recorder)
    trainer.fit()
    assert [step for _, step, _ in trainer.evaluations] == steps


class Noisy(Synthetic):
    """The same images with more noise.

    Args:
        noise: Standard deviation, in grey levels.
    """

    def __init__(self, root: Path, split: str | None, seed: int, noise: float = 50.0) -> None:
        super().__init__(root, split, seed)
        noisy = self.images + noise * torch.randn(self.images.shape, generator=make_generator(0))
        self.images = noisy.clamp(0, 255).byte()


def test_several_validation_sets_are_logged_and_one_is_monitored(
    tmp_path: Path, train: Command, logged: Logged, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "Noisy", Noisy, raising=False)
    run = tmp_path / "run"
    sets = "data.validation_sets={plain: {}, noisy: {name: synthetic.Noisy, noise: 99.0}}"
    settings = ["model.name=networks.MLP", sets, "checkpoint.monitor=noisy/accuracy"]
    assert train(run, *settings) == 0
    best = load_checkpoint(run / "checkpoints/last.pt")["progress"]["best"]
    assert best == pytest.approx(max(logged(run, "noisy", "accuracy")))
    assert logged(run, "plain", "accuracy") == logged(run, "validation", "accuracy")
    assert logged(run, "noisy", "accuracy") != logged(run, "validation", "accuracy")


@pytest.mark.parametrize("name", ["validation", "train", "a/b", ".."])
def test_a_reserved_name_of_a_validation_set_is_reported(
    tmp_path: Path, train: Command, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert train(tmp_path / "run", f"data.validation_sets={{{name}: {{}}}}") == 2
    assert f"data.validation_sets.{name}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class NeedsMore(Synthetic):
    """Needs something that the training set does not fit."""

    fitted = ("mean_and_std", "vocabulary")


def test_a_validation_set_that_needs_other_fitted_attributes_is_reported(
    tmp_path: Path,
    train: Command,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(synthetic, "NeedsMore", NeedsMore, raising=False)
    assert train(tmp_path / "run", "data.validation_sets={more: {name: synthetic.NeedsMore}}") == 2
    message = capsys.readouterr().err
    for part in ("data.validation_sets.more", "NeedsMore", "vocabulary"):
        assert part in message
    assert not (tmp_path / "run").exists()


def test_an_unknown_setting_of_a_validation_set_is_reported(
    tmp_path: Path, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(tmp_path / "run", "data.validation_sets={noisy: {niose: 1}}") == 2
    assert "data.validation_sets.noisy.niose" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_validation_set_has_its_own_batches(make_settings: Callable[..., Settings]) -> None:
    sets = "data.validation_sets={small: {batch_size: 20, workers: 1}}"
    loader = build_training_loaders(make_settings(sets))["small"]
    assert loader.step_size == EVALUATION_BATCH_FACTOR * 20
    assert loader.workers == 1


@pytest.mark.parametrize("change", ["sampler: balanced", "drop_last: true", "validation_sets: {}"])
def test_a_setting_without_an_effect_on_a_validation_set_is_reported(
    tmp_path: Path, train: Command, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    assert train(tmp_path / "run", f"data.validation_sets={{other: {{{change}}}}}") == 2
    name = change.partition(":")[0]
    assert f"data.validation_sets.other.{name}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


class Shifted(Noisy):
    """A data set with another title."""

    title = "shifted images"


def test_a_validation_set_of_the_run_can_be_evaluated(
    tmp_path: Path,
    train: Command,
    command: Command,
    logged: Logged,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(synthetic, "Shifted", Shifted, raising=False)
    run = tmp_path / "run"
    sets = "data.validation_sets={plain: {}, shifted: {name: synthetic.Shifted, noise: 99.0}}"
    assert train(run, "model.name=networks.MLP", "trainer.epochs=1", sets) == 0

    accuracies = {}
    for name in ("validation", "plain", "shifted"):
        assert command("evaluate", run, "--split", name) == 0
        metrics = json.loads((run / f"evaluation/{name}/metrics.json").read_text(encoding="utf-8"))
        assert metrics["split"] == name
        accuracies[name] = metrics["accuracy"]
        assert accuracies[name] == pytest.approx(logged(run, name, "accuracy")[0], abs=1e-6)
    assert accuracies["plain"] == accuracies["validation"] != accuracies["shifted"]
    assert metrics["data"] == "shifted images"
    assert (run / "evaluation/shifted/confusion_matrix.png").exists()

    capsys.readouterr()
    assert command("evaluate", run, "--split", "shiftd") == 2
    printed = capsys.readouterr().err
    assert "--split shiftd" in printed
    for name in ("train", "validation", "test", "plain", "shifted"):
        assert name in printed
    assert len(list((run / "evaluation").iterdir())) == 3


# Finite values


class Masked(Plain):
    """Has a buffer with infinite values, as a causal mask has."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.model.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))


def test_infinity_in_a_buffer_is_no_error(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, kind=Masked)
    trainer.fit()
    assert trainer.progress.step == 32


# Messages


def test_only_an_improvement_is_reported_as_the_best_so_far(
    tmp_path: Path, train: Command, logged: Logged, capsys: pytest.CaptureFixture[str]
) -> None:
    # At such a learning rate no weight changes, so that all validations have the same result.
    unchanged = tmp_path / "unchanged"
    settings = [*SMALL_MODEL, "trainer.epochs=3"]
    assert train(unchanged, *settings, "optimizer.lr=1e-30") == 0
    assert len(set(logged(unchanged, "validation", "loss"))) == 1
    lines = [line for line in capsys.readouterr().out.splitlines() if "epoch " in line]
    assert ["best so far" in line for line in lines] == [True, False, False]

    changed = tmp_path / "changed"
    assert train(changed, *settings, "scheduler.name=constant") == 0
    losses = logged(changed, "validation", "loss")
    lines = [line for line in capsys.readouterr().out.splitlines() if "epoch " in line]
    expected = []
    for index, loss in enumerate(losses):
        expected.append(index == 0 or loss < min(losses[:index]))
    assert sum(expected) > 1
    assert ["best so far" in line for line in lines] == expected


# Optimizers

RETURNED = {  # what a method may return by mistake, and parts of the message about it
    "nothing": (None, ["None"]),
    "nothing in a list": ([], ["empty list"]),
    "a mapping": ({"optimizer": 1}, ["dict"]),
    "optimizers and schedulers": (([1], [2]), ["tuple", "list"]),
    "a class": ([torch.optim.SGD], ["list", "type"]),
}


@pytest.mark.parametrize("case", RETURNED)
def test_what_is_no_optimizer_is_reported_with_the_method_that_returned_it(
    make_trainer: MakeTrainer, case: str
) -> None:
    returned, parts = RETURNED[case]

    class Wrong(Plain):
        def configure_optimizers(self) -> Any:
            return returned

    with pytest.raises(UserError) as error:
        check_trainer(make_trainer(*SMALL_MODEL, kind=Wrong))
    assert error.value.exit_code == 2
    message = str(error.value)
    assert message.startswith("Wrong.configure_optimizers returned")
    for part in parts:
        assert part in message


class WithoutList(Plain):
    """Returns a single optimizer."""

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=0.1)


class WithTuple(Plain):
    """Returns a tuple of optimizers."""

    def configure_optimizers(self) -> Any:
        parameters = list(self.model.parameters())
        return torch.optim.SGD(parameters[:1], lr=0.1), torch.optim.Adam(parameters[1:])


@pytest.mark.parametrize(("kind", "count"), [(WithoutList, 1), (WithTuple, 2)])
def test_one_optimizer_or_a_tuple_of_them_can_be_returned(
    make_trainer: MakeTrainer, kind: type[BaseTrainer], count: int
) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.max_steps=1", kind=kind)
    before = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.fit()
    assert len(trainer.optimizers) == count
    for old, new in zip(before, trainer.model.parameters(), strict=True):
        assert not torch.equal(old, new)


class FromFolder(Synthetic):
    """Reads a file in its folder."""

    def __init__(self, root: Path, split: str | None, seed: int) -> None:
        super().__init__(root, split, seed)
        (root / "labels.txt").read_text(encoding="utf-8")


def test_the_folder_of_a_validation_set_is_found_from_another_folder(
    tmp_path: Path, train: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(synthetic, "FromFolder", FromFolder, raising=False)
    for name in ("start/more", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "start/more/labels.txt").write_text("", encoding="utf-8")
    run = tmp_path / "run"
    sets = "data.validation_sets={more: {name: synthetic.FromFolder, root: more}}"
    monkeypatch.chdir(tmp_path / "start")
    assert train(run, "model.name=networks.MLP", sets, "trainer.max_steps=1") == 0
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command("evaluate", run, "--split", "more") == 0
    assert command("train", "--resume", run, "trainer.max_steps=2") == 0
