"""Checkpoint files: complete at any moment, and verified when read."""
# ruff: noqa: D103  the names of the tests state what they test

import os
import pickle
import random
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.checkpoint_file import FORMAT, load_checkpoint, load_first_usable, save_checkpoint
from storage.checkpointer import write_step_files
from storage.run_folder import find_checkpoints
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
UNUSABLE = "is not a usable checkpoint"


def state_of_step(step: int, **others: Any) -> dict[str, Any]:
    return {"progress": {"step": step}, **others}


def saved_step(file: Path) -> int:
    """The number of steps made before a checkpoint was saved."""
    return int(load_checkpoint(file)["progress"]["step"])


def kept_steps(folder: Path) -> list[int]:
    """The steps of all ``step_*.pt``, in ascending order."""
    return sorted(saved_step(file) for file in folder.glob("step_*.pt"))


def fail_on_full_disk(*_: object) -> None:
    raise OSError(28, "the disk is full")


# Writing


def test_loaded_checkpoint_equals_the_saved_state(tmp_path: Path) -> None:
    plain_values = {"step": 7, "names": ["a", "b"], "best": 0.1}
    weights = torch.randn(3)
    save_checkpoint(tmp_path / "x.pt", {"weights": weights, **plain_values})
    loaded = load_checkpoint(tmp_path / "x.pt")
    assert torch.equal(loaded.pop("weights"), weights)
    assert loaded == {"format": FORMAT, **plain_values}


def test_state_that_cannot_be_saved_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    save_checkpoint(file, state_of_step(1))
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        save_checkpoint(file, state_of_step(2, function=lambda: None))
    assert saved_step(file) == 1
    assert list(tmp_path.iterdir()) == [file]


def test_full_disk_leaves_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.pt"
    save_checkpoint(file, state_of_step(1))
    monkeypatch.setattr(os, "fsync", fail_on_full_disk)  # everything is written, but not durable
    with pytest.raises(OSError, match=r"full.*x\.pt"):
        save_checkpoint(file, state_of_step(2))
    assert saved_step(file) == 1
    assert list(tmp_path.iterdir()) == [file]


def test_old_checkpoints_are_deleted_after_the_new_one_is_safe(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2, 3):
        write_step_files(tmp_path, state_of_step(step), step, keep=2, is_best=step == 1)
    assert kept_steps(tmp_path) == [2, 3]
    assert saved_step(tmp_path / "best.pt") == 1
    monkeypatch.setattr(os, "fsync", fail_on_full_disk)
    with pytest.raises(OSError, match="full"):
        write_step_files(tmp_path, state_of_step(4), 4, keep=1, is_best=True)
    assert kept_steps(tmp_path) == [2, 3]
    assert saved_step(tmp_path / "best.pt") == 1


def test_newest_checkpoint_is_kept_if_a_run_returns_to_an_earlier_step(tmp_path: Path) -> None:
    for step in (2, 3, 1):
        write_step_files(tmp_path, state_of_step(step), step, keep=1, is_best=False)
    assert kept_steps(tmp_path) == [1]
    assert saved_step(tmp_path / "last.pt") == 1


def test_an_old_checkpoint_that_cannot_be_deleted_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "step_00000001.pt").mkdir()  # a folder cannot be deleted like a file
    write_step_files(tmp_path, state_of_step(3), 3, keep=1, is_best=True)
    assert str(tmp_path) in caplog.text
    assert saved_step(tmp_path / "best.pt") == saved_step(tmp_path / "last.pt") == 3

    (tmp_path / "step_00000009.pt").mkdir()  # a run would resume from it
    with pytest.raises(OSError, match="step_00000009"):
        write_step_files(tmp_path, state_of_step(4), 4, keep=1, is_best=False)


def test_shards_stay_while_a_checkpoint_cannot_be_read(tmp_path: Path) -> None:
    shards = tmp_path / "shards-00000003-0"
    shards.mkdir()
    (tmp_path / "step_00000003.pt").write_bytes(b"damaged")
    write_step_files(tmp_path, state_of_step(4), 4, keep=2, is_best=False)
    assert shards.exists()
    write_step_files(tmp_path, state_of_step(5), 5, keep=1, is_best=False)
    assert not shards.exists()


