"""Samplers: which training samples an epoch has, and in which order."""
# ruff: noqa: D103  the names of the tests state what they test

import importlib
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from conftest import CONFIG, ROOT
from ruamel.yaml import YAML
from stopped_runs import differences, during_step, load, saved_step
from torch import Tensor

from base.base_dataset import BaseDataset, Sample
from base.base_sampler import BaseSampler
from base.batch_loader import BatchLoader, StepSource
from base.sample_order import SampleOrder, build_sample_order
from builders import build_loader, build_training_loaders
from config.loading import load_settings
from config.schema import SamplerSettings, Settings
from data_loader import samplers
from data_loader.samplers import balanced, bucketed, sequential, shuffled, weighted
from data_loader.synthetic import Synthetic
from trainer.classifier import Classifier
from utils.errors import LoadingError, UserError
from utils.randomness import draw_with_replacement, make_generator

MakeTrainer = Callable[..., Any]
MakeSettings = Callable[..., Settings]
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
FORKS = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
SMALL_MODEL = ("model.name=networks.MLP", "model.width=16")
SHIPPED = {
    "shuffled": "shuffled",
    "sequential": "sequential",
    "balanced": "balanced",
    "weighted": "{name: weighted, weights: [1, 2, 3, 4, 5, 6, 7, 8, 9, 0]}",
    "bucketed": "{name: bucketed, pool_steps: 3}",
}
MY_SAMPLERS = '''
"""Samplers of a project."""

from typing import Any

import torch
from torch import Tensor

from base.base_dataset import BaseDataset
from base.base_sampler import BaseSampler


def hard_first(dataset: BaseDataset, epoch: int, fraction: float = 0.5) -> Tensor:
    count = int(fraction * len(dataset))
    return (torch.arange(count) + epoch) % len(dataset)


def unseeded(dataset: BaseDataset) -> Tensor:
    return torch.randperm(len(dataset))


class Curriculum(BaseSampler):
    """The first samples only, more often if the loss is low.

    Args:
        dataset: the training set.
        seed: random seed of the run.
        width: Number of samples to choose from.
    """

    def __init__(self, dataset: BaseDataset, seed: int, width: int = 100) -> None:
        self.count = len(dataset)
        self.seed = seed
        self.width = width
        self.losses: list[float] = []

    def __call__(self, epoch: int) -> Tensor:
        shift = round(1e6 * sum(self.losses))
        return (torch.arange(self.count) * 7 + shift + self.seed) % self.width

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.losses = list(state["losses"])


class Other(Curriculum):
    def state_dict(self) -> dict[str, Any]:
        return {"other": 1}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert state["other"] == 1


class OneSided(BaseSampler):
    def __call__(self, epoch: int) -> Tensor:
        return torch.arange(3)

    def state_dict(self) -> dict[str, Any]:
        return {}


class Forgetful(BaseSampler):
    """Has no `state_dict`, although its orders would depend on the losses."""

    def __call__(self, epoch: int) -> Tensor:
        return torch.arange(3)

    def record_losses(self, indices: Tensor, losses: Tensor) -> None:
        raise AssertionError("it must not be called")


class Unrelated:
    def __call__(self, epoch: int) -> Tensor:
        return torch.arange(3)
'''


@pytest.fixture
def my_samplers(few_files: Path) -> None:
    """Adds data_loader/my_samplers.py to a copy of the project."""
    file = few_files / "data_loader/my_samplers.py"
    file.write_text(dedent(MY_SAMPLERS), encoding="utf-8")
    importlib.invalidate_caches()


class Numbers(BaseDataset):
    """Sample k is the number k; with the attributes that samplers read."""

    title = "numbers"

    targets: Any
    lengths: Any
    sample_weights: Any

    def __init__(self, count: int, sample_weights: Any = None) -> None:
        self.count = count
        if sample_weights is not None:
            self.sample_weights = sample_weights

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        return {"input": torch.tensor(index)}


def make_numbers(count: int = 103) -> Numbers:
    """Numbers of two classes, a twentieth and the rest, whose lengths are random."""
    targets = (torch.arange(count) % 20 == 0).long()
    lengths = torch.randint(1, 200, (count,), generator=torch.Generator().manual_seed(1))
    numbers = Numbers(count)
    numbers.targets = targets
    numbers.classes = ("common", "rare")
    numbers.lengths = lengths
    return numbers


