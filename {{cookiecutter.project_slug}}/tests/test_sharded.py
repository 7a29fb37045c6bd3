"""Models of which each process holds a share: the same training, and checkpoints in parts."""
# ruff: noqa: D103  the names of the tests say what they test

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from test_distributed import PROCESSES, SMALL, differences_of, drift, launch, rows, together
from test_resume import checkpoint, measured
from torch import Tensor, nn

from base.base_model import BaseModel
from storage.checkpoint_file import load_first_usable
from storage.run_folder import find_checkpoints
from utils.errors import UserError
from utils.parallel import match_layout, shard_model, shardable_blocks

Command = Callable[..., int]
FSDP = "trainer.strategy=fsdp"


def test_shares_train_the_same_model_in_a_share_of_the_memory(tmp_path: Path) -> None:
    """Of three processes one has no sample in the last batches, of training and of evaluation."""
    options = ("trainer.accumulate=2", "trainer.clip_norm=0.5", FSDP)
    for count in (1, 2, 3):
        together(count, "holding", tmp_path / str(count), *options)
    alone, ((weights, moments),) = rows(tmp_path / "1"), torch.load(tmp_path / "1/held.pt")
    assert moments == weights
    for count in (2, 3):
        assert drift(tmp_path / "1", tmp_path / str(count)) < 1e-10
        assert rows(tmp_path / str(count)) == pytest.approx(alone, rel=1e-6)
        held = torch.load(tmp_path / f"{count}/held.pt")
        assert len(held) == count
        for own in held:  # with ten classes, and the like, three do not have the same
            assert own == pytest.approx((weights / count, moments / count), rel=0.1)


def test_a_run_goes_on_with_other_shares_or_none(tmp_path: Path) -> None:
    """Whole, then in shares; in shares, then whole; in shares, then in more."""
    adamw = ("optimizer.name=AdamW", "optimizer.lr=0.003")
    options = (*adamw, "scheduler.name=constant", "trainer.ema=0.9")
    a, b, c = ((tmp_path / name, *options) for name in "abc")
    half = "trainer.max_steps=13"
    together(1, "train", tmp_path / "whole", *options, "--", "train", *a, half)
    together(2, "train", *a, FSDP, "--", "train", *b, FSDP, half, "--", "train", *c, FSDP, half)
    together(1, "train", *b)
    together(4, "train", *c, FSDP)
    for name in "abc":
        assert checkpoint(tmp_path / name)["step"] == 22
        assert drift(tmp_path / "whole", tmp_path / name) < 1e-10


def test_as_many_processes_go_on_to_the_same_bits_from_what_was_saved_meanwhile(
    tmp_path: Path,
) -> None:
    """Training goes on while step 16 is written, and nothing of that may be in it."""
    options = ("scheduler.name=constant", "logger.every_steps=7", "trainer.ema=0.9", FSDP)
    saves = ("checkpoint.every_steps=16", "checkpoint.keep=9")
    whole, part = tmp_path / "whole", tmp_path / "part/checkpoints"
    together(2, "train", whole, *options, *saves)
    shutil.copytree(whole / "checkpoints", part, ignore=shutil.ignore_patterns("*.pt"))
    shutil.copy(whole / "checkpoints/step_00000016.pt", part / "last.pt")
    shutil.copy(whole / "metrics.csv", part.parent)
    together(2, "train", part.parent, *options)
    expected = {"/settings/checkpoint/every_steps", "/settings/checkpoint/keep"}
    assert {*differences_of(whole, part.parent)} <= expected
    assert measured(part.parent) == measured(whole)


def test_one_process_says_that_it_has_no_shares(
    tmp_path: Path, train: Command, caplog: pytest.LogCaptureFixture
) -> None:
    for strategy, said in (("ddp", False), ("fsdp", True)):
        caplog.clear()
        assert (
            train(tmp_path / strategy, f"trainer.strategy={strategy}", "trainer.max_steps=1") == 0
        )
        assert ("there is one process, which has the whole model" in caplog.text) is said


def test_parts_stay_as_long_as_their_checkpoints(tmp_path: Path) -> None:
    """Those of half a checkpoint, too, are removed, and of best.pt they are there."""
    (tmp_path / "checkpoints/parts-7").mkdir(parents=True)
    together(2, "train", tmp_path, FSDP, "checkpoint.every_steps=4", "checkpoint.keep=1")
    folders = {checkpoint(tmp_path, name)["step"] for name in ("best", "last")}
    assert len([*tmp_path.glob("checkpoints/parts-*")]) == len(folders)


