"""Optimizers, learning rate schedules and the moving average of the weights."""
# ruff: noqa: D103  the names of the tests state what they test

import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from base.base_dataset import BaseDataset, Batch
from base.base_model import BaseModel
from base.base_trainer import BaseTrainer
from base.batch_loader import Step
from builders import build_model, initialize_lazy_layers, restore_trainer
from model import networks
from optim import schedules
from optim.moving_average import MovingAverage, decay_after, describe_short_average
from optim.schedulers import build_schedule
from sanity_check import check_trainer
from storage.checkpoint_file import load_checkpoint
from storage.state import evaluation_weights
from trainer.classifier import Classifier
from utils.errors import NonFiniteError, UserError

MakeTrainer = Callable[..., Any]
MakeSettings = Callable[..., Any]
Logged = Callable[..., list[float]]
NO_SMOOTHING = "loss.label_smoothing=0"
SMALL_MODEL = ("model.name=networks.MLP", "model.width=16")
OPTIMIZERS = ("SGD", "AdamW", "RMSprop", "Adam", "NAdam", "RAdam", "Adagrad", "Adadelta", "Rprop")


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
    ("name", "rate"),
    [
        *[("SGD", 0.1), ("AdamW", 0.01), ("RMSprop", 0.001), ("Adam", 0.01), ("Rprop", 0.001)],
        ("LBFGS", 0.1),
    ],
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


def groups_of(trainer: BaseTrainer) -> dict[str, dict[str, Any]]:
    """The parameter groups by name, with the names of their parameters."""
    names = {parameter: name for name, parameter in trainer.model.named_parameters()}
    groups: dict[str, dict[str, Any]] = {}
    for group in trainer.optimizers[0].param_groups:
        parameters = [names[parameter] for parameter in group["params"]]
        groups[group.get("name", "")] = {**group, "params": parameters}
    return groups