def make_order(
    dataset: BaseDataset, name: str, step_size: int = 12, seed: int = 0, **arguments: Any
) -> SampleOrder:
    """The order of a shipped sampler."""
    options = SamplerSettings(name=name, **arguments)
    return build_sample_order(options, dataset, seed, step_size)


def loaded(loader: BatchLoader, first: int, last: int) -> list[list[int]]:
    """The samples of `Numbers` in each step from `first` up to `last`, as they are loaded."""
    values = []
    for step in loader.steps(first, last):
        values.append([k for batch in step.batches for k in batch["input"].tolist()])
    return values


def refusal(*changes: str) -> str:
    """The message about settings that are not accepted."""
    with pytest.raises(UserError) as error:
        load_settings(CONFIG, changes)
    assert error.value.exit_code == 2
    return str(error.value)


def error_of(function: Callable[..., Any], *arguments: Any, **options: Any) -> str:
    """The message of the UserError that a call raises."""
    with pytest.raises(UserError) as error:
        function(*arguments, **options)
    return str(error.value)


# The shipped samplers


def test_shuffled_is_the_order_of_the_loader(make_settings: MakeSettings) -> None:
    dataset = make_numbers()
    for settings in (make_settings(), make_settings("data.sampler=shuffled")):
        assert build_loader(settings, dataset, training=True).order is None
    source = StepSource(dataset, 12, seed=3)
    first_step = 2 * source.steps_per_epoch
    steps = range(first_step, first_step + source.steps_per_epoch)
    expected = torch.cat([source.sample_indices(step) for step in steps])
    assert torch.equal(shuffled(dataset, 3, 2, 12), expected)
    assert sorted(expected.tolist()) == list(range(103))


def test_sequential_is_the_order_of_the_data_set() -> None:
    order = make_order(make_numbers(), "sequential")
    assert order(0).tolist() == order(3).tolist() == list(range(103))


@pytest.mark.parametrize("name", ["balanced", "weighted", "bucketed", "shuffled"])
def test_random_orders_depend_on_seed_and_epoch_only(name: str) -> None:
    dataset = make_numbers()
    dataset.sample_weights = torch.arange(103)
    orders = {}
    for seed in (1, 2):
        for epoch in (0, 1):
            torch.rand(1)
            orders[seed, epoch] = make_order(dataset, name, seed=seed)(epoch)
            assert torch.equal(orders[seed, epoch], make_order(dataset, name, seed=seed)(epoch))
    assert len({tuple(order.tolist()) for order in orders.values()}) == 4


def class_counts(dataset: Any, order: Tensor) -> list[int]:
    """How often each class of a data set with hard targets occurs in an order."""
    counts: list[int] = dataset.targets[order].bincount(minlength=len(dataset.classes)).tolist()
    return counts


def test_balanced_draws_each_class_equally_often() -> None:
    dataset = make_numbers(20_000)
    assert dataset.targets.sum() == 1000
    order = balanced(dataset, 0, 0)
    common, rare = class_counts(dataset, order)
    assert common + rare == 20_000
    assert abs(rare - 10_000) < 5 * 5000**0.5  # standard deviations
    # With replacement, and each sample of a class equally often: a Poisson distribution.
    variance = order.bincount(minlength=20_000)[dataset.targets == 1].double().var().item()
    assert variance == pytest.approx(10, rel=0.25)


def test_balanced_ignores_classes_without_samples() -> None:
    dataset = make_numbers(1000)
    dataset.targets = 2 * dataset.targets
    dataset.classes = ("common", "none", "rare")
    common, none, rare = class_counts(dataset, balanced(dataset, 0, 0))
    assert none == 0
    assert min(common, rare) > 400


def test_balanced_reads_class_probabilities() -> None:
    hard = make_numbers(1000)
    soft = make_numbers(1000)
    soft.targets = 0.1 + 0.8 * torch.nn.functional.one_hot(hard.targets, 2).float()
    assert torch.equal(balanced(soft, 0, 3), balanced(hard, 0, 3))


@pytest.mark.parametrize("weights", [(1.0, 19.0), {"rare": 19, "common": 1}])
def test_weights_by_class_are_those_of_each_sample(weights: Any) -> None:
    dataset = make_numbers(20_000)
    common, rare = class_counts(dataset, weighted(dataset, 0, 0, weights))
    assert common + rare == 20_000
    assert abs(rare - 10_000) < 5 * 5000**0.5
    assert torch.equal(weighted(dataset, 0, 0, weights), balanced(dataset, 0, 0))


