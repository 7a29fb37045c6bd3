"""A non-finite value is reported with the operation and the layer in which it appears."""
# ruff: noqa: D103  the names of the tests state what they test

import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY_MODEL
from torch import Tensor, nn

from base.base_dataset import Batch
from model.networks import MLP
from trainer.classifier import Classifier

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
SMALL = (*TINY_MODEL, "trainer.epochs=1", "logger.every_steps=4")
BAD_STEP = 6


class Part(nn.Module):
    """Multiplies by one, or does something with a non-finite result or gradient."""

    what = ""

    def forward(self, features: Tensor) -> Tensor:
        """The same features, shape (N, C)."""
        if self.what == "forward":
            return features + torch.log(features.detach() - 1e9)
        if self.what == "overflow":
            return features + (features.detach() + 100).exp()
        if self.what == "backward":  # 0 * infinity
            return features + 0 * (features - features.detach()).abs().sqrt()
        if self.what == "infinite gradient":
            return features + (features - features.detach()) * 3e38 * 3e38
        return features * 1.0


@pytest.fixture
def part(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A layer of the network that has a fault in one step, in training."""
    original_init = MLP.__init__
    original_step = Classifier.training_step
    changed: Any = type("Part", (Part,), {"fault": ""})

    @functools.wraps(original_init)
    def init(network: Any, *arguments: Any, **options: Any) -> None:
        original_init(network, *arguments, **options)
        network.layers.insert(4, changed())

    def training_step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        changed.what = changed.fault if trainer.progress.step + 1 == BAD_STEP else ""
        outputs = original_step(trainer, model, batch)
        if changed.what == "loss":
            outputs["loss"] = outputs["loss"] + torch.log(outputs["loss"] - outputs["loss"] - 1)
        return outputs

    monkeypatch.setattr(MLP, "__init__", init)
    monkeypatch.setattr(Classifier, "training_step", training_step)
    return changed


@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        ("forward", r"log \(.*\.py, line \d+\) returns .* in layer layers\.4 \(Part\)"),
        ("overflow", r"exp \(.*\.py, line \d+\) returns .* in layer layers\.4 \(Part\)"),
        ("infinite gradient", r"a gradient is not finite after .* of layer layers\.4 \(Part\)"),
        (
            "backward",
            r"SqrtBackward0 \(.*test_non_finite_cause\.py, line \d+\) returns NaN in the backward "
            r"pass of layer layers\.4 \(Part\)",
        ),
        ("loss", r"log \(.*test_non_finite.*\) returns non-finite values in the loss"),
    ],
)
def test_the_cause_is_in_the_error(
    tmp_path: Path, train: Command, part: Any, capsys: Captured, fault: str, cause: str
) -> None:
    part.fault = fault
    assert train(tmp_path / "run", *SMALL) == 1
    message, advice = capsys.readouterr().err.splitlines()
    assert re.match(rf"error: step {BAD_STEP}: .* is not finite .*; {cause}", message), message
    assert "--resume" in advice


def test_finding_the_cause_of_a_skipped_step_changes_nothing(
    tmp_path: Path, train: Command, part: Any, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    from storage.checkpoint_file import load_checkpoint

    checked_steps: list[int] = []

    def after_step(trainer: Any, outputs: Mapping[str, Tensor]) -> None:
        if trainer.guard.checked_until:
            assert outputs["loss"].isfinite()
            checked_steps.append(trainer.progress.step)

    monkeypatch.setattr(Classifier, "after_step", after_step)
    weights = []
    for fault in ("forward", "backward"):
        part.fault = fault
        run = tmp_path / fault
        assert train(run, *SMALL, "trainer.non_finite=skip", "optimizer.name=AdamW") == 0
        state = load_checkpoint(run / "checkpoints/last.pt")
        assert state["progress"]["skipped_steps"] == 1
        assert {BAD_STEP - 1, BAD_STEP + 1} <= {*checked_steps}
        assert BAD_STEP not in checked_steps
        weights.append(state["model"])
    first, second = weights
    for name, weight in first.items():
        assert torch.equal(weight, second[name]), name
    assert capsys.readouterr().out.count("layers.4 (Part)") == 2