def test_adamw_does_not_decay_biases_and_normalisation(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("optimizer={name: AdamW, weight_decay: 0.1}")
    groups = groups_of(trainer)
    assert groups[""]["weight_decay"] == 0.1
    assert groups["no decay"]["weight_decay"] == 0
    for name in groups["no decay"]["params"]:
        assert trainer.model.get_parameter(name).ndim == 1
    for name in groups[""]["params"]:
        assert trainer.model.get_parameter(name).ndim > 1


def test_no_decay_can_be_set_for_any_optimizer(make_trainer: MakeTrainer) -> None:
    plain = "optimizer={name: SGD, weight_decay: 0.1}"
    assert set(groups_of(make_trainer(plain))) == {""}
    assert set(groups_of(make_trainer(plain, "optimizer.no_decay=true"))) == {"", "no decay"}
    adamw = "optimizer={name: AdamW, no_decay: false}"
    assert set(groups_of(make_trainer(adamw))) == {""}


def test_groups_have_their_own_arguments_and_a_column_each(
    make_trainer: MakeTrainer, logged: Logged
) -> None:
    groups = "optimizer.groups={'head.*': {lr: 0.01, momentum: 0.5}, '*.bias': {lr: 0.1}}"
    trainer = make_trainer("optimizer.lr=0.1", groups, "trainer.max_steps=1")
    found = groups_of(trainer)
    assert found["head.*"]["momentum"] == 0.5
    assert found["head.*"]["params"] == ["head.weight", "head.bias"]
    trainer.fit()
    assert logged(trainer.run, "train", "lr") == [
        pytest.approx(10 * rate) for rate in logged(trainer.run, "train", "lr of head.*")
    ]
    assert logged(trainer.run, "train", "lr of *.bias") == []  # it equals `lr`


def test_each_layer_has_a_lower_rate_than_the_next(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer("optimizer.lr=0.1", "model.layer_decay=0.5")
    rates = {}
    for group in groups_of(trainer).values():
        for name in group["params"]:
            rates[name] = group["lr"]
    assert rates["head.weight"] == 0.1
    different_rates = sorted(set(rates.values()), reverse=True)
    assert different_rates == [0.1 * 0.5**k for k in range(len(different_rates))]
    assert len(different_rates) > 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimizer.groups={'haed.*': {lr: 0.1}}", r"'haed\.\*' .*did you mean 'head\.\*'"),
        (
            "optimizer.groups={'head.*': {lrr: 0.1}}",
            r"groups\.head\.\*\.lrr; did you mean .*\.lr\?",
        ),
        ("optimizer.groups={'head.*': {lr: fast}}", r"groups\.head\.\*\.lr .*number"),
        ("optimizer={name: schedulfree.AdamWScheduleFree}", "no such name"),
        ("optimizer={name: SGD, nesterov: true}", "'SGD'.*momentum"),
    ],
)
def test_wrong_groups_and_names_are_reported(
    make_trainer: MakeTrainer, change: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        _ = make_trainer(change).optimizers


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


def test_warm_up_with_a_scheduler_of_torch_is_rejected(make_settings: MakeSettings) -> None:
    settings = make_settings("scheduler={name: ExponentialLR, gamma: 0.9, warmup: 0.1}")
    with pytest.raises(UserError, match=r"scheduler\.warmup.*ExponentialLR"):
        build_schedule(settings.scheduler, 12, 4)


def test_an_optimizer_with_two_modes_is_evaluated_in_the_other_one(
    make_trainer: MakeTrainer, logged: Logged
) -> None:
    pytest.importorskip("schedulefree")
    schedule_free = "optimizer={name: schedulefree.SGDScheduleFree, lr: 0.1}"
    trainer = make_trainer(*SMALL_MODEL, schedule_free, "trainer.max_steps=9", NO_SMOOTHING)
    trainer.fit()
    weights = copy_of_weights(trainer)
    state = load_checkpoint(trainer.run / "checkpoints/last.pt")
    assert torch.equal(state["model"]["layers.1.weight"], weights["layers.1.weight"])
    evaluated = evaluation_weights(state)
    assert not torch.allclose(evaluated["layers.1.weight"], weights["layers.1.weight"])
    trainer.evaluate("validation")
    for name, value in copy_of_weights(trainer).items():
        assert torch.equal(value, weights[name]), name

    model = build_model(trainer.settings, trainer.dataset).eval()
    model.load_state_dict(evaluated)
    batch = all_samples(trainer.loaders["validation"].dataset)
    loss = nn.functional.cross_entropy(model(batch["input"]), batch["target"]).item()
    assert logged(trainer.run, "validation", "loss") == [pytest.approx(loss, rel=1e-4)]


def copy_of_weights(trainer: BaseTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def test_a_closure_is_rejected_with_a_scaler(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset]
) -> None:
    trainer = make_trainer(*SMALL_MODEL, "optimizer.name=LBFGS", "trainer.precision=fp16")
    with pytest.raises(UserError, match=r"LBFGS.*trainer\.precision"):
        trainer.update(step_of(all_samples(splits["train"])))


def test_state_of_other_parameter_groups_is_rejected(make_trainer: MakeTrainer) -> None:
    first = make_trainer(*SMALL_MODEL, "trainer.max_steps=1")
    first.fit()
    state = load_checkpoint(first.run / "checkpoints/last.pt")
    second = make_trainer(*SMALL_MODEL, "optimizer.groups={'*.bias': {lr: 0.1}}")
    with pytest.raises(UserError, match=r"parameter groups .*optimizer\.groups"):
        second.load_state_dict(state)


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
    "{name: multi_step, milestones: [1, 2], factor: 0.5}": [1.0] * 4 + [0.5] * 4 + [0.25] * 4,
    "{name: linear}": [1 - k / 12 for k in range(12)],
    "{name: polynomial, power: 2}": [(1 - k / 12) ** 2 for k in range(12)],
    "{name: inverse_square_root, warmup: 0.25}": [
        *[0.25, 0.5, 0.75],
        *[math.sqrt(3 / (k + 1)) for k in range(3, 12)],
    ],
    "{name: warmup_stable_decay, warmup: 0.25, decay: 0.25}": [
        *[0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 1],
        *[1, 2 / 3, 1 / 3],
    ],
    "{name: cosine_restarts, cycles: 3}": [
        (1 + math.cos(math.pi * (k % 4) / 4)) / 2 for k in range(12)
    ],
    "{name: cosine, warmup: 0.25, start: 0.1, final: 0.02}": list(map(cosine, range(12))),
    "{name: one_cycle, rise: 0.25, initial: 0.1, final: 0.02}": list(map(one_cycle, range(12))),
}


@pytest.mark.parametrize("schedule", EXPECTED_FACTORS)
def test_learning_rate_factor_follows_the_schedule(
    make_settings: MakeSettings, schedule: str
) -> None:
    settings = make_settings(f"scheduler={schedule}")
    function = build_schedule(settings.scheduler, 12, 4)
    assert function is not None
    factors = [function(k) for k in range(12)]
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


# Schedulers of torch