def test_weighted_draws_in_proportion_to_the_weights_of_the_samples() -> None:
    dataset = Numbers(10_000, sample_weights=torch.tensor([0, 0, 1.0, 3.0]).repeat(2500))
    residues = (weighted(dataset, 0, 0) % 4).bincount(minlength=4).tolist()
    assert residues[:2] == [0, 0]
    assert abs(residues[3] - 7500) < 5 * 1875**0.5


def test_weights_of_any_magnitude_can_be_drawn_from() -> None:
    for scale in (1e308, 1e-308):
        weights = scale * torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
        order = weighted(Numbers(1000, sample_weights=weights.repeat(250)), 0, 0)
        assert set((order % 4).tolist()) == {1, 2}


def test_more_samples_than_float32_can_count_are_drawn_equally_often() -> None:
    first = 2**24
    weights = torch.ones(first + 2**22, dtype=torch.float64)
    indices = draw_with_replacement(weights, 10_000, make_generator(0))
    later = indices[indices >= first]
    assert abs(len(later) - 2000) < 5 * 1600**0.5
    assert abs(int((later % 2).sum()) - 1000) < 5 * 500**0.5  # not only even numbers
    assert not torch.equal(indices, indices.sort().values)


def padding(lengths: Tensor, order: Tensor, size: int) -> int:
    """The padding of an epoch, if each batch is padded to its longest sample."""
    total = 0
    for batch in lengths[order].split(size):
        total += int((batch.max() - batch).sum())
    return total


def test_bucketed_batches_have_less_padding_than_shuffled_ones() -> None:
    dataset = make_numbers(5003)
    for epoch in (0, 1):
        order = bucketed(dataset, 0, epoch, 12, pool_steps=50)
        assert sorted(order.tolist()) == list(range(5003))
        of_shuffled = padding(dataset.lengths, shuffled(dataset, 0, epoch, 12), 12)
        assert padding(dataset.lengths, order, 12) < 0.05 * of_shuffled


def test_bucketed_steps_are_in_random_order() -> None:
    dataset = make_numbers(5003)
    order = bucketed(dataset, 0, 0, 12, pool_steps=50)
    means = dataset.lengths[order][:4992].reshape(-1, 12).double().mean(1)
    neighbours = torch.corrcoef(torch.stack([means[:-1], means[1:]]))[0, 1]
    assert abs(neighbours) < 5 / len(means) ** 0.5
    other = bucketed(dataset, 0, 1, 12, pool_steps=50)
    steps = {tuple(sorted(step)) for step in order[:4992].reshape(-1, 12).tolist()}
    other_steps = {tuple(sorted(step)) for step in other[:4992].reshape(-1, 12).tolist()}
    assert len(steps & other_steps) < 10  # steps of other samples, not only in another order


def test_the_smaller_last_step_of_bucketed_is_the_last_and_has_any_lengths() -> None:
    dataset = make_numbers(103)
    means = []
    for epoch in range(40):
        order = bucketed(dataset, 0, epoch, 10)
        *full_steps, last_step = dataset.lengths[order].split(10)
        assert len(last_step) == 3
        for step in full_steps:  # similar lengths
            assert step.max() - step.min() < 80
        means.append(last_step.double().mean().item())
    assert min(means) < 50
    assert max(means) > 150


@pytest.mark.parametrize("count", [1, 5, 12, 13, 24])
def test_bucketed_has_each_sample_once_in_epochs_of_few_steps(count: int) -> None:
    assert sorted(bucketed(make_numbers(count), 0, 0, 12).tolist()) == list(range(count))


# Steps


@FORKS
@pytest.mark.parametrize("name", ["sequential", "balanced", "weighted", "bucketed"])
def test_samples_depend_neither_on_workers_nor_on_processes(name: str) -> None:
    dataset = make_numbers()
    dataset.sample_weights = torch.arange(103)

    def make_loader(**options: Any) -> BatchLoader:
        order = make_order(dataset, name, step_size=24)
        return BatchLoader(dataset, 12, seed=0, accumulate=2, order=order, **options)

    alone = loaded(make_loader(), 0, 12)
    assert [len(step) for step in alone] == 2 * [24, 24, 24, 24, 7] + [24, 24]
    order = make_order(dataset, name, step_size=24)
    assert alone[7] == order(1)[48:72].tolist()
    assert loaded(make_loader(workers=2), 0, 12) == alone
    assert loaded(make_loader(workers=2), 7, 12) == alone[7:]
    assert loaded(make_loader(), 7, 12) == alone[7:]
    for number, step in enumerate(alone):
        for rank in (0, 1):
            source = make_loader(rank=rank, world_size=2).source
            rank_step: Any = source[number]
            found = [batch["input"].tolist() for batch in rank_step.batches]
            batches = [step[:12][rank::2], step[12:][rank::2]]
            assert found == [batch for k, batch in enumerate(batches) if step[12 * k :]]


