"""Run folders: one process writes at a time, and files of others stay untouched."""
# ruff: noqa: D103  the names of the tests say what they test

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import filelock
import pytest
from conftest import ROOT

from storage import run_folder
from storage.checkpoint_file import load_checkpoint
from utils.files import replace_file, replacing

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
LOCKING_SCRIPT = """
import sys
import time
from pathlib import Path

from storage.run_folder import open_run

with open_run("", Path(sys.argv[1]), resumed=True):
    print("open", flush=True)
    time.sleep(60)
"""


def test_only_one_process_writes_to_a_run_folder(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, "trainer.max_steps=1") == 0
    arguments = [sys.executable, "-c", LOCKING_SCRIPT, str(run)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        assert command("train", "--resume", run, "trainer.max_steps=2") == 2
        assert f"{run} is in use by process {other.pid}" in capsys.readouterr().err
        other.send_signal(signal.SIGKILL)
    assert command("train", "--resume", run, "trainer.max_steps=2") == 0


def test_a_folder_of_several_runs_does_not_stand_for_one_of_them(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    runs = tmp_path / "sweep"
    for name in ("first", "second"):
        assert train(runs / name, "trainer.max_steps=1") == 0
        if name == "first":  # a folder that contains a single run stands for it
            assert run_folder.find_checkpoints(runs)[0].parent.parent == runs / "first"
    for arguments in (["evaluate", runs], ["predict", runs, "x.png"], ["train", "--resume", runs]):
        assert command(*arguments) == 2
        message = capsys.readouterr().err
        for part in (f"{runs} contains 2 runs", str(runs / "second")):
            assert part in message
    newest, *_ = run_folder.find_checkpoints(Path("last"), runs=runs)
    assert newest.parent.parent == runs / "second"


@pytest.mark.parametrize("name", ["tensorboard/mine", "checkpoints/model.ckpt"])
def test_files_of_others_are_left_alone(
    tmp_path: Path, train: Command, capsys: Captured, name: str
) -> None:
    run = tmp_path / "run"
    file = run / name
    file.parent.mkdir(parents=True)
    file.write_text("mine")
    assert train(run, "checkpoint.monitor=nothing") == 2
    message = capsys.readouterr().err
    assert f"{run} is not empty" in message
    assert "--run-dir" in message
    assert file.read_text() == "mine"


@pytest.mark.parametrize("name", ["notes", "notes/run"])
@pytest.mark.parametrize(("program", "option"), [("train", "--run-dir"), ("preview", "--output")])
def test_a_file_in_the_place_of_a_folder_is_named_with_the_option(
    tmp_path: Path, command: Command, capsys: Captured, program: str, option: str, name: str
) -> None:
    (tmp_path / "notes").write_text("mine")
    assert command(program, option, name) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    for part in (option, repr(name), "notes is a file"):
        assert part in message
    assert (tmp_path / "notes").read_text() == "mine"


def test_a_folder_without_a_run_is_not_offered_for_resuming(
    tmp_path: Path, train: Command, capsys: Captured
) -> None:
    (tmp_path / "mine").touch()
    assert train(tmp_path) == 2
    message = capsys.readouterr().err
    assert f"{tmp_path} is not empty" in message
    assert "--resume" not in message


def test_files_in_the_folder_of_an_aborted_run_are_left_alone(
    tmp_path: Path, train: Command
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".pid").write_text("1")  # of a run that was killed before its first checkpoint
    (run / "notes").write_text("mine")
    assert train(run, "checkpoint.monitor=nothing") == 2
    assert train(run, "trainer.max_steps=1") == 0
    assert (run / "notes").read_text() == "mine"


def test_a_run_whose_checkpoints_were_deleted_is_not_overwritten(
    tmp_path: Path, train: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, "trainer.max_steps=1") == 0
    shutil.rmtree(run / "checkpoints")
    log_before = (run / "metrics.csv").read_bytes()
    assert train(run, "trainer.max_steps=1") == 2
    assert f"{run} is not empty" in capsys.readouterr().err
    assert (run / "metrics.csv").read_bytes() == log_before


def test_runs_that_start_at_the_same_time_have_their_own_folders(tmp_path: Path) -> None:
    with run_folder.open_run("x", None) as first, run_folder.open_run("x", None) as second:
        assert first.parent == second.parent == Path("runs/x")
        assert first != second
    assert not list(tmp_path.iterdir())  # without checkpoints, the folders are deleted


def test_only_a_checkpoint_in_a_run_folder_is_resumed(
    tmp_path: Path, trained_run: Path, command: Command, capsys: Captured
) -> None:
    shutil.copy(trained_run / "checkpoints/last.pt", tmp_path / "copy.pt")
    assert command("train", "--resume", "copy.pt") == 2
    message = capsys.readouterr().err
    assert "copy.pt: the file is not in a run folder" in message
    assert "model.init_from=copy.pt" in message
    assert [file.name for file in tmp_path.iterdir()] == ["copy.pt"]


# The calls that a run makes when it starts, and the files that they are for.
START_CALLS: dict[str, tuple[Any, str]] = {
    "acquire": (filelock.FileLock, ".lock"),
    "write_text": (Path, ".pid"),
    "mkdir": (Path, "checkpoints"),
    "replace": (Path, "checkpoints/.unfinished.PID"),
}


def test_another_run_folder_for_a_resumed_run_is_an_error(
    tmp_path: Path, trained_run: Path, command: Command, capsys: Captured
) -> None:
    folder = tmp_path / "other"
    assert command("train", "--resume", trained_run, "--run-dir", folder) == 2
    assert "--run-dir" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("call", START_CALLS)
def test_a_run_that_was_killed_while_it_started_can_start_again(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    run = tmp_path / "run"
    process = os.fork()
    if process == 0:
        kill_in_call(monkeypatch, call, run)
        train(run, "trainer.max_steps=1")
        os._exit(99)
    _, status = os.waitpid(process, 0)
    assert os.waitstatus_to_exitcode(status) == -signal.SIGKILL
    assert train(run, "trainer.max_steps=1") == 0
    assert load_checkpoint(run / "checkpoints/last.pt")["progress"]["step"] == 1
    assert not list(run.rglob(".unfinished*"))


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_two_processes_can_write_in_the_same_folder(tmp_path: Path) -> None:
    """As compare.py, which writes a report into the folder of a run that trains."""
    with replacing(tmp_path / "metrics.csv") as temporary:
        temporary.write_text("metrics")
        process = os.fork()
        if process == 0:
            replace_file(tmp_path / "report.html", b"report")
            os._exit(0)
        os.waitpid(process, 0)
    assert (tmp_path / "metrics.csv").read_text() == "metrics"
    assert (tmp_path / "report.html").read_text() == "report"
    assert len(list(tmp_path.iterdir())) == 2


def kill_in_call(patch: pytest.MonkeyPatch, call: str, run: Path) -> None:
    """Kills this process instead of making one of the `START_CALLS`."""
    owner, file_name = START_CALLS[call]
    original = getattr(owner, call)

    def kill(target: Any, *arguments: Any, **options: Any) -> Any:
        path = getattr(target, "lock_file", target)
        if Path(path) == run / file_name.replace("PID", str(os.getpid())):
            os.kill(os.getpid(), signal.SIGKILL)
        return original(target, *arguments, **options)

    patch.setattr(owner, call, kill)
