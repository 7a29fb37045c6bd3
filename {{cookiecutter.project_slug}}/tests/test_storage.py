"""Checkpoints and run folders: always whole, checked when read, kept from other processes."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import pickle
import random
import resource
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
import torch
from torch import Tensor, nn

from base.base_dataset import Batch
from logger import run_log
from logger.run_log import RunLog
from storage import run_folder
from storage.checkpoint import load_checkpoint, save_checkpoint, save_step
from trainer.classifier import Classifier
from utils.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


def steps_in(folder: Path) -> list[int]:
    return sorted(load_checkpoint(file)["step"] for file in folder.glob("step_*.pt"))


# Files


def test_a_checkpoint_gives_back_what_was_saved(tmp_path: Path) -> None:
    state: dict[str, Any] = {"weights": torch.randn(3), "step": 7, "names": ["a", "b"], "best": 0.1}
    save_checkpoint(tmp_path / "x.pt", state)
    loaded = load_checkpoint(tmp_path / "x.pt")
    assert loaded.pop("weights").equal(state.pop("weights"))
    assert loaded == {"format": 1, **state}


def test_a_failed_save_leaves_the_old_checkpoint_whole(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pt", {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        save_checkpoint(tmp_path / "x.pt", {"step": 2, "never plain": lambda: None})
    with pytest.MonkeyPatch.context() as patch, pytest.raises(OSError, match=r"full.*x\.pt"):
        patch.setattr(os, "fsync", fail)  # all is written, and nothing is durable yet
        save_checkpoint(tmp_path / "x.pt", {"step": 2})
    assert load_checkpoint(tmp_path / "x.pt")["step"] == 1
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


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "x.pt", {"format": 2})
    with pytest.raises(UserError, match="has format 2, and this project reads 1"):
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
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 1
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="full"):
        save_step(tmp_path, {"step": 4}, keep=1, best=True)
    assert steps_in(tmp_path) == [2, 3]
    assert load_checkpoint(tmp_path / "best.pt")["step"] == 1
    monkeypatch.undo()
    save_step(tmp_path, {"step": 1}, keep=1, best=False)  # of a run that went back
    assert steps_in(tmp_path) == [1]
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 1


def test_a_reader_finds_whole_files_at_any_time(tmp_path: Path) -> None:
    save_step(tmp_path, {"step": 0}, keep=1, best=True)
    failures: list[UserError] = []
    seen, done = set[int](), threading.Event()

    def read() -> None:
        while not done.is_set():
            for name in ("last.pt", "best.pt"):
                try:
                    seen.add(load_checkpoint(tmp_path / name)["step"])
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
    assert {load_checkpoint(tmp_path / name)["step"] for name in names} == {5}


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


def test_only_what_lies_in_a_run_folder_is_gone_on_with(
    tmp_path: Path, trained_run: Path, command: Command, capsys: Captured
) -> None:
    shutil.copy(trained_run / "checkpoints/last.pt", tmp_path / "copy.pt")
    assert command("train", "--resume", "copy.pt") == 2
    assert "copy.pt is in no run folder; model.init_from=copy.pt" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["copy.pt"]


# Disks


def at_step(patch: pytest.MonkeyPatch, actions: dict[int, Callable[[], object]]) -> None:
    """Lets things happen while steps are being computed."""
    original = Classifier.training_step

    def step(trainer: Classifier, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        actions.pop(trainer.step, lambda: None)()
        return original(trainer, model, batch)

    patch.setattr(Classifier, "training_step", step)


def limit_files(size: int) -> None:
    """Lets no file grow beyond `size` bytes, as a quota or a full disk would."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


EVERY_4 = ("checkpoint.every_steps=4", "checkpoint.keep=100", "trainer.epochs=1")