def test_a_plain_function_can_be_the_sampler_of_a_step_source() -> None:
    source = StepSource(Numbers(10), 4, seed=0, order=lambda epoch: torch.arange(6) + epoch)
    assert source.steps_per_epoch == 2
    assert source.sample_indices(3).tolist() == [5, 6]


def test_indices_are_on_the_device_of_the_data_set() -> None:
    dataset = make_numbers()
    dataset.device_tensors = ("targets", "lengths")
    order = make_order(dataset, "balanced")
    before = order(0)
    dataset.device = torch.device("meta")
    assert order(0).device.type == order(1).device.type == "meta"
    assert before.device.type == "cpu"


class Counted:
    """A sampler that counts its calls."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def __call__(self, epoch: int) -> Tensor:
        self.epochs.append(epoch)
        return torch.arange(20)


def test_each_order_is_computed_once_and_two_of_them_are_cached() -> None:
    sampler = Counted()
    dataset = Numbers(20)
    order = SampleOrder(sampler, "mine", dataset, 0)
    list(BatchLoader(dataset, 4, seed=0, order=order).steps(0, 20))
    assert sampler.epochs == [0, 1, 2, 3]
    assert (order(2) is order(2), order(3) is order(3)) == (True, True)
    assert sampler.epochs == [0, 1, 2, 3]
    order(1)
    assert sampler.epochs == [0, 1, 2, 3, 1]


def test_the_length_of_an_order_is_that_of_an_epoch(
    make_trainer: MakeTrainer, my_samplers: None
) -> None:
    trainer = make_trainer(*SMALL_MODEL, "data.sampler=my_samplers.hard_first")
    assert trainer.steps_per_epoch == 8  # 395 samples
    assert trainer.total_steps == 16
    trainer.fit()
    assert trainer.progress.step == 16
    trainer = make_trainer("data.sampler={name: my_samplers.hard_first, fraction: 1.0}")
    assert trainer.steps_per_epoch == 16


# What a sampler returns


@pytest.mark.parametrize(
    ("returned", "parts"),
    [
        ([0, 1], ("[0, 1] (list)",)),
        (None, ("None",)),
        (torch.tensor([0.0, 1.0]), ("float32",)),
        (torch.tensor([True]), ("bool",)),
        (torch.tensor([[0], [1]]), ("(2, 1)",)),
        (torch.tensor([], dtype=torch.int64), ("(0,)",)),
        (torch.tensor([0, 10]), ("index 10", "0 to 9")),
        (torch.tensor([3, -1]), ("index -1", "0 to 9")),
    ],
)
def test_a_wrong_result_is_reported_before_training(returned: Any, parts: tuple[str, ...]) -> None:
    dataset = Numbers(10)
    order = SampleOrder(lambda epoch: returned, "my_samplers.wrong", dataset, 0)
    message = error_of(BatchLoader(dataset, 4, seed=0, order=order).check)
    for part in ("data.sampler = 'my_samplers.wrong'", "int64", "(N,)", *parts):
        assert part in message


def later_wrong(epoch: int) -> Tensor:
    return torch.arange(10 - epoch // 2)


def later_failing(epoch: int) -> Tensor:
    if epoch > 1:
        raise AttributeError("no difficulty")
    return torch.arange(10)


@FORKS
@pytest.mark.parametrize(
    ("function", "workers", "parts"),
    [
        (later_wrong, 0, ("returned 9", "10", "epoch 2")),
        (later_failing, 0, ("AttributeError", "no difficulty", "test_samplers.py, line")),
        (later_wrong, 1, ("returned 9", "10", "epoch 2")),
    ],
)
def test_an_error_in_a_later_epoch_is_reported(
    function: Callable[[int], Tensor], workers: int, parts: tuple[str, ...]
) -> None:
    dataset = Numbers(10)
    order = SampleOrder(function, "my_samplers.later", dataset, 0)
    loader = BatchLoader(dataset, 5, seed=0, workers=workers, order=order)
    steps = loader.steps(0, 8)
    for _ in range(4):
        next(steps)
    with pytest.raises(LoadingError) as error:
        next(steps)
    for part in ("data.sampler = 'my_samplers.later'", *parts):
        assert part in str(error.value)
    assert "Traceback" not in str(error.value)


def test_an_error_in_a_later_epoch_loses_no_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.epochs=3", "data.sampler=sequential")
    trainer.sample_order.sampler = later_failing
    trainer.sample_order.dataset = Numbers(10)
    with pytest.raises(LoadingError, match="no difficulty"):
        trainer.fit()
    assert trainer.progress.step == 2
    assert saved_step(trainer.run) == 2


# What a data set must define


def without(name: str) -> Numbers:
    dataset = make_numbers()
    delattr(dataset, name)
    return dataset


@pytest.mark.parametrize(
    ("targets", "parts"),
    [
        (torch.zeros(102).long(), ("(102,)", "103")),
        (torch.zeros(103, 1), ("(103, 1)", "float32")),
        (torch.zeros(103, 2).long(), ("(103, 2)",)),
        (torch.arange(103), ("0 to 102", "2 classes")),
        (-torch.ones(103).long(), ("-1",)),
        ([0] * 103, ("no tensor `targets`",)),
    ],
)
def test_targets_that_are_no_classes_are_reported(targets: Any, parts: tuple[str, ...]) -> None:
    dataset = make_numbers()
    dataset.targets = targets
    message = error_of(make_order(dataset, "balanced"), 0)
    for part in ("data.sampler = 'balanced'", "`targets`", "numbers", *parts):
        assert part in message


def test_what_a_data_set_lacks_is_named() -> None:
    cases = {"balanced": "targets", "bucketed": "lengths"}
    for name, attribute in cases.items():
        message = error_of(make_order(without(attribute), name), 0)
        assert f"data.sampler = '{name}'" in message
        assert f"`{attribute}`" in message
    message = error_of(make_order(make_numbers(), "weighted"), 0)
    assert "`sample_weights`" in message
    assert "data.sampler.weights" in message


@pytest.mark.parametrize(
    ("lengths", "part"),
    [(torch.ones(103), "float32"), (torch.ones(9).long(), "(9,)"), ([1] * 103, "no tensor")],
)
def test_wrong_lengths_are_reported(lengths: Any, part: str) -> None:
    dataset = make_numbers()
    dataset.lengths = lengths
    message = error_of(make_order(dataset, "bucketed"), 0)
    for expected in ("`lengths`", "int64", part):
        assert expected in message


@pytest.mark.parametrize(
    ("weights", "part"),
    [
        ((1.0, 2.0, 3.0), "3 weights"),
        ((), "0 weights"),
        ({"rare": 1.0}, "'common'"),
        ({"rare": 1.0, "comon": 1.0}, "did you mean 'common'"),
        ((1.0, -1.0), "-1.0"),
        ((1.0, float("inf")), "inf"),
        ((1.0, float("nan")), "nan"),
        ((0.0, 0.0), "0 for all"),
    ],
)
def test_wrong_weights_of_classes_are_reported(weights: Any, part: str) -> None:
    message = error_of(weighted, make_numbers(), 0, 0, weights)
    assert "data.sampler.weights" in message
    assert part in message


@pytest.mark.parametrize(
    ("weights", "part"),
    [
        (torch.ones(102), "(102,)"),
        (torch.ones(103, 1), "(103, 1)"),
        (torch.ones(103).index_fill(0, torch.tensor([7]), -0.5), "-0.5 for sample 7"),
        (torch.ones(103).index_fill(0, torch.tensor([7]), float("nan")), "nan for sample 7"),
        (torch.zeros(103), "0 for all"),
    ],
)
def test_wrong_weights_of_samples_are_reported(weights: Tensor, part: str) -> None:
    dataset = Numbers(103, sample_weights=weights)
    message = error_of(weighted, dataset, 0, 0)
    assert "`sample_weights` of numbers" in message
    assert part in message


# Settings


def test_a_name_or_a_mapping_selects_the_sampler(make_settings: MakeSettings) -> None:
    assert make_settings().data.sampler.model_dump() == {"name": "shuffled"}
    by_name = make_settings("data.sampler=bucketed").data.sampler
    assert by_name == make_settings("data.sampler={name: bucketed, pool_steps: 50}").data.sampler
    assert by_name.arguments == {"pool_steps": 50}
    listed = make_settings("data.sampler={name: weighted, weights: [1, 5]}").data.sampler
    assert listed.arguments == {"weights": (1, 5)}


def test_arguments_can_be_set_one_by_one_in_any_order(make_settings: MakeSettings) -> None:
    changes = ["data.sampler.weights=[1, 5]", "data.sampler=weighted"]
    by_name = [changes[0], "data.sampler.name=weighted"]
    for order in (changes, changes[::-1], by_name, by_name[::-1]):
        assert make_settings(*order).data.sampler.arguments == {"weights": (1, 5)}
    # A new name removes the arguments of the old one, as in a checkpoint that is resumed.
    values = make_settings(*changes).model_dump(mode="json")
    for change in ("data.sampler.name=bucketed", "data.sampler=bucketed"):
        sampler = load_settings(values, [change]).data.sampler
        assert sampler.arguments == {"pool_steps": 50}


def test_a_typo_is_reported_with_the_nearest_name(my_samplers: None) -> None:
    cases = {
        "data.sampler=balnced": ('data.sampler = "balnced"', "did you mean balanced?"),
        "data.sampler={name: bucketted}": ('data.sampler = "bucketted"', "mean bucketed?"),
        "data.sampler=my_samplers.hard_frist": ("my_samplers.py", "my_samplers.hard_first?"),
        "data.sampler=my_samplers.Curiculum": ("my_samplers.py", "my_samplers.Curriculum?"),
        "data.sampler=Curriculum": ("data.sampler", "did you mean my_samplers.Curriculum?"),
        "data.sampler={name: weighted, wieghts: [1]}": (
            "unknown setting data.sampler.wieghts",
            "did you mean data.sampler.weights?",
        ),
        "data.sampler={name: my_samplers.Curriculum, widht: 3}": ("data.sampler.width?",),
    }
    for change, parts in cases.items():
        message = refusal(change)
        for part in parts:
            assert part in message


def test_a_wrong_value_is_reported_with_its_setting() -> None:
    cases = {
        "data.sampler=3": ("data.sampler = 3",),
        "data.sampler={name: weighted, weights: [1, -1]}": ("data.sampler.weights.1 = -1",),
        "data.sampler={name: weighted, weights: {a: -1}}": ("data.sampler.weights.a = -1",),
        "data.sampler={name: weighted, weights: many}": ('data.sampler.weights = "many"',),
        "data.sampler={name: bucketed, pool_steps: 0}": ("data.sampler.pool_steps = 0",),
        "data.sampler={name: shuffled, dataset: 1}": ("data.sampler.dataset",),
    }
    for change, parts in cases.items():
        message = refusal(change)
        for part in parts:
            assert part in message


def test_classes_and_functions_that_are_no_samplers_are_reported(
    my_samplers: None, make_settings: MakeSettings
) -> None:
    assert "does not derive from BaseSampler" in refusal("data.sampler=my_samplers.Unrelated")
    assert "does not derive from BaseSampler" in refusal("data.sampler=synthetic.Synthetic")
    assert "data.sampler" in refusal("data.sampler=splits.split_rows")
    dataset = make_numbers()
    cases = {
        "my_samplers.OneSided": "load_state_dict",
        "my_samplers.Forgetful": "record_losses",
        "splits.find_missing": "`dataset`",
    }
    module = importlib.import_module("data_loader.splits")

    def find_missing(root: Path = Path("x")) -> Tensor:
        raise AssertionError("it must not be called")

    find_missing.__module__ = module.__name__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "find_missing", find_missing, raising=False)
        for name, part in cases.items():
            settings = make_settings(f"data.sampler={name}")
            message = error_of(build_loader, settings, dataset, training=True)
            assert name in message
            assert part in message


def test_errors_are_reported_before_anything_is_written(
    tmp_path: Path, train: Command, capsys: Captured
) -> None:
    for change, part in {
        "data.sampler=balnced": "balanced",
        "data.sampler=bucketed": "`lengths`",
        "data.sampler={name: weighted, weights: [1, 5]}": "data.sampler.weights",
    }.items():
        assert train(tmp_path / "run", change) == 2
        message = capsys.readouterr().err
        assert message.startswith("error: ")
        assert part in message
        assert list(tmp_path.iterdir()) == []


def test_a_file_replaces_the_sampler_of_its_parent(tmp_path: Path) -> None:
    content = (ROOT / "config/synthetic.yaml").read_text(encoding="utf-8")
    sampler = "  sampler: {name: weighted, weights: [1, 5]}\n"
    (tmp_path / "parent.yaml").write_text(content.replace("data:\n", f"data:\n{sampler}"))
    expected = {
        "{name: bucketed, pool_steps: 7}": {"name": "bucketed", "pool_steps": 7},
        "sequential": {"name": "sequential"},
        "{weights: [3]}": {"name": "weighted", "weights": [3]},
    }
    for text, dumped in expected.items():
        child = tmp_path / "child.yaml"
        child.write_text(f"extends: parent.yaml\ndata:\n  sampler: {text}\n")
        settings = load_settings(child)
        assert settings.data.sampler.model_dump(mode="json") == dumped


def test_help_and_schema_describe_samplers(my_samplers: None, capsys: Captured) -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(sys, "argv", ["train.py", "--help"])
        importlib.import_module("train").main()
    text = " ".join(capsys.readouterr().out.split())
    for part in (
        "data.sampler (",
        "data.sampler.weights (weighted; ",
        "data.sampler.pool_steps (bucketed; integer >= 1; default 50)",
        "data.sampler.width (my_samplers.Curriculum, my_samplers.Other; integer; default 100)",
        "Available: shuffled, sequential, balanced, weighted, bucketed, ",
        "my_samplers.Curriculum, my_samplers.Other",
    ):
        assert part in text
    schema = json.loads((ROOT / "config/schema.json").read_text(encoding="utf-8"))
    alternatives = schema["$defs"]["DataSettings"]["properties"]["sampler"]["anyOf"]
    assert {"type": "string"} in alternatives


def test_validation_sets_are_in_their_own_order(make_settings: MakeSettings) -> None:
    sets = "data.validation_sets={again: {}}"
    loaders = build_training_loaders(make_settings("data.sampler=balanced", sets))
    assert loaders["train"].order is not None
    for name in ("validation", "again"):
        assert loaders[name].order is None
        assert loaders[name].source.sample_indices(0).tolist() == list(range(200))


# Resuming


@pytest.fixture
def with_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gives the synthetic images a length: the brightness of a pixel."""
    lengths = property(lambda dataset: dataset.images[:, 0, 3, 3].long())
    monkeypatch.setattr(Synthetic, "lengths", lengths, raising=False)


