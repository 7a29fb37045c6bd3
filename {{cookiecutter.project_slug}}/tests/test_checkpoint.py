"""Checkpoints: always whole, and checked when read."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import pickle
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from storage.checkpoint_file import FORMAT, load_checkpoint, save_checkpoint, save_step
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


def steps_in(folder: Path) -> list[int]:
    return sorted(load_checkpoint(file)["progress"]["step"] for file in folder.glob("step_*.pt"))


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    state: dict[str, Any] = {"weights": torch.randn(3), "step": 7, "names": ["a", "b"], "best": 0.1}
    save_checkpoint(tmp_path / "x.pt", state)
    loaded = load_checkpoint(tmp_path / "x.pt")
    assert loaded.pop("weights").equal(state.pop("weights"))
    assert loaded == {"format": FORMAT, **state}


def test_a_failed_save_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pt", {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        save_checkpoint(tmp_path / "x.pt", {"step": 2, "never plain": lambda: None})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match=r"full.*x\.pt"):
        patch.setattr(os, "fsync", fail)  # all is written, and nothing is durable yet
        save_checkpoint(tmp_path / "x.pt", {"step": 2})
    assert load_checkpoint(tmp_path / "x.pt")["progress"]["step"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


def fail(*_: object) -> None:
    raise OSError(28, "the disk is full")


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    file, draws = tmp_path / "x.pt", random.Random(0)
    save_checkpoint(file, {"step": 1, "model": {"weight": torch.randn(300)}})
    content = file.read_bytes()
    places = {*range(0, len(content), 20), len(content) - 1}
    for place in places:
        flipped = bytes([content[place] ^ 1 << draws.randrange(8)])
        file.write_bytes(content[:place] + flipped + content[place + 1 :])
        with pytest.raises(UserError, match=r"x\.pt is no usable checkpoint: it is damaged"):
            load_checkpoint(file)
    assert len(places) > 100


def test_a_damaged_checkpoint_is_refused(
    tmp_path: Path, trained_run: Path, command: Command, capsys: Captured
) -> None:
    content = (trained_run / "checkpoints/last.pt").read_bytes()
    torch.save({"weights": torch.zeros(3)}, tmp_path / "other.pt")
    (tmp_path / "truncated.pt").write_bytes(content[: len(content) // 2])
    (tmp_path / "longer.pt").write_bytes(content + b"!")
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_bytes(b"no checkpoint at all")
    names = {file.name for file in tmp_path.iterdir()}
    for name in names:
        for arguments in (["train", "--resume", name], ["evaluate", name], ["export", name]):
            assert command(*arguments) == 2
            assert f"{name} is no usable checkpoint" in capsys.readouterr().err
    assert {file.name for file in tmp_path.iterdir()} == names


def test_another_format_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pt", {"format": FORMAT + 1})
    with pytest.raises(
        UserError, match=f"has format {FORMAT + 1}, and this project reads {FORMAT}"
    ):
        load_checkpoint(tmp_path / "x.pt")


def test_the_one_before_a_damaged_checkpoint_is_taken(
    tmp_path: Path,
    train: Command,
    command: Command,
    capsys: Captured,
    caplog: pytest.LogCaptureFixture,
) -> None:
    run = tmp_path / "run"
    assert train(run, "trainer.max_steps=20") == 0
    newest = run / "checkpoints/step_00000020.pt"
    whole = torch.load(newest, weights_only=True)
    os.truncate(newest, 1000)
    assert command("train", "--resume", run) == 0
    warnings = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    (warning,) = warnings
    assert warning.startswith(f"{newest} is no usable checkpoint: it is damaged")
    again = load_checkpoint(run / "checkpoints/last.pt")
    assert again["step"] == 20
    assert all(torch.equal(w, whole["model"][name]) for name, w in again["model"].items())

    for file in (run / "checkpoints").iterdir():
        os.truncate(file, 1000)
    assert command("evaluate", run) == 2
    assert "error: " in capsys.readouterr().err
    (tmp_path / "runs").mkdir()
    run.rename(tmp_path / "runs/damaged")
    assert command("train", "--resume", "last") == 2


def test_old_checkpoints_go_when_the_new_one_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        save_step(tmp_path, {"step": step}, keep=2, best=step == 1)
    assert steps_in(tmp_path) == [2, 3]
    assert load_checkpoint(tmp_path / "best.pt")["progress"]["step"] == 1
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        save_step(tmp_path, {"step": 4}, keep=1, best=True)
    assert steps_in(tmp_path) == [2, 3]
    assert load_checkpoint(tmp_path / "best.pt")["progress"]["step"] == 1
    monkeypatch.undo()
    save_step(tmp_path, {"step": 1}, keep=1, best=False)  # of a run that went back
    assert steps_in(tmp_path) == [1]
    assert load_checkpoint(tmp_path / "last.pt")["progress"]["step"] == 1


def test_a_reader_finds_whole_files_at_any_time(tmp_path: Path) -> None:
    save_step(tmp_path, {"step": 0}, keep=1, best=True)
    failures: list[UserError] = []
    seen, done = set[int](), threading.Event()

    def read() -> None:
        while not done.is_set():
            for name in ("last.pt", "best.pt"):
                try:
                    seen.add(load_checkpoint(tmp_path / name)["progress"]["step"])
                except UserError as error:
                    failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 60):
        save_step(tmp_path, {"step": step, "ballast": torch.rand(5000)}, keep=1, best=step % 2 == 0)
    done.set()
    reader.join()
    assert failures == []
    assert len(seen) > 3


def test_a_file_system_without_hard_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", fail)
    save_step(tmp_path, {"step": 5}, keep=1, best=True)
    names = {"step_00000005.pt", "last.pt", "best.pt"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert {load_checkpoint(tmp_path / name)["progress"]["step"] for name in names} == {5}


class Trap:
    """Makes a folder when it is unpickled, as an attacker's would do worse."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_refused_and_never_run(
    tmp_path: Path, trained_run: Path, command: Command, capsys: Captured
) -> None:
    file, sprung = tmp_path / "trap.pt", tmp_path / "sprung"
    state = load_checkpoint(trained_run / "checkpoints/last.pt")
    save_checkpoint(file, {**state, "best": Trap(sprung)})  # sealed like a good one
    for arguments in (
        ["train", "--resume", file],
        ["evaluate", file],
        ["predict", file, "image.png"],
        ["export", file],
        ["train", "--config", ROOT / "config/synthetic.yaml", f"model.init_from={file}"],
    ):
        assert command(*arguments) == 2
        assert "is no usable checkpoint: it holds more than plain data" in capsys.readouterr().err
    assert not sprung.exists()
    torch.load(file, weights_only=False)  # shows that the trap works
    assert sprung.exists()


def test_checkpoints_can_be_saved_by_the_clock(tmp_path: Path, train: Command) -> None:
    often = ["checkpoint.every_minutes=1e-9", "checkpoint.keep=100", "trainer.max_steps=5"]
    assert train(tmp_path / "often", *often) == 0
    assert steps_in(tmp_path / "often/checkpoints") == [0, 1, 2, 3, 4, 5]
    assert train(tmp_path / "seldom", "checkpoint.every_minutes=99", *often[1:]) == 0
    assert steps_in(tmp_path / "seldom/checkpoints") == [0, 5]
