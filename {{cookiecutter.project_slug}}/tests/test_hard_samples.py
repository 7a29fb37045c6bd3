"""A sampler that trains more often on the samples with high losses."""
# ruff: noqa: D103  the names of the tests state what they test

from collections.abc import Callable
from pathlib import Path
from typing import Any

import launcher
import pytest
import torch
from launcher import run_processes
from stopped_runs import assert_resumes_exactly, load
from torch import Tensor, nn

from base.base_dataset import BaseDataset, Batch
from builders import build_training_loaders
from data_loader.subsets import stratified_fraction
from data_loader.synthetic import Synthetic
from sanity_check import check_trainer
from trainer.classifier import Classifier
from utils.errors import UserError

hard_samples = pytest.importorskip(
    "data_loader.hard_samples", reason="data_loader/hard_samples.py was deleted"
)
end_started_processes = launcher.end_started_processes  # a fixture of all tests in this module
MakeTrainer = Callable[..., Any]
Command = Callable[..., int]
SMALL_MODEL = ("model.name=networks.MLP", "model.width=16")
SAMPLER = (
    "data.sampler=hard_samples.HardSamples",
    "data.sampler.hard=0.4",
    "data.sampler.others=0.5",
)


class Silent(Classifier):
    """A trainer that records no losses."""

    def training_step(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"loss": self.loss(model(batch["input"]), batch["target"])}


def make_sampler(count: int, **arguments: float) -> Any:
    dataset = Synthetic(Path(), None, 0)
    dataset.targets = torch.zeros(count, dtype=torch.int64)
    dataset.images = torch.zeros(count, 1, 28, 28, dtype=torch.uint8)
    return hard_samples.HardSamples(dataset, seed=0, **arguments)


def test_an_epoch_has_the_hardest_samples_and_some_of_the_others() -> None:
    sampler = make_sampler(100, hard=0.3, others=0.5)
    losses = torch.linspace(0, 1, 100)
    sampler.record_losses(torch.arange(100), losses)
    orders = [sampler(epoch).tolist() for epoch in (1, 2)]
    for order in orders:
        assert len(order) == len(set(order)) == 30 + 35
        assert set(range(70, 100)) <= set(order)
        assert order != sorted(order)
    easy_samples = [set(order) - set(range(70, 100)) for order in orders]
    assert easy_samples[0] != easy_samples[1]


def test_the_first_epoch_is_random_and_the_next_one_has_the_samples_that_were_left_out() -> None:
    sampler = make_sampler(100, hard=0.4, others=0.5)
    first = sampler(0)
    assert len(first) == 70
    assert first.tolist() != first.sort().values.tolist()
    sampler.record_losses(first, torch.rand(70))
    left_out = set(range(100)) - set(first.tolist())
    assert left_out <= set(sampler(1).tolist())


def test_a_fraction_is_the_part_that_samples_are_chosen_from(
    make_settings: Callable[..., Any],
) -> None:
    settings = make_settings(*SAMPLER, "trainer.fraction=0.3")
    train = build_training_loaders(settings)["train"]
    assert train.sample_count == round(0.3 * 790) == 237
    part = set(stratified_fraction(train.dataset, 0.3, settings.seed).tolist())
    orders = []
    for epoch in (0, 1):
        first = epoch * train.steps_per_epoch
        steps = range(first, first + train.steps_per_epoch)
        order = [int(i) for step in steps for i in train.source.sample_indices(step)]
        assert len(set(order)) == len(order) == round(0.4 * 237) + round(0.5 * 142)
        assert set(order) < part
        orders.append(order)
        losses = torch.arange(len(order), dtype=torch.float32)
        sampler: Any = train.order
        sampler.sampler.record_losses(torch.tensor(order), losses)
    assert part - set(orders[0]) < set(orders[1])
    assert set(orders[0][-20:]) < set(orders[1])


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_the_recorded_losses_are_those_of_the_model(
    make_trainer: MakeTrainer, splits: dict[str, BaseDataset], workers: int
) -> None:
    changes = (
        *SMALL_MODEL,
        *SAMPLER,
        "optimizer.name=SGD",
        "optimizer.lr=1e-30",
        "trainer.accumulate=2",
        "trainer.precision=fp32",
        "trainer.epochs=1",
        f"data.workers={workers}",
    )
    trainer = make_trainer(*changes)
    loader = trainer.loaders["train"]
    trainer.loaders["train"] = loader.restricted(loader.order, loader.sample_count, augments=False)
    trainer.fit()
    dataset = splits["train"]
    batch = loader.load_batch(torch.arange(len(dataset)))
    with torch.no_grad():
        expected = trainer.loss.of_samples(trainer.model(batch["input"]), batch["target"])
    recorded = trainer.sampler.losses
    is_known = recorded.isfinite()
    assert is_known.sum() == loader.source.samples_per_epoch
    torch.testing.assert_close(recorded[is_known], expected[is_known])


def test_a_run_resumes_in_the_middle_of_an_epoch(
    tmp_path: Path, train: Command, command: Command
) -> None:
    assert_resumes_exactly(tmp_path, train, command, *SMALL_MODEL, *SAMPLER)


def test_a_run_can_be_resumed_with_this_sampler(
    tmp_path: Path, train: Command, command: Command
) -> None:
    assert train(tmp_path, *SMALL_MODEL, "trainer.epochs=1") == 0
    assert command("train", "--resume", tmp_path, "--force", *SAMPLER, "trainer.epochs=3") == 0
    assert load(tmp_path)["sample_order"]["state"]["losses"].isfinite().any()


def test_two_processes_record_the_losses_of_all_samples(tmp_path: Path) -> None:
    for count in (1, 2):
        run_processes(count, "train", tmp_path / str(count), *SAMPLER, "trainer.accumulate=2")
    single, double = (load(tmp_path / str(count))["sample_order"]["state"] for count in (1, 2))
    assert single["losses"].isfinite().all()
    torch.testing.assert_close(double["losses"], single["losses"], rtol=1e-5, atol=1e-6)


def test_a_trainer_that_records_no_losses_is_an_error(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(*SMALL_MODEL, *SAMPLER, kind=Silent)
    with pytest.raises(UserError) as caught:
        check_trainer(trainer)
    for part in ("hard_samples.HardSamples", "Silent", "record_losses", "training_step"):
        assert part in str(caught.value)


def test_a_loss_of_whole_batches_is_an_error(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(*SMALL_MODEL, *SAMPLER)
    monkeypatch.setattr(trainer.loss, "per_sample", trainer.loss.mean)
    with pytest.raises(UserError) as caught:
        trainer.fit()
    for part in ("data.sampler", "hard_samples.HardSamples", "loss.name", "cross_entropy"):
        assert part in str(caught.value)


def test_without_such_a_sampler_no_loss_is_computed_twice(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make_trainer(*SMALL_MODEL, "trainer.max_steps=1")
    monkeypatch.setattr(trainer.loss, "per_sample", None)
    (step,) = trainer.loaders["train"].steps(0, 1)
    trainer.update(step)