def stop_and_resume(
    train: Command, command: Command, folder: Path, sampler: str, stops: tuple[int, ...]
) -> tuple[Path, Path]:
    """Trains without a stop, and with stops; the latter with workers every other time."""
    changes = (*SMALL_MODEL, f"data.sampler={sampler}", "trainer.accumulate=2", "trainer.epochs=3")
    expected = folder / "expected"
    assert train(expected, *changes, "data.workers=0") == 0
    run = folder / "run"
    for number, stop in enumerate(stops):
        with pytest.MonkeyPatch.context() as patch:
            during_step(patch, stop - 1, lambda: signal.raise_signal(signal.SIGTERM))
            if number == 0:
                assert train(run, *changes, "data.workers=2") == 128 + signal.SIGTERM
            else:
                done = command("train", "--resume", run, f"data.workers={2 * (number % 2)}")
                assert done == 128 + signal.SIGTERM
        assert saved_step(run) == stop
    assert command("train", "--resume", run, "data.workers=0") == 0
    return run, expected


@FORKS
@pytest.mark.parametrize("name", SHIPPED)
def test_a_run_resumes_in_the_middle_of_an_epoch(
    tmp_path: Path, train: Command, command: Command, with_lengths: None, name: str
) -> None:
    run, expected = stop_and_resume(train, command, tmp_path, SHIPPED[name], (3, 11))
    assert saved_step(run) == 24
    assert differences(load(run), load(expected)) == []


