"""Optimizers, learning rate schedules and the moving average of the weights."""
# ruff: noqa: D103  the names of the tests state what they test

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset, Batch
from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from builders import build_model
from optim.schedules import learning_rate_factor
from storage.checkpoint_file import load_checkpoint
from storage.state import evaluation_weights
from trainer.classifier import Classifier

MakeTrainer = Callable[..., Any]
MakeSettings = Callable[..., Any]
Logged = Callable[..., list[float]]
SMALL_MODEL = ("model.name=networks.MLP", "model.width=16")
OPTIMIZERS = ("SGD", "AdamW", "RMSprop", "Muon")


class Recorder(Classifier):
    """Records the learning rate of each step, and the weights after it."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.recorded_rates: list[float] = []
        self.recorded_weights: list[dict[str, Tensor]] = []

    def update(self, step: Step) -> dict[str, Tensor]:
        self.recorded_rates.append(self.optimizers[0].param_groups[0]["lr"])
        outputs = super().update(step)
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.recorded_weights.append(weights)
        return outputs


def all_samples(dataset: BaseDataset) -> Batch:
    """All samples in one transformed batch."""
    samples = dataset.__getitems__(torch.arange(len(dataset)))
    return dataset.transform(samples, None)


def step_of(batch: Batch) -> Step:
    """A step with a single batch."""
    return Step(batches=[batch], loss_weights=[1.0], sample_counts=[len(batch["target"])])


def mean_loss(trainer: BaseTrainer, batch: Batch) -> float:
    """The cross entropy of a batch."""
    return nn.functional.cross_entropy(trainer.predict(batch), batch["target"]).item()


# Optimizers


@pytest.mark.parametrize(
    ("name", "rate"), [("SGD", 0.1), ("AdamW", 0.01), ("RMSprop", 0.001), ("Muon", 0.05)]
)
def test_optimizer_lowers_the_loss(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset], name: str, rate: float
) -> None:
    batch = all_samples(splits["train"])
    trainer = make_trainer(*SMALL_MODEL, f"optimizer.name={name}", f"optimizer.lr={rate}")
    initial_loss = mean_loss(trainer, batch)
    for _ in range(15):
        trainer.update(step_of(batch))
    assert mean_loss(trainer, batch) < 0.9 * initial_loss


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_computes_the_same_as_the_class_in_torch(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset], name: str
) -> None:
    step = step_of(all_samples(splits["train"]))
    trainer = make_trainer(f"optimizer.name={name}")
    reference = make_trainer(f"optimizer.name={name}")
    torch_optimizers = []
    for optimizer in reference.optimizers:
        torch_class: Any = type(optimizer).__mro__[1]
        assert torch_class.__module__.startswith("torch.optim")
        torch_optimizers.append(torch_class(optimizer.param_groups))
    reference.optimizers = torch_optimizers
    for _ in range(3):
        trainer.update(step)
        reference.update(step)
    parameters = zip(trainer.model.parameters(), reference.model.parameters(), strict=True)
    for found, expected in parameters:
        assert torch.equal(found, expected)


def test_optimizer_calls_its_hooks(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset]
) -> None:
    trainer = make_trainer(*SMALL_MODEL)
    (optimizer,) = trainer.optimizers
    calls: list[str] = []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    trainer.update(step_of(all_samples(splits["train"])))
    assert calls == ["before", "after"]


def test_muon_trains_matrices_and_adamw_the_other_parameters(make_trainer: MakeTrainer) -> None:
    changes = ("optimizer.name=Muon", "optimizer.lr=0.03", "optimizer.adamw_lr=0.002")
    trainer = make_trainer(*changes)
    muon, adamw = trainer.optimizers
    (muon_group,) = muon.param_groups
    (adamw_group,) = adamw.param_groups
    assert [parameter.shape for parameter in muon_group["params"]] == [(10, 64)]
    assert len(adamw_group["params"]) == len(list(trainer.model.parameters())) - 1
    assert muon_group["lr"] == 0.03
    assert adamw_group["lr"] == 0.002


def test_clip_norm_bounds_the_gradient(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset]
) -> None:
    batch = all_samples(splits["train"])

    def gradient_norm(clip_norm: str) -> float:
        """The norm of the change of the weights, which is the gradient if the rate is 1."""
        plain_sgd = "optimizer={name: SGD, lr: 1.0, momentum: 0.0}"
        trainer = make_trainer(*SMALL_MODEL, plain_sgd, f"trainer.clip_norm={clip_norm}")
        before = nn.utils.parameters_to_vector(trainer.model.parameters()).detach()
        trainer.update(step_of(batch))
        after = nn.utils.parameters_to_vector(trainer.model.parameters()).detach()
        return float((after - before).norm())

    assert gradient_norm("0.01") == pytest.approx(0.01, rel=1e-3)
    assert gradient_norm("null") > 0.1


def test_other_optimizer_starts_without_the_saved_state(make_trainer: MakeTrainer) -> None:
    first = make_trainer(*SMALL_MODEL)
    first.fit()
    state = load_checkpoint(first.run / "checkpoints/step_00000016.pt")
    second = make_trainer(*SMALL_MODEL, "optimizer.name=AdamW")
    second.load_state_dict(state)
    second.fit()
    steps = {state["step"].item() for state in second.optimizers[0].state.values()}
    assert steps == {16}


# Schedules


def warm_up(step: int) -> float:
    """The factor in a warm-up of three steps, from 0.1."""
    return 0.1 + 0.9 * (step + 1) / 4


def cosine(step: int) -> float:
    if step < 3:
        return warm_up(step)
    return 0.02 + 0.98 * (1 + math.cos(math.pi * (step - 3) / 9)) / 2


def one_cycle(step: int) -> float:
    if step < 3:
        return warm_up(step)
    return 1 - 0.98 * (step - 3) / 9


# The factor of each of the 12 steps of three epochs.
EXPECTED_FACTORS = {
    "{name: constant}": [1.0] * 12,
    "{name: step, epochs: 2, factor: 0.3}": [1.0] * 8 + [0.3] * 4,
    "{name: exponential, factor: 0.5}": [1.0] * 4 + [0.5] * 4 + [0.25] * 4,
    "{name: cosine, warmup: 0.25, start: 0.1, final: 0.02}": list(map(cosine, range(12))),
    "{name: one_cycle, warmup: 0.25, start: 0.1, final: 0.02}": list(map(one_cycle, range(12))),
}


@pytest.mark.parametrize("schedule", EXPECTED_FACTORS)
def test_learning_rate_factor_follows_the_schedule(
    make_settings: MakeSettings, schedule: str
) -> None:
    settings = make_settings(f"scheduler={schedule}")
    factors = [learning_rate_factor(settings.scheduler, k, 12, 4) for k in range(12)]
    assert factors == pytest.approx(EXPECTED_FACTORS[schedule], rel=1e-6)


@pytest.mark.parametrize("schedule", EXPECTED_FACTORS)
def test_learning_rates_of_training_follow_the_schedule(
    make_trainer: MakeTrainer, logged: Logged, schedule: str
) -> None:
    # Three epochs of four steps.
    changes = ("data.batch_size=200", "trainer.epochs=3", "logger.every_steps=1")
    scheduler = f"scheduler={schedule}"
    trainer = make_trainer(*SMALL_MODEL, *changes, "optimizer.lr=0.2", scheduler, kind=Recorder)
    trainer.fit()
    expected = [0.2 * factor for factor in EXPECTED_FACTORS[schedule]]
    assert trainer.recorded_rates == pytest.approx(expected, rel=1e-6)
    assert logged(trainer.run, "train", "lr") == pytest.approx(expected, rel=1e-6)


# The moving average


def test_moving_average_of_the_weights_is_saved_and_evaluated(
    make_trainer: MakeTrainer, logged: Logged
) -> None:
    trainer = make_trainer("trainer.ema=0.75", "trainer.max_steps=4", kind=Recorder)
    trainer.fit()
    first_weights, *later_weights = trainer.recorded_weights
    average = {}
    for name, value in first_weights.items():
        if value.is_floating_point():
            average[name] = value.clone()
    for weights in later_weights:
        for name in average:
            average[name] = 0.75 * average[name] + 0.25 * weights[name]

    saved = evaluation_weights(load_checkpoint(trainer.run / "checkpoints/last.pt"))
    for name, value in average.items():
        assert torch.allclose(saved[name], value, atol=1e-6), name
    assert not torch.allclose(saved["head.weight"], later_weights[-1]["head.weight"])

    model = build_model(trainer.settings, trainer.dataset).eval()
    model.load_state_dict(average, strict=False)
    batch = all_samples(trainer.loaders["validation"].dataset)
    loss = nn.functional.cross_entropy(model(batch["input"]), batch["target"]).item()
    assert logged(trainer.run, "validation", "loss") == [pytest.approx(loss, rel=1e-4)]
