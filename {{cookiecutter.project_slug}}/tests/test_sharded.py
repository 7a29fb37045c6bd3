"""Models that FSDP2 shards: the same training, and checkpoints that consist of shards."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import launcher
import pytest
import torch
from conftest import ROOT, needs
from launcher import PROCESSES, launch, run_processes
from stopped_runs import load, logged_rows
from test_distributed import (
    ROUNDING,
    SMALL,
    checkpoint_differences,
    logged_values,
    weight_difference,
)
from torch import Tensor, nn

from base.base_model import BaseModel
from evaluation.averaging import average_checkpoints
from storage.checkpoint_file import load_first_usable
from storage.checkpointer import best_checkpoints
from storage.run_folder import find_checkpoints
from utils.errors import UserError
from utils.parallel import match_layout, shard_model, shardable_blocks

end_started_processes = launcher.end_started_processes  # a fixture of all tests in this module
Command = Callable[..., int]
FSDP = "trainer.strategy=fsdp"


def newest_step(run: Path) -> int:
    """The step of the newest usable checkpoint."""
    _, state = load_first_usable(find_checkpoints(run, best=False))
    step: int = state["progress"]["step"]
    return step


# Training


def test_sharding_trains_the_same_model_with_a_fraction_of_the_memory(tmp_path: Path) -> None:
    """In the last training step, only one of several processes has a sample."""
    options = ("trainer.accumulate=2", "trainer.clip_norm=0.5", FSDP)
    for count in (1, 2, 3):
        run_processes(count, "memory", tmp_path / str(count), *options)
    expected_values = logged_values(tmp_path / "1")
    ((parameter_bytes, state_bytes),) = torch.load(tmp_path / "1/stored_bytes.pt")
    assert state_bytes == parameter_bytes
    for count in (2, 3):
        run = tmp_path / str(count)
        assert weight_difference(tmp_path / "1", run) < ROUNDING
        assert logged_values(run) == pytest.approx(expected_values, rel=1e-6)
        stored_bytes = torch.load(run / "stored_bytes.pt")
        assert len(stored_bytes) == count
        for process_bytes in stored_bytes:  # shards are unequal, as there are ten classes
            expected_bytes = (parameter_bytes / count, state_bytes / count)
            assert process_bytes == pytest.approx(expected_bytes, rel=0.1)


@needs(ROOT / "optim/muon.py")
def test_muon_trains_the_same_model_with_shards(tmp_path: Path) -> None:
    """It needs all rows of a gradient in each process."""
    muon = ("optimizer.name=muon.MuonAndAdamW", "scheduler.name=constant", "trainer.max_steps=6")
    run_processes(1, "train", tmp_path / "1", *muon)
    run_processes(2, "train", tmp_path / "2", *muon, FSDP)
    assert weight_difference(tmp_path / "1", tmp_path / "2") < ROUNDING


def test_a_run_resumes_with_more_shards_or_without_sharding(tmp_path: Path) -> None:
    adamw = ("optimizer.name=AdamW", "optimizer.lr=0.003")
    options = (*adamw, "scheduler.name=constant", "trainer.ema=0.9")
    half = "trainer.max_steps=13"
    uninterrupted = tmp_path / "uninterrupted"
    sharded_later = (tmp_path / "sharded-later", *options)
    sharded_first = (tmp_path / "sharded-first", *options)
    more_shards = (tmp_path / "more-shards", *options, FSDP)

    run_processes(1, "train", uninterrupted, *options, "--", "train", *sharded_later, half)
    first_halves = ("train", *sharded_first, FSDP, half, "--", "train", *more_shards, half)
    run_processes(2, "train", *sharded_later, FSDP, "--", *first_halves)
    run_processes(1, "train", *sharded_first)
    run_processes(4, "train", *more_shards)
    for name in ("sharded-later", "sharded-first", "more-shards"):
        assert load(tmp_path / name)["progress"]["step"] == 22
        assert weight_difference(uninterrupted, tmp_path / name) < ROUNDING


def test_a_checkpoint_that_was_written_during_training_resumes_bit_for_bit(tmp_path: Path) -> None:
    """Training continues while step 16 is written, and must not change what is written."""
    options = ("scheduler.name=constant", "logger.every_steps=7", "trainer.ema=0.9", FSDP)
    saves = ("checkpoint.every_steps=16", "checkpoint.keep=9")
    uninterrupted = tmp_path / "uninterrupted"
    resumed = tmp_path / "resumed"
    run_processes(2, "train", uninterrupted, *options, *saves)
    without_files = shutil.ignore_patterns("*.pt")
    shutil.copytree(uninterrupted / "checkpoints", resumed / "checkpoints", ignore=without_files)
    saved = uninterrupted / "checkpoints/step_00000016.pt"
    shutil.copy(saved, resumed / "checkpoints/last.pt")
    shutil.copy(uninterrupted / "metrics.csv", resumed)
    run_processes(2, "train", resumed, *options)
    changed = {"/settings/checkpoint/every_steps", "/settings/checkpoint/keep"}
    assert set(checkpoint_differences(uninterrupted, resumed)) <= changed
    assert logged_rows(resumed) == logged_rows(uninterrupted)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_sharding_in_a_single_process_gives_a_warning(
    tmp_path: Path, train: Command, caplog: pytest.LogCaptureFixture, strategy: str
) -> None:
    assert train(tmp_path / "run", f"trainer.strategy={strategy}", "trainer.max_steps=1") == 0
    warns = "trainer.strategy=fsdp has no effect" in caplog.text
    assert warns == (strategy == "fsdp")


def test_a_non_finite_loss_in_one_process_makes_all_skip_the_step(tmp_path: Path) -> None:
    options = (FSDP, "trainer.non_finite=skip", "trainer.max_steps=8")
    run_processes(2, "non-finite", tmp_path, *options)
    progress = load(tmp_path)["progress"]
    assert progress["step"] == 8
    assert progress["skipped_steps"] == 1
    _, saved = load_first_usable([tmp_path / "non_finite_00000003.pt"])
    assert saved["progress"]["step"] == 2
    assert len(saved["batches"]) == 2


# Checkpoints


def test_shards_are_deleted_with_their_checkpoints(tmp_path: Path) -> None:
    """Those of an incomplete checkpoint as well; those of the best ones are kept."""
    (tmp_path / "checkpoints/shards-00000007-0").mkdir(parents=True)
    options = ("checkpoint.every_steps=4", "checkpoint.keep=1", "checkpoint.keep_best=2")
    run_processes(2, "train", tmp_path, FSDP, *options)
    best = list(best_checkpoints(tmp_path))
    assert {file.stem for file in best} == {"step_00000011", "step_00000022"}
    expected = set()
    for name in ("best", "last", *(file.stem for file in best)):
        state = torch.load(tmp_path / f"checkpoints/{name}.pt", weights_only=True)
        expected.add(state["shards"]["folder"])
        assert load(tmp_path, name)["progress"]["step"] > 0
    assert {folder.name for folder in tmp_path.glob("checkpoints/shards-*")} == expected

    average, _ = average_checkpoints(best)
    weights = [load(tmp_path, file.stem)["model"]["head.weight"] for file in best]
    torch.testing.assert_close(average["model"]["head.weight"], (weights[0] + weights[1]) / 2)


def test_a_checkpoint_with_damaged_shards_is_rejected_for_the_previous_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run_processes(2, "train", tmp_path, FSDP)
    assert newest_step(tmp_path) == 22
    newest, *_ = find_checkpoints(tmp_path, best=False)
    state = torch.load(newest, weights_only=True)
    shard_folder = newest.parent / state["shards"]["folder"]
    shard, other_shard = sorted(shard_folder.iterdir())
    content = shard.read_bytes()
    truncated = content[:-1]
    changed = content[:-1] + bytes([content[-1] ^ 1])
    for damaged in (truncated, changed):
        caplog.clear()
        shard.write_bytes(damaged)
        with caplog.at_level(logging.WARNING, "run"):
            assert newest_step(tmp_path) == 11
        assert f"{shard} is missing or damaged" in caplog.text
    shard.write_bytes(content)
    assert newest_step(tmp_path) == 22
    shutil.copy(other_shard, shard_folder / "shard-00003-model-00001-of-00001.safetensors")
    assert newest_step(tmp_path) == 11


def test_a_shard_that_cannot_be_written_leaves_the_previous_checkpoint(tmp_path: Path) -> None:
    options = (FSDP, "trainer.max_steps=20")
    output = launch(2, PROCESSES, "full-disk", tmp_path, *options, expected=1)
    assert "the checkpoint of step 11 could not be saved: [Errno 27] File too large" in output
    assert "training continues" in output
    assert "error: the checkpoint of step 20 could not be saved: [Errno 27]" in output
    assert load(tmp_path)["progress"]["step"] == 0
    assert [file.stem for file in find_checkpoints(tmp_path)] == ["step_00000000"]


def test_commands_read_sharded_checkpoints(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """After training in low precision and compiled, which must be about as good as with DDP."""
    options = (*SMALL, "trainer.precision=bf16", "trainer.compile=true", "trainer.max_steps=20")
    for strategy in ("ddp", "fsdp"):
        run = ("--run-dir", tmp_path / strategy, f"trainer.strategy={strategy}")
        launch(2, ROOT / "train.py", *options, *run)
    # The tests above compare float32, without such rounding errors.
    expected_values = logged_values(tmp_path / "ddp")
    assert logged_values(tmp_path / "fsdp") == pytest.approx(expected_values, rel=0.2)
    losses = {}
    worst_samples = {}
    for count in (0, 2):
        launch(count, ROOT / "evaluate.py", tmp_path / "fsdp", "trainer.compile=false")
        file = tmp_path / "fsdp/evaluation/test/metrics.json"
        losses[count] = json.loads(file.read_text())["loss"]
        rows = file.with_name("misclassified.csv").read_text().splitlines()[1:]
        worst_samples[count] = {row.split(",")[0] for row in rows}
    assert losses[2] == pytest.approx(losses[0], rel=1e-3)  # bfloat16 rounds to 4e-3
    assert len(worst_samples[2]) == len(worst_samples[0]) == 25
    assert len(worst_samples[2] & worst_samples[0]) > 20  # rounding may change the last ones
    assert command("export", tmp_path / "fsdp", "--format", "safetensors") == 0
    assert "of the model's" in capsys.readouterr().out


# What is sharded, and how


class TiedNetwork(BaseModel):
    """A network whose first and last layer have the same matrix, and with lists of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        blocks = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)]
        self.blocks = nn.ModuleList(blocks)
        self.cells = nn.ModuleDict({"one": nn.GRUCell(4, 4)})
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.words.weight

    def forward(self, input: Tensor) -> Tensor:
        return input