@pytest.fixture
def updating(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, list[int]]]:
    """The trainer changes its sampler's state in each step; returns the last targets of each."""
    seen: list[tuple[int, list[int]]] = []

    def after_step(trainer: Any, outputs: Mapping[str, Tensor]) -> None:
        trainer.sampler.losses.append(outputs["loss"].item())
        seen.append((trainer.progress.step - 1, trainer.targets_of_step))

    original = Classifier.training_step

    def training_step(trainer: Any, model: Any, batch: Any) -> Any:
        trainer.targets_of_step = batch["target"].tolist()
        return original(trainer, model, batch)

    monkeypatch.setattr(Classifier, "after_step", after_step)
    monkeypatch.setattr(Classifier, "training_step", training_step)
    return seen


@FORKS
def test_a_sampler_with_a_state_resumes_in_the_middle_of_an_epoch(
    tmp_path: Path, train: Command, command: Command, my_samplers: None, updating: Any
) -> None:
    sampler = "my_samplers.Curriculum"
    run, expected = stop_and_resume(train, command, tmp_path, sampler, (3, 8, 11, 19))
    state = load(run)
    assert differences(state, load(expected)) == []
    assert len(state["sample_order"]["state"]["losses"]) == 24
    assert len(state["sample_order"]["state_at_start"]["losses"]) == 16
    # The first 24 steps are those of the uninterrupted run; the other run repeats none.
    assert updating[24:] == updating[:24]
    by_epoch = [updating[8 * epoch][1] for epoch in range(3)]
    assert by_epoch[0] != by_epoch[1] != by_epoch[2]  # the state has an effect


