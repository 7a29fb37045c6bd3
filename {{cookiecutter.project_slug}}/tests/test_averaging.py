"""evaluate.py --average: the mean of the weights of the best checkpoints."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import leave_out_figures
from torch import nn

from builders import build_loader, restore_trainer
from evaluation.averaging import mean_tensor
from storage.checkpoint_file import load_checkpoint
from storage.checkpointer import best_checkpoints
from storage.run_folder import find_checkpoints
from storage.state import evaluation_weights

pytestmark = pytest.mark.usefixtures("without_figures")
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def run(train: Command, command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three of its best checkpoints, of which two are averaged."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    options = ("trainer.epochs=1", "trainer.validate_every_steps=5", "checkpoint.keep_best=3")
    assert train(folder, *options, "model.width=8", "trainer.ema=0.9") == 0
    with pytest.MonkeyPatch.context() as patch:
        leave_out_figures(patch)
        assert command("evaluate", folder, "--average", "2", "--split", "validation") == 0
    return folder


def test_the_weights_are_averaged_and_the_statistics_recomputed(run: Path) -> None:
    file = run / "checkpoints/average_2.pt"
    averaged = load_checkpoint(file)["model"]
    best = [evaluation_weights(load_checkpoint(path)) for path in list(best_checkpoints(run))[:2]]
    statistics = [name for name in averaged if ".running_" in name]
    assert statistics
    for name, value in averaged.items():
        if name not in statistics and value.is_floating_point():
            mean = (best[0][name].double() + best[1][name].double()) / 2
            torch.testing.assert_close(value, mean.to(value.dtype), rtol=1e-6, atol=1e-7)

    # The statistics of a single batch with all samples of the training batches.
    trainer, _ = restore_trainer([file], "train", [])
    loader = build_loader(trainer.settings, trainer.dataset, training=True)
    steps = list(loader.steps(0, loader.steps_per_epoch))
    inputs = torch.cat([step.batches[0]["input"] for step in steps])
    assert len(inputs) == 790
    first_layer = next(m for m in trainer.model.modules() if isinstance(m, nn.BatchNorm2d))
    means: list[torch.Tensor] = []
    first_layer.register_forward_pre_hook(
        lambda _, arguments: means.append(arguments[0].mean((0, 2, 3)))
    )
    with torch.no_grad():
        trainer.model.eval()(inputs)
    torch.testing.assert_close(first_layer.running_mean, means[0], rtol=1e-4, atol=1e-5)


def test_the_average_is_evaluated_in_a_folder_of_its_own(run: Path) -> None:
    assert not (run / "evaluation/validation").exists()
    metrics = json.loads((run / "evaluation/validation average of 2/metrics.json").read_text())
    assert metrics["checkpoint"] == str(run / "checkpoints/average_2.pt")
    assert metrics["accuracy"] > 0.3


def test_averaging_again_gives_the_same_weights(
    run: Path, tmp_path: Path, command: Command
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "checkpoints/average_2.pt").unlink()
    assert command("evaluate", copy, "--average", "2") == 0
    weights = load_checkpoint(copy / "checkpoints/average_2.pt")["model"]
    for name, value in load_checkpoint(run / "checkpoints/average_2.pt")["model"].items():
        assert torch.equal(value, weights[name]), name


def test_an_average_is_a_checkpoint_only_if_it_is_named(
    run: Path, tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    file = run / "checkpoints/average_2.pt"
    for best in (True, False):
        assert file not in find_checkpoints(run, best=best)
    assert find_checkpoints(file) == [file]
    assert (
        command("export", file, "--format", "safetensors", "--output", tmp_path / "m.safetensors")
        == 0
    )
    assert train(tmp_path / "new", f"model.init_from={file}", "trainer.max_steps=1") == 0
    capsys.readouterr()
    assert command("train", "--resume", file) == 2
    error = capsys.readouterr().err
    assert "average_2.pt" in error
    assert "model.init_from=" in error

    alone = tmp_path / "alone"
    (alone / "checkpoints").mkdir(parents=True)
    shutil.copy(file, alone / "checkpoints")
    assert command("evaluate", alone) == 2
    assert "contains no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--average", "4"), "checkpoint.keep_best=4"),
        (("--average", "1"), "--average 1"),
        (("--average", "x"), "--average"),
        (("last", "--average", "2"), "single RUN"),
    ],
)
def test_impossible_averages_are_reported(
    run: Path, command: Command, capsys: Captured, arguments: tuple[str, ...], problem: str
) -> None:
    assert command("evaluate", run, *arguments) == 2
    assert problem in capsys.readouterr().err


def test_a_damaged_checkpoint_is_named_and_nothing_is_written(
    run: Path, tmp_path: Path, command: Command, capsys: Captured
) -> None:
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    (copy / "checkpoints/average_2.pt").unlink()
    best, second, *_ = best_checkpoints(copy)
    content = bytearray(second.read_bytes())
    content[len(content) // 2] ^= 1
    second.unlink()
    second.write_bytes(content)
    assert command("evaluate", copy, "--average", "2") == 2
    assert second.name in capsys.readouterr().err
    assert not (copy / "checkpoints/average_2.pt").exists()
    assert command("evaluate", best, "--average", "2") == 2
    assert "is a file" in capsys.readouterr().err


def test_several_processes_cannot_average(
    run: Path, command: Command, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("utils.command.exit_at_once", lambda code: None)
    assert command("evaluate", run, "--average", "2") == 2
    assert "single process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([torch.tensor([1, 5]), torch.tensor([3, 4])], torch.tensor([1, 5])),
        ([torch.tensor([1.0]).half(), torch.tensor([2.0]).half()], torch.tensor([1.5]).half()),
        ([torch.tensor([1j]), torch.tensor([1.0 + 1j])], torch.tensor([0.5 + 1j])),
        ([torch.tensor([-torch.inf])] * 2, torch.tensor([-torch.inf])),
    ],
)
def test_tensors_are_averaged_in_their_own_kind(values: Any, expected: torch.Tensor) -> None:
    mean = mean_tensor(values)
    assert mean.dtype == expected.dtype
    assert torch.equal(mean, expected)