def test_a_plateau_in_the_wrong_direction_is_reported(make_trainer: MakeTrainer) -> None:
    plateau = ("scheduler={name: ReduceLROnPlateau, patience: 0}", "checkpoint.monitor=accuracy")
    with pytest.raises(UserError, match=r"scheduler\.mode = 'min'.*accuracy.*scheduler\.mode=max"):
        check_trainer(make_trainer("model.name=networks.MLP", *plateau))


def test_the_logged_rate_of_a_scheduler_is_that_of_the_step(
    make_trainer: MakeTrainer, logged: Logged
) -> None:
    scheduler = "scheduler={name: StepLR, step_size: 1, gamma: 0.5, interval: step}"
    changes = (*SMALL_MODEL, scheduler, "optimizer.lr=0.2", "logger.every_steps=1")
    trainer = make_trainer(*changes, "trainer.max_steps=4", kind=Recorder)
    trainer.fit()
    assert trainer.recorded_rates == pytest.approx([0.2, 0.1, 0.05, 0.025])
    assert logged(trainer.run, "train", "lr") == pytest.approx(trainer.recorded_rates)


def test_options_that_no_scheduler_changes_come_from_the_settings(
    make_trainer: MakeTrainer,
) -> None:
    changes = (*SMALL_MODEL, "scheduler={name: StepLR, step_size: 1}", "optimizer.lr=0.1")
    trainer = make_trainer(*changes, "trainer.max_steps=20")
    trainer.fit()
    state = load_checkpoint(trainer.run / "checkpoints/last.pt")
    resumed = make_trainer(*changes, "optimizer.weight_decay=0.5", "optimizer.lr=0.7")
    resumed.load_state_dict(state)
    (group,) = resumed.optimizers[0].param_groups
    assert group["weight_decay"] == 0.5
    assert group["lr"] == pytest.approx(0.001)  # as the scheduler has set it


# The moving average


def test_moving_average_of_the_weights_is_saved_and_evaluated(
    make_trainer: MakeTrainer, logged: Logged
) -> None:
    trainer = make_trainer("trainer.ema=0.75", "trainer.max_steps=4", NO_SMOOTHING, kind=Recorder)
    trainer.fit()
    first_weights, *later_weights = trainer.recorded_weights
    average = {}
    for name, value in first_weights.items():
        if value.is_floating_point():
            average[name] = value.clone()
    for updates, weights in enumerate(later_weights, start=1):
        decay = min(0.75, (1 + updates) / (10 + updates))  # the decay warms up
        for name in average:
            average[name] = decay * average[name] + (1 - decay) * weights[name]

    saved = evaluation_weights(load_checkpoint(trainer.run / "checkpoints/last.pt"))
    for name, value in average.items():
        assert torch.allclose(saved[name], value, atol=1e-6), name
    assert not torch.allclose(saved["head.weight"], later_weights[-1]["head.weight"])

    model = build_model(trainer.settings, trainer.dataset).eval()
    model.load_state_dict(average, strict=False)
    batch = all_samples(trainer.loaders["validation"].dataset)
    loss = nn.functional.cross_entropy(model(batch["input"]), batch["target"]).item()
    assert logged(trainer.run, "validation", "loss") == [pytest.approx(loss, rel=1e-4)]


def test_an_average_that_a_resumed_run_begins_starts_from_the_restored_weights(
    make_trainer: MakeTrainer,
) -> None:
    trainer = make_trainer("trainer.max_steps=3")
    trainer.fit()
    resumed = make_trainer("trainer.max_steps=3", "trainer.ema=0.9")
    resumed.load_state_dict(load_checkpoint(trainer.run / "checkpoints/last.pt"))
    for name, value in resumed.evaluated_model.state_dict().items():
        assert torch.equal(value, trainer.model.state_dict()[name]), name


def test_an_average_of_a_model_that_cannot_be_copied_is_refused() -> None:
    model: Any = nn.Linear(1, 1)
    model.lock = threading.Lock()
    with pytest.raises(UserError, match=r"trainer\.ema: Linear cannot be copied.*lock"):
        MovingAverage(model, 0.9)


def test_the_average_follows_the_weights_before_its_decay_is_reached() -> None:
    model = nn.Linear(1, 1)
    average: Any = MovingAverage(model, 0.999)
    for step in range(101):
        nn.init.constant_(model.weight, float(step))
        average.update_parameters(model)
    assert 80 < average.module.weight.item() < 100  # 0.999 alone would give 5
    assert decay_after(10**6, 0.999) == 0.999