def test_damaged_parts_are_refused_and_the_checkpoint_before_is_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    together(2, "train", tmp_path, FSDP)
    (newest, *_) = files = find_checkpoints(tmp_path, best=False)
    assert load_first_usable(files)[1]["step"] == 22
    state = torch.load(newest, weights_only=True)
    (shard, other) = sorted((newest.parent / state["parts"]["folder"]).iterdir())
    whole = shard.read_bytes()
    for damage in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        shard.write_bytes(damage)
        with caplog.at_level(logging.WARNING, "run"):
            assert load_first_usable(files)[1]["step"] == 11
        assert f"in {shard.parent}, {shard.name} is not there or not as written" in caplog.text
    shard.write_bytes(whole)
    assert load_first_usable(files)[1]["step"] == 22
    shutil.copy(other, other.with_name("shard-00003-model-00001-of-00001.safetensors"))
    assert load_first_usable(files)[1]["step"] == 11


def test_a_part_that_cannot_be_written_leaves_the_checkpoint_before(tmp_path: Path) -> None:
    said = launch(2, PROCESSES, "filling", tmp_path, FSDP, "trainer.max_steps=20", expected=1)
    text = "step 11 could not be saved: [Errno 27] File too large"
    assert f"{text}; training goes on, and the next save tries again" in said
    assert "error: step 20 could not be saved: [Errno 27] File too large" in said
    assert checkpoint(tmp_path)["step"] == 0
    assert [place.stem for place in find_checkpoints(tmp_path)] == ["step_00000000"]


def test_a_loss_that_is_no_number_in_one_process_is_left_out_by_all(tmp_path: Path) -> None:
    options = (FSDP, "trainer.non_finite=skip", "trainer.max_steps=8")
    together(2, "breaking", tmp_path, *options)
    state = checkpoint(tmp_path)
    assert (state["step"], state["skipped"]) == (8, 1)
    (_, kept) = load_first_usable([tmp_path / "non_finite_00000003.pt"])
    assert kept["step"] == 2
    assert len(kept["batches"]) == 2


def test_commands_read_checkpoints_in_parts(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained in low precision and compiled, too, and about as well as whole models are."""
    options = (*SMALL, "trainer.precision=bf16", "trainer.compile=true", "trainer.max_steps=20")
    for strategy in ("ddp", "fsdp"):
        run = ("--run-dir", tmp_path / strategy, f"trainer.strategy={strategy}")
        launch(2, ROOT / "train.py", *options, *run)
    wanted, found = rows(tmp_path / "ddp"), rows(tmp_path / "fsdp")
    assert found == pytest.approx(wanted, rel=0.2)  # rounding; float32: above
    losses = dict[int, float]()
    for count in (0, 2):
        launch(count, ROOT / "evaluate.py", tmp_path / "fsdp", "trainer.compile=false")
        file = tmp_path / "fsdp/evaluation/test/metrics.json"
        losses[count] = json.loads(file.read_text())["loss"]
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    assert command("export", tmp_path / "fsdp", "--format", "safetensors") == 0
    assert "of the model's" in capsys.readouterr().out


class Tied(BaseModel):
    """A network whose first and last layer have the same matrix, and a list of others."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(10, 4)
        self.inner = nn.ModuleList([nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(2)])
        self.cell = nn.ModuleDict({"one": nn.GRUCell(4, 4)})
        self.norm = nn.LayerNorm(4)
        self.head = nn.Linear(4, 10, bias=False)
        self.head.weight = self.words.weight

    def forward(self, input: Tensor) -> Tensor:
        return input


def test_blocks_are_members_of_lists_and_what_is_beside_them() -> None:
    model = Tied()
    names = {part: name for name, part in model.named_modules()}
    found = [names[part] for part in shardable_blocks(model)]
    assert found == ["inner.0.0", "inner.1.0", "cell.one", "norm"]  # words and head stay together
    wrapped = nn.Sequential(model)
    assert len([*shardable_blocks(wrapped)]) == 1


def test_what_an_optimizer_keeps_is_laid_out_as_its_parameter_is() -> None:
    """Or else a fused one would pair the values of one with others of the other."""
    saved = torch.arange(24.0).reshape(1, 2, 3, 4)
    parameter = torch.zeros(1, 2, 3, 4).to(memory_format=torch.channels_last)
    placed = match_layout(saved, parameter)
    assert torch.equal(placed, saved)
    assert placed.stride() == parameter.stride()
    assert match_layout(None, torch.zeros(())) is None  # SGD's of a number, without momentum


def test_what_cannot_be_shared_out_is_told() -> None:
    with pytest.raises(UserError, match=r"has no fp16; trainer\.precision=bf16 or fp32 can do"):
        shard_model(Tied(), torch.device("cpu"), torch.half)