def test_training_goes_on_while_the_disk_is_full(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    at_step(monkeypatch, {6: lambda: limit_files(2000), 14: lambda: limit_files(-1)})
    try:
        assert train(tmp_path / "run", *EVERY_4, "logger.every_steps=1") == 0
    finally:
        limit_files(-1)
    output = capsys.readouterr()
    assert "step 8 could not be saved: [Errno 27] File too large" in output.out
    assert "Traceback" not in output.out + output.err
    assert steps_in(tmp_path / "run/checkpoints") == [0, 4, 16]
    rows = (tmp_path / "run/metrics.csv").read_text().splitlines()
    logged = [row.split(",")[3] for row in rows if ",train," in row and ",loss," in row]
    assert logged == [str(step) for step in range(1, 17)]


def test_no_checkpoint_is_ahead_of_the_log(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or rows would be missing if the process were killed and the run went on."""
    original = RunLog.sync
    at_step(
        monkeypatch,
        {
            6: lambda: monkeypatch.setattr(RunLog, "sync", fail),
            14: lambda: monkeypatch.setattr(RunLog, "sync", original),
        },
    )
    assert train(tmp_path / "run", *EVERY_4) == 0
    assert steps_in(tmp_path / "run/checkpoints") == [0, 4, 16]


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("moment", ["acquire", "write_text", "mkdir", "replace"])
def test_a_run_that_was_killed_as_it_began_can_begin_again(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Killed after making the folder, the lock, the process's number, half a checkpoint."""
    run = tmp_path / "run"
    if (process := os.fork()) == 0:
        owner: Any = filelock.FileLock if moment == "acquire" else Path
        original = getattr(owner, moment)

        def die(place: Any, *arguments: Any, **options: Any) -> Any:
            if moment == "mkdir" and Path(place) != run / "checkpoints":
                return original(place, *arguments, **options)
            if moment == "write_text" and Path(place).name != ".pid":
                return original(place, *arguments, **options)
            if moment == "replace" and Path(place).parent != run / "checkpoints":
                return original(place, *arguments, **options)
            return os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(owner, moment, die)
        train(run, "trainer.max_steps=1")
        os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    assert train(run, "trainer.max_steps=1") == 0
    assert load_checkpoint(run / "checkpoints/last.pt")["step"] == 1


def test_log_entries_are_written_after_a_while_or_when_it_matters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def written() -> list[str]:
        return [line.split(",")[3] for line in (tmp_path / "metrics.csv").read_text().split()[1:]]

    with RunLog(tmp_path, "data", 0, tensorboard=False) as record:
        record.scalars("train", 1, 1, {"loss": 1.0})
        assert written() == []
        record.sync()
        assert written() == ["1"]
        record.scalars("train", 1, 2, {"loss": 1.0})
        monkeypatch.setattr(run_log, "PAUSE", 0.0)
        record.scalars("train", 1, 3, {"loss": 1.0})
        assert written() == ["1", "2", "3"]
        monkeypatch.setattr(run_log, "PAUSE", 10.0)
        record.scalars("train", 1, 4, {"loss": 1.0})
    assert written() == ["1", "2", "3", "4"]


def test_checkpoints_can_be_saved_by_the_clock(tmp_path: Path, train: Command) -> None:
    often = ["checkpoint.every_minutes=1e-9", "checkpoint.keep=100", "trainer.max_steps=5"]
    assert train(tmp_path / "often", *often) == 0
    assert steps_in(tmp_path / "often/checkpoints") == [0, 1, 2, 3, 4, 5]
    assert train(tmp_path / "seldom", "checkpoint.every_minutes=99", *often[1:]) == 0
    assert steps_in(tmp_path / "seldom/checkpoints") == [0, 5]


def test_a_last_state_that_cannot_be_saved_is_a_failure(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    at_step(monkeypatch, {6: lambda: limit_files(2000)})
    try:
        assert train(tmp_path / "run", *EVERY_4) == 1
    finally:
        limit_files(-1)
    assert "error: step 16 could not be saved: [Errno 27]" in capsys.readouterr().err
    assert steps_in(tmp_path / "run/checkpoints") == [0, 4]
    assert not list(tmp_path.rglob(".unfinished"))


def test_a_disk_that_is_full_is_found_before_training(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    limit_files(5000)  # enough for the settings
    try:
        assert train(tmp_path / "run") == 2
    finally:
        limit_files(-1)
    assert "error: step 0 could not be saved: [Errno 27]" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_that_vanishes_while_training_is_told(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    at_step(monkeypatch, {6: lambda: shutil.rmtree(tmp_path / "run")})
    assert train(tmp_path / "run", *EVERY_4) == 1
    message = capsys.readouterr().err
    assert "error: step 16 could not be saved" in message
    assert "Traceback" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_is_an_error(
    tmp_path: Path, train: Command, capsys: Captured
) -> None:
    tmp_path.chmod(0o500)
    assert train(tmp_path / "run") == 2
    assert "Permission denied" in capsys.readouterr().err


# Processes


def test_a_run_has_one_writer(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    code = "from pathlib import Path; from storage.run_folder import open_run; import time, sys\n"
    code += "with open_run('', Path(sys.argv[1]), True): print('open', flush=True); time.sleep(60)"
    run = tmp_path / "run"
    assert train(run, "trainer.max_steps=1") == 0
    arguments = [sys.executable, "-c", code, str(run)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout and other.stdout.readline() == b"open\n"
        assert command("train", "--resume", run, "trainer.max_steps=2") == 2
        assert f"{run} is in use by process {other.pid}" in capsys.readouterr().err
        other.send_signal(signal.SIGKILL)
    assert command("train", "--resume", run, "trainer.max_steps=2") == 0


def test_what_was_in_a_folder_before_stays_there(
    tmp_path: Path, train: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    for name in ("tensorboard/mine", "checkpoints/model.ckpt"):
        (run / name).parent.mkdir(parents=True)
        (run / name).write_text("mine")
        assert train(run, "checkpoint.monitor=nothing") == 2
        assert f"{run} is not empty" in capsys.readouterr().err
        assert (run / name).read_text() == "mine"
        shutil.rmtree(run)
    run.mkdir()
    for name in (".pid", "notes"):  # as after a run that was killed before it saved anything
        (run / name).write_text("mine")
    assert train(run, "checkpoint.monitor=nothing") == 2
    assert train(run, "trainer.max_steps=1") == 0
    assert (run / "notes").read_text() == "mine"


def test_two_runs_of_one_second_have_two_folders(tmp_path: Path) -> None:
    with run_folder.open_run("x", None) as one, run_folder.open_run("x", None) as other:
        assert one.parent == other.parent == Path("runs/x")
        assert one != other
    assert not list((tmp_path / "runs/x").iterdir())  # as nothing was saved