class ManyTypes(nn.Module):
    """Parameters and buffers of many dtypes, as layers of other projects have them."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = nn.Parameter(torch.zeros(2))
        self.precise = nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.waves = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
        self.codes = nn.Parameter(torch.zeros(2, dtype=torch.int8), requires_grad=False)
        self.frozen_half = nn.Parameter(torch.zeros(2, dtype=torch.half), requires_grad=False)
        for dtype in (torch.bool, torch.int64, torch.half, torch.complex64, torch.float32):
            self.register_buffer(str(dtype).replace(".", "_"), torch.zeros(2, dtype=dtype))
        self.register_buffer("mask", torch.full((2, 2), -torch.inf).triu(1))
        self.register_buffer("lowest", torch.tensor(torch.inf))

    def set_all(self, value: int) -> None:
        """Sets all tensors except the mask to a number."""
        for name, tensor in self.state_dict().items():
            if name != "mask":
                tensor.fill_(value)


def test_numbers_are_averaged_in_their_dtype_and_everything_else_is_copied() -> None:
    model = ManyTypes()
    average: Any = MovingAverage(model, 0.5)
    average.update_parameters(model)
    assert average.module.lowest.isinf()
    for value in (2, 4):
        model.set_all(value)
        average.update_parameters(model)
    averaged = average.module.state_dict()
    first = 2 * (1 - 2 / 11)
    expected = first * 3 / 12 + 4 * 9 / 12
    for name in ("plain", "precise", "waves", "torch_complex64", "torch_float32"):
        value = averaged[name].real.flatten()[0].item()
        assert value == pytest.approx(expected), name
    for name in ("codes", "frozen_half", "torch_int64", "torch_float16"):
        assert averaged[name][0].item() == 4, name
    assert averaged["torch_bool"].all()
    assert torch.equal(averaged["mask"], model.state_dict()["mask"])
    assert averaged["lowest"].item() == pytest.approx(2 * 3 / 12 + 4 * 9 / 12)


def test_an_average_of_low_precision_parameters_is_an_error() -> None:
    with pytest.raises(UserError, match=r"trainer\.ema: weight .*bfloat16"):
        MovingAverage(nn.Linear(2, 2).bfloat16(), 0.9)


def test_a_run_that_is_too_short_for_the_decay_is_described() -> None:
    assert "100 steps" in describe_short_average(0.999, 100)
    assert "8991" in describe_short_average(0.999, 8990)
    assert describe_short_average(0.999, 8992) == ""


# Parameters of other dtypes


class Waves(BaseModel):
    """Complex weights in double precision next to real ones, and integers."""

    def __init__(self) -> None:
        super().__init__()
        self.waves = nn.Parameter(torch.ones(784, 4, dtype=torch.complex128) / 784)
        self.head = nn.Linear(4, 10)
        self.codes = nn.Parameter(torch.ones(2, dtype=torch.int64), requires_grad=False)

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, 10), of images, shape (N, 1, 28, 28)."""
        return self.head((input.flatten(1).to(self.waves.dtype) @ self.waves).abs().float())


