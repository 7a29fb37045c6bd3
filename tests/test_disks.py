"""Disks that are really full or read-only; needs the right to mount one."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PAYLOAD, run

TRAIN = ("train.py", "--config", "config/synthetic.yaml", "device=cpu", "logger.every_steps=1")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB that holds one checkpoint, and not a second one beside it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_training_survives_a_full_disk_and_says_so(disk: Path) -> None:
    """The first state fits, the second does not fit beside it."""
    steps = ("trainer.max_steps=6", "checkpoint.every_steps=2", "logger.tensorboard=true")
    (disk / "ballast").write_bytes(b"x" * 100_000)
    done = run("python", *TRAIN, "--run-dir", disk / "run", *steps, cwd=PAYLOAD)
    assert done.returncode == 1, done.stdout
    assert "could not be saved: [Errno 28] No space left on device" in done.stdout
    assert "training goes on" in done.stdout
    assert "Traceback" not in done.stdout
    assert done.stdout.splitlines()[-1].startswith("error: step 6 could not be saved")
    (disk / "ballast").unlink()
    evaluated = run(
        "python", "export.py", disk / "run", "--output", disk.parent / "x.pt2", cwd=PAYLOAD
    )
    assert evaluated.returncode == 0, evaluated.stdout  # what was saved can be read
    assert not list(disk.rglob(".unfinished"))


def test_a_disk_without_room_or_right_to_write_is_found_before_training(disk: Path) -> None:
    (disk / "ballast").write_bytes(b"x" * 900_000)
    done = run("python", *TRAIN, "--run-dir", disk / "run", cwd=PAYLOAD)
    assert done.returncode == 2, done.stdout
    assert "No space left on device" in done.stdout.splitlines()[-1]
    assert [file.name for file in disk.iterdir()] == ["ballast"]
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    done = run("python", *TRAIN, "--run-dir", disk / "run", cwd=PAYLOAD)
    assert done.returncode == 2, done.stdout
    assert "Read-only file system" in done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stdout