def test_run_resumes_from_the_step_that_it_has_returned_to(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in (4, 8, 6):
        write_step_files(folder, state_of_step(step), step, keep=3, is_best=False)
    assert kept_steps(folder) == [4, 6]
    assert saved_step(find_checkpoints(tmp_path, best=False)[0]) == 6


@settings(deadline=None, max_examples=60)
@given(
    steps=st.lists(st.integers(0, 10**9), min_size=1, max_size=8, unique=True),
    keep=st.integers(1, 4),
    times=st.lists(st.integers(0, 2**31), min_size=20, max_size=20),
    damaged=st.sets(st.integers(0, 3)),
    links=st.booleans(),
)
def test_steps_decide_which_checkpoints_are_kept_and_used(
    steps: list[int], keep: int, times: list[int], damaged: set[int], links: bool
) -> None:
    """Whatever the times of the files are, and whichever of them are damaged."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "checkpoints"
        folder.mkdir()
        for step in sorted(steps):
            write_step_files(folder, state_of_step(step), step, keep, is_best=False)
            for file, time in zip(sorted(folder.iterdir()), times, strict=False):
                os.utime(file, (time, time))
        kept = sorted(steps)[-keep:]
        assert kept_steps(folder) == kept
        if not links:  # as in a copy of the folder
            content = (folder / "last.pt").read_bytes()
            (folder / "last.pt").unlink()
            (folder / "last.pt").write_bytes(content)
        usable = set(kept)
        for number in damaged:
            if number < len(kept):
                os.truncate(folder / f"step_{kept[number]:08d}.pt", 100)
                usable.discard(kept[number])
        if not links:
            usable.add(kept[-1])
        files = find_checkpoints(Path(name), best=False)
        if usable:
            _, state = load_first_usable(files)
            assert state["progress"]["step"] == max(usable)
        else:
            with pytest.raises(UserError, match=UNUSABLE):
                load_first_usable(files)


def test_older_last_file_does_not_hide_a_newer_step(tmp_path: Path) -> None:
    """As in a folder that was copied while the run was writing."""
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    save_checkpoint(folder / "step_00000008.pt", state_of_step(8))
    save_checkpoint(folder / "last.pt", state_of_step(4))
    assert saved_step(find_checkpoints(tmp_path)[0]) == 8
    save_checkpoint(folder / "last.pt", state_of_step(12))
    assert saved_step(find_checkpoints(tmp_path)[0]) == 12


def test_damaged_last_file_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    save_checkpoint(folder / "step_00000008.pt", state_of_step(8))
    (folder / "last.pt").write_bytes(b"cut")
    file, _ = load_first_usable(find_checkpoints(tmp_path))
    assert file.name == "step_00000008.pt"
    assert f"{folder / 'last.pt'} {UNUSABLE}" in caplog.text


def test_reader_finds_complete_files_at_any_time(tmp_path: Path) -> None:
    write_step_files(tmp_path, state_of_step(0), 0, keep=1, is_best=True)
    failures: list[UserError] = []
    steps_read: set[int] = set()
    finished = threading.Event()

    def read() -> None:
        while not finished.is_set():
            for name in ("last.pt", "best.pt"):
                try:
                    steps_read.add(saved_step(tmp_path / name))
                except UserError as error:
                    failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(1, 60):
        state = state_of_step(step, weights=torch.rand(5000))
        write_step_files(tmp_path, state, step, keep=1, is_best=step % 2 == 0)
    finished.set()
    reader.join()
    assert failures == []
    assert len(steps_read) > 3


def test_file_systems_without_hard_links_are_supported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "link", fail_on_full_disk)
    write_step_files(tmp_path, state_of_step(5), 5, keep=1, is_best=True)
    names = {"step_00000005.pt", "last.pt", "best.pt"}
    assert {file.name for file in tmp_path.iterdir()} == names
    assert {saved_step(tmp_path / name) for name in names} == {5}


def test_every_minutes_saves_within_an_epoch(tmp_path: Path, train: Command) -> None:
    changes = ["checkpoint.keep=100", "trainer.max_steps=5", "model.name=networks.MLP"]
    assert train(tmp_path / "often", *changes, "checkpoint.every_minutes=1e-9") == 0
    assert kept_steps(tmp_path / "often/checkpoints") == [0, 1, 2, 3, 4, 5]
    assert train(tmp_path / "rarely", *changes, "checkpoint.every_minutes=99") == 0
    assert kept_steps(tmp_path / "rarely/checkpoints") == [0, 5]


# Reading


def test_every_flipped_bit_is_detected(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    save_checkpoint(file, state_of_step(1, model={"weight": torch.randn(300)}))
    content = file.read_bytes()
    rng = random.Random(0)
    offsets = {*range(0, len(content), 20), len(content) - 1}
    for offset in offsets:
        flipped = bytearray(content)
        flipped[offset] ^= 1 << rng.randrange(8)
        file.write_bytes(flipped)
        with pytest.raises(UserError, match=rf"x\.pt {UNUSABLE}: it is damaged"):
            load_checkpoint(file)
    assert len(offsets) > 100


@pytest.mark.parametrize("damage", ["truncated", "longer", "empty", "text", "plain torch.save"])
def test_commands_reject_a_damaged_checkpoint(
    tmp_path: Path, trained_run: Path, command: Command, capsys: Captured, damage: str
) -> None:
    file = tmp_path / "x.pt"
    content = (trained_run / "checkpoints/last.pt").read_bytes()
    if damage == "truncated":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "longer":
        file.write_bytes(content + b"!")
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "text":
        file.write_bytes(b"not a checkpoint at all")
    else:
        torch.save({"weights": torch.zeros(3)}, file)
    for arguments in (["train", "--resume", file], ["evaluate", file], ["export", file]):
        assert command(*arguments) == 2
        assert f"x.pt {UNUSABLE}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [file]


def test_other_format_is_rejected(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pt", {"format": FORMAT + 1})
    message = rf"x\.pt {UNUSABLE}: .*format {FORMAT + 1}.*format {FORMAT}"
    with pytest.raises(UserError, match=message):
        load_checkpoint(tmp_path / "x.pt")


def test_resume_uses_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, train: Command, command: Command, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    assert train(run, "model.name=networks.MLP", "trainer.max_steps=20") == 0
    newest = run / "checkpoints/step_00000020.pt"
    expected = load_checkpoint(newest)["model"]
    os.truncate(newest, 1000)
    caplog.clear()
    assert command("train", "--resume", run) == 0
    (warning,) = [entry.getMessage() for entry in caplog.records if entry.levelname == "WARNING"]
    assert warning.startswith(f"{newest} {UNUSABLE}: it is damaged")
    resumed = load_checkpoint(run / "checkpoints/last.pt")
    assert resumed["progress"]["step"] == 20
    for name, weight in resumed["model"].items():
        assert torch.equal(weight, expected[name]), name


def test_run_without_a_usable_checkpoint_is_rejected(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "runs/damaged"
    assert train(run, "model.name=networks.MLP", "trainer.max_steps=1") == 0
    for file in (run / "checkpoints").iterdir():
        os.truncate(file, 1000)
    for arguments in (["evaluate", run], ["train", "--resume", run], ["train", "--resume", "last"]):
        assert command(*arguments) == 2
        assert UNUSABLE in capsys.readouterr().err


class MaliciousObject:
    """Creates a folder when it is unpickled, in place of worse things."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_never_run(
    tmp_path: Path, trained_run: Path, command: Command, capsys: Captured
) -> None:
    file = tmp_path / "malicious.pt"
    created_folder = tmp_path / "created"
    state = load_checkpoint(trained_run / "checkpoints/last.pt")
    # The file has a valid digest.
    save_checkpoint(file, {**state, "progress": MaliciousObject(created_folder)})
    for arguments in (
        ["train", "--resume", file],
        ["evaluate", file],
        ["predict", file, "image.png"],
        ["export", file],
        ["train", "--config", ROOT / "config/synthetic.yaml", f"model.init_from={file}"],
    ):
        assert command(*arguments) == 2
        assert f"{UNUSABLE}: it contains more than plain data" in capsys.readouterr().err
    assert not created_folder.exists()
    torch.load(file, weights_only=False)  # shows that the object would run its code
    assert created_folder.exists()