@pytest.mark.parametrize("name", ["SGD", "AdamW", "RMSprop", "LBFGS"])
def test_complex_parameters_are_trained_clipped_and_averaged(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(networks, "MLP", Waves)
    changes = ("trainer.ema=0.9", "trainer.clip_norm=0.1", "trainer.max_steps=3")
    trainer = make_trainer("model.name=networks.MLP", f"optimizer.name={name}", *changes)
    before = trainer.model.waves.detach().clone()
    check_trainer(trainer)
    trainer.fit()
    assert not torch.equal(trainer.model.waves, before)
    saved = evaluation_weights(load_checkpoint(trainer.run / "checkpoints/last.pt"))
    assert saved["waves"].dtype == torch.complex128
    assert not torch.equal(saved["waves"], trainer.model.waves)
    trainer.model.waves.data[0, 0] = complex(0, math.nan)
    with pytest.raises(NonFiniteError, match="waves"):
        trainer.check_weights(1)


def test_complex_parameters_exclude_fp16(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "MLP", Waves)
    with pytest.raises(UserError, match=r"trainer\.precision.*complex"):
        make_trainer("model.name=networks.MLP", "trainer.precision=fp16")


# Models without shapes or parameters


class Lazy(BaseModel):
    """Layers that get their shapes from the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.LazyLinear(4), nn.LazyBatchNorm1d())
        self.head = nn.LazyLinear(10)

    def forward(self, input: Tensor) -> Tensor:
        """Logits, shape (N, 10), of images, shape (N, 1, 28, 28)."""
        return self.head(self.layers(input))


def test_lazy_layers_are_trained_averaged_and_restored(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "MLP", Lazy)
    trainer = make_trainer("model.name=networks.MLP", "trainer.ema=0.9", "trainer.max_steps=2")
    check_trainer(trainer)
    trainer.fit()
    restored, _ = restore_trainer([trainer.run / "checkpoints/last.pt"], "validation", [])
    found = restored.evaluate("validation")["loss"]
    assert found == pytest.approx(trainer.evaluate("validation")["loss"].item(), rel=1e-5)


class Unusable(Lazy):
    """A lazy layer that `forward` does not use, and one that fails."""

    def __init__(self, fails: bool, other: nn.Module) -> None:
        super().__init__()
        self.fails = fails
        self.other = other

    def forward(self, input: Tensor) -> Tensor:
        """As `Lazy`, unless it fails."""
        if self.fails:
            raise RuntimeError("two inputs, please")
        return super().forward(input)


@pytest.mark.parametrize(
    ("fails", "layer", "part"),
    [
        (True, nn.LazyLinear(3), "two inputs"),
        (False, nn.LazyLinear(3), r"other\.weight"),
        (False, nn.LazyBatchNorm1d(affine=False), r"other\.running_mean"),
    ],
)
def test_lazy_layers_without_a_shape_are_reported(
    splits: dict[str, BaseDataset], fails: bool, layer: nn.Module, part: str
) -> None:
    with pytest.raises(UserError, match=rf"Unusable .*lazy.*{part}"):
        initialize_lazy_layers(Unusable(fails, layer), splits["train"])


class WithoutParameters(BaseModel):
    """A baseline that has nothing to learn."""

    def forward(self, input: Tensor) -> Tensor:
        """The input."""
        return input


def test_a_model_without_parameters_is_not_called_frozen(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "MLP", WithoutParameters)
    with pytest.raises(UserError, match=r"WithoutParameters has no parameters") as caught:
        _ = make_trainer("model.name=networks.MLP").optimizers
    assert "freeze" not in str(caught.value)


def test_a_model_whose_parameters_are_all_frozen_is_reported(make_trainer: MakeTrainer) -> None:
    with pytest.raises(UserError, match=r"frozen.*model\.freeze"):
        _ = make_trainer(*SMALL_MODEL, "model.freeze=['*']").optimizers


# Errors in schedules and optimizers


@pytest.mark.parametrize("value", [math.nan, math.inf, -1.0, None])
def test_a_schedule_that_fails_late_is_reported_before_training(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, value: Any
) -> None:
    def late(step: int) -> Any:
        return value if step > 20 else 1.0

    late.__module__ = schedules.__name__
    monkeypatch.setattr(schedules, "constant", late)
    trainer = make_trainer(*SMALL_MODEL, "scheduler.name=constant")
    with pytest.raises(UserError, match=r"scheduler\.name = 'constant': step 22 of 32"):
        check_trainer(trainer)


@pytest.mark.parametrize("name", ["LambdaLR", "MultiplicativeLR"])
def test_a_scheduler_that_needs_a_function_is_not_asked_for_a_setting(
    make_settings: MakeSettings, name: str
) -> None:
    with pytest.raises(UserError, match=r"lr_lambda.*not a plain type"):
        make_settings(f"scheduler.name={name}")


class WithoutRate(torch.optim.Optimizer):
    """An optimizer without a learning rate."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {})

    def step(self, closure: Any = None) -> Any:
        """Does nothing."""


def test_an_optimizer_without_a_learning_rate_is_reported(make_trainer: MakeTrainer) -> None:
    class Configured(Classifier):
        def configure_optimizers(self) -> Any:
            return WithoutRate(self.model.parameters())

    with pytest.raises(UserError, match=r"Configured\.configure_optimizers.*WithoutRate.*`lr`"):
        check_trainer(make_trainer(*SMALL_MODEL, kind=Configured))


def test_an_error_in_configure_optimizers_names_the_method(make_trainer: MakeTrainer) -> None:
    class Configured(Classifier):
        def configure_optimizers(self) -> Any:
            raise ValueError("betas are wrong")

    with pytest.raises(UserError, match=r"^Configured\.configure_optimizers .*betas are wrong"):
        check_trainer(make_trainer(*SMALL_MODEL, kind=Configured))
