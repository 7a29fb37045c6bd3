"""Muon for matrices, with AdamW for all other parameters."""
# ruff: noqa: D103  the names of the tests state what they test

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT, needs
from stopped_runs import assert_resumes_exactly
from test_optimization import SMALL_MODEL, Waves, all_samples, mean_loss, step_of

from base.base_dataset import BaseDataset
from config.loading import changes_that_need_force
from model import networks

pytestmark = needs(ROOT / "optim/muon.py")
Command = Callable[..., int]
MakeTrainer = Callable[..., Any]
MUON = "optimizer.name=muon.MuonAndAdamW"


def test_muon_lowers_the_loss(make_trainer: MakeTrainer, splits: dict[str, BaseDataset]) -> None:
    batch = all_samples(splits["train"])
    trainer = make_trainer(*SMALL_MODEL, MUON, "optimizer.lr=0.05")
    initial_loss = mean_loss(trainer, batch)
    for _ in range(15):
        trainer.update(step_of(batch))
    assert mean_loss(trainer, batch) < 0.9 * initial_loss


def test_muon_trains_matrices_and_adamw_the_other_parameters(make_trainer: MakeTrainer) -> None:
    changes = (MUON, "optimizer.lr=0.03", "optimizer.adamw_lr=0.002")
    trainer = make_trainer(*changes, "trainer.max_steps=2")
    (optimizer,) = trainer.optimizers
    matrices, others = optimizer.param_groups
    assert [parameter.shape for parameter in matrices["params"]] == [(10, 64)]
    assert len(others["params"]) == len(list(trainer.model.parameters())) - 1
    assert matrices["lr"] == 0.03
    assert others["lr"] == 0.002
    trainer.fit()
    muon, adamw = optimizer.parts
    assert muon.param_groups == [matrices]
    assert adamw.param_groups == [others]


def test_complex_matrices_are_trained(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(networks, "MLP", Waves)
    changes = ("trainer.ema=0.9", "trainer.clip_norm=0.1", "trainer.max_steps=3")
    trainer = make_trainer("model.name=networks.MLP", MUON, *changes)
    before = trainer.model.waves.detach().clone()
    trainer.fit()
    assert not torch.equal(trainer.model.waves, before)


def test_a_run_with_muon_resumes_exactly(tmp_path: Path, train: Command, command: Command) -> None:
    changes = (*SMALL_MODEL, "optimizer={name: muon.MuonAndAdamW}")
    assert_resumes_exactly(tmp_path, train, command, *changes)


def test_both_learning_rates_may_change_on_resume(make_settings: Callable[..., Any]) -> None:
    before = make_settings(MUON).model_dump(mode="json")
    rates = ("optimizer.lr=0.2", "optimizer.adamw_lr=0.2", "optimizer.weight_decay=0.2")
    after = make_settings(MUON, *rates, "optimizer.momentum=0.5")
    state = {"settings": before, "fingerprint": ""}
    assert changes_that_need_force(state, after, "") == ["optimizer.momentum: 0.95 -> 0.5"]