@FORKS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_change_of_the_state_takes_effect_in_the_next_epoch(
    workers: int, my_samplers: None
) -> None:
    dataset = Numbers(40)
    order = make_order(dataset, "my_samplers.Curriculum", width=40)
    loader = BatchLoader(dataset, 10, seed=0, workers=workers, order=order)
    curriculum: Any = order.sampler
    found = []
    for step in loader.steps(2, 10):
        found.append(step.batches[0]["input"][0].item())
        curriculum.losses.append(1e-6)
    # Two steps of the first epoch, four of each of the others.
    assert found == [20 * 7 % 40, 30 * 7 % 40, 2, 72 % 40, 142 % 40, 212 % 40, 6, 76 % 40]


def test_the_state_of_another_sampler_is_not_loaded(
    tmp_path: Path, train: Command, command: Command, my_samplers: None, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, *SMALL_MODEL, "data.sampler=my_samplers.Other", "trainer.max_steps=1") == 0
    change = ("data.sampler=my_samplers.Curriculum", "trainer.max_steps=2")
    assert command("train", "--resume", run, *change) == 2
    message = capsys.readouterr().err
    for part in ("data.sampler", "my_samplers.Other", "my_samplers.Curriculum", "--force"):
        assert part in message
    assert command("train", "--resume", run, *change, "--force") == 0
    assert load(run)["sample_order"]["state"] == {"losses": []}
    assert command("train", "--resume", run, "data.sampler=balanced", "--force") == 0


