"""Run folders: one writer, and nothing of others touched."""
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

from storage import run_folder
from storage.checkpoint_file import load_checkpoint

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


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
    assert not list(tmp_path.iterdir())  # as nothing was saved


def test_only_what_lies_in_a_run_folder_is_gone_on_with(
    tmp_path: Path, trained_run: Path, command: Command, capsys: Captured
) -> None:
    shutil.copy(trained_run / "checkpoints/last.pt", tmp_path / "copy.pt")
    assert command("train", "--resume", "copy.pt") == 2
    assert "copy.pt is in no run folder; model.init_from=copy.pt" in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["copy.pt"]


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
    assert load_checkpoint(run / "checkpoints/last.pt")["progress"]["step"] == 1