def test_shardable_blocks_are_members_of_layer_lists_and_children_outside_of_lists() -> None:
    model = TiedNetwork()
    names = {module: name for name, module in model.named_modules()}
    found = [names[block] for block in shardable_blocks(model)]
    # `words` and `head` share their matrix, so they must stay together.
    assert found == ["blocks.0.0", "blocks.1.0", "cells.one", "norm"]
    assert len(list(shardable_blocks(nn.Sequential(model)))) == 1


def test_optimizer_state_gets_the_memory_layout_of_its_parameter() -> None:
    """Otherwise a fused optimizer would combine values of different elements."""
    saved = torch.arange(24.0).reshape(1, 2, 3, 4)
    parameter = torch.zeros(1, 2, 3, 4).to(memory_format=torch.channels_last)
    matched = match_layout(saved, parameter)
    assert torch.equal(matched, saved)
    assert matched.stride() == parameter.stride()
    assert match_layout(None, torch.zeros(())) is None  # SGD without momentum saves None


def test_sharding_in_fp16_is_an_error() -> None:
    with pytest.raises(UserError, match="does not support fp16") as raised:
        shard_model(TiedNetwork(), torch.device("cpu"), torch.half)
    assert "trainer.strategy = 'fsdp'" in str(raised.value)
    assert "trainer.precision=bf16 or fp32" in str(raised.value)


def test_processes_that_use_different_layers_are_an_error(tmp_path: Path) -> None:
    """FSDP would add the gradients of the one layer to those of the other."""
    output = launch(2, PROCESSES, "different-layers", tmp_path / "run", FSDP, expected=1)
    assert "error: 4 parameters" in output
    for part in ("heads.0.weight", "heads.1.weight", "trainer.strategy = 'fsdp'"):
        assert part in output
    assert not (tmp_path / "run/checkpoints/last.pt").exists()