def test_settings_of_a_run_contain_those_of_the_sampler(tmp_path: Path, train: Command) -> None:
    run = tmp_path / "run"
    weights = "[1, 2, 3, 4, 5, 6, 7, 8, 9, 0]"
    change = f"data.sampler={{name: weighted, weights: {weights}}}"
    assert train(run, *SMALL_MODEL, change, "trainer.max_steps=1") == 0
    written = YAML(typ="safe").load((run / "settings.yaml").read_text(encoding="utf-8"))
    assert written["data"]["sampler"] == {"name": "weighted", "weights": json.loads(weights)}
    assert train(tmp_path / "other", *SMALL_MODEL, "data.sampler=weighted") == 2
    assert train(tmp_path / "third", *SMALL_MODEL, change, "trainer.max_steps=1") == 0
    assert differences(load(run), load(tmp_path / "third")) == []


def test_a_change_of_an_argument_needs_force(
    tmp_path: Path, train: Command, command: Command, with_lengths: None, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, *SMALL_MODEL, "data.sampler=bucketed", "trainer.max_steps=1") == 0
    changes = ("data.sampler.pool_steps=2", "trainer.max_steps=2")
    assert command("train", "--resume", run, *changes) == 2
    assert "data.sampler" in capsys.readouterr().err
    assert command("train", "--resume", run, *changes, "--force") == 0
    assert load(run)["settings"]["data"]["sampler"] == {"name": "bucketed", "pool_steps": 2}


@FORKS
def test_numbers_from_the_global_generators_are_reproducible(my_samplers: None) -> None:
    dataset = Numbers(40)
    orders = []
    for workers in (0, 2):
        order = make_order(dataset, "my_samplers.unseeded")
        state = torch.get_rng_state()
        loader = BatchLoader(dataset, 10, seed=0, workers=workers, order=order)
        assert loader.steps_per_epoch == 4
        assert torch.equal(torch.get_rng_state(), state)
        torch.rand(1)
        orders.append(loaded(loader, 0, 12))
    assert orders[0] == orders[1]
    assert orders[0][:4] != orders[0][4:8]


def test_a_function_without_settings_is_a_sampler_of_a_project(my_samplers: None) -> None:
    order = make_order(Numbers(10), "my_samplers.hard_first", fraction=0.3)
    assert order(0).tolist() == [0, 1, 2]
    assert order(4).tolist() == [4, 5, 6]
    assert isinstance(make_order(Numbers(10), "my_samplers.Curriculum").sampler, BaseSampler)
    assert sequential(Numbers(3)).tolist() == samplers.sequential(Numbers(3)).tolist()
