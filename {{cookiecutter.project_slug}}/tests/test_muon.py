"""Muon for matrices, with AdamW for all other parameters."""
# ruff: noqa: D103  the names of the tests state what they test

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stopped_runs import assert_resumes_exactly
from test_optimization import SMALL_MODEL, Waves, all_samples, mean_loss, step_of

from base.base_dataset import BaseDataset
from config.loading import changes_that_need_force
from model import networks
from optim.optimizers import learning_rates
from utils.randomness import make_generator

muon = pytest.importorskip("optim.muon", reason="optim/muon.py was deleted")
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


def test_muon_trains_the_weights_of_layers_and_adamw_the_other_parameters(
    make_trainer: MakeTrainer,
) -> None:
    changes = (MUON, "optimizer.lr=0.03", "optimizer.adamw_lr=0.002")
    trainer = make_trainer(*changes, "trainer.max_steps=2")
    (optimizer,) = trainer.optimizers
    matrices, others = optimizer.param_groups
    assert {parameter.ndim for parameter in matrices["params"]} == {2, 4}
    assert {parameter.ndim for parameter in others["params"]} == {1}
    assert matrices["lr"] == 0.03
    assert others["lr"] == 0.002
    assert list(learning_rates([optimizer])) == ["lr", "lr of AdamW"]
    trainer.fit()
    for parameter in matrices["params"]:
        assert set(optimizer.state[parameter]) == {"momentum_buffer"}
    for parameter in others["params"]:
        assert "exp_avg" in optimizer.state[parameter]


@pytest.mark.parametrize("shape", [(20, 30), (30, 20), (5, 5)])
def test_singular_values_become_close_to_one(shape: tuple[int, int]) -> None:
    matrix = 100 * torch.randn(shape, generator=make_generator(0))
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    result = muon.orthogonalize(matrix)
    ratios = (left.T @ result @ right.T).diagonal()
    large = values > 0.05 * values.max()  # a few iterations do not reach the smallest values
    assert ratios[large].min() > 0.65
    assert ratios[large].max() < 1.25
    off_diagonal = left.T @ result @ right.T - ratios.diag()
    assert off_diagonal.abs().max() < 0.01


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_convolution_is_updated_as_a_matrix(layout: torch.memory_format) -> None:
    weight = torch.randn(4, 2, 3, 3, generator=make_generator(0))
    gradient = torch.randn(4, 2, 3, 3, generator=make_generator(1))
    parameter = torch.nn.Parameter(weight.clone(memory_format=layout))
    parameter.grad = gradient.to(memory_format=layout)
    muon.MuonAndAdamW([parameter], lr=0.1).step()
    expected = weight - 0.1 * muon.orthogonalize(gradient.flatten(1)).view(4, 2, 3, 3)
    assert torch.allclose(parameter, expected, atol=1e-6)


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


def test_a_state_from_before_the_first_step_can_be_loaded_later() -> None:
    matrix = torch.nn.Parameter(torch.randn(3, 4, generator=make_generator(0)))
    bias = torch.nn.Parameter(torch.ones(3))
    optimizer = muon.MuonAndAdamW([matrix, bias])
    first_state = copy.deepcopy(optimizer.state_dict())
    ends = []
    for _ in range(2):
        optimizer.load_state_dict(first_state)
        with torch.no_grad():
            bias.fill_(1)
        for gradient in (1, -3):
            matrix.grad = torch.full_like(matrix, gradient)
            bias.grad = torch.full_like(bias, gradient)
            optimizer.step()
        ends.append(bias.tolist())
    assert ends[0] == ends[1] != [1, 1, 1]


def test_one_tensor_may_be_the_only_parameter() -> None:
    weight = torch.nn.Parameter(torch.randn(3, 4, generator=make_generator(0)))
    (group,) = muon.MuonAndAdamW([{"params": weight}]).param_groups
    assert group["is_matrix"]


def test_both_learning_rates_may_change_on_resume(make_settings: Callable[..., Any]) -> None:
    before = make_settings(MUON).model_dump(mode="json")
    rates = ("optimizer.lr=0.2", "optimizer.adamw_lr=0.2", "optimizer.weight_decay=0.2")
    after = make_settings(MUON, *rates, "optimizer.momentum=0.5")
    state = {"settings": before, "fingerprint": ""}
    assert changes_that_need_force(state, after, "") == ["optimizer.momentum: 0.95 -> 0.5"]
