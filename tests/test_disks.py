"""Real full and read-only disks; the tests need permission to mount a file system."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import PAYLOAD, run

TRAIN = ("train.py", "--config", "config/synthetic.yaml", "device=cpu", "logger.every_steps=1")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB with space for one checkpoint, but not for two."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_training_continues_and_reports_an_error_when_the_disk_is_full(disk: Path) -> None:
    """The first checkpoint fits on the disk, the second does not."""
    steps = ("trainer.max_steps=6", "checkpoint.every_steps=2", "logger.tensorboard=true")
    (disk / "ballast").write_bytes(b"x" * 100_000)
    done = run("python", *TRAIN, "--run-dir", disk / "run", *steps, cwd=PAYLOAD)
    assert done.returncode == 1, done.stdout
    assert "No space left on device" in done.stdout
    assert "step 4" in done.stdout  # the first failure, after which training continued
    assert "Traceback" not in done.stdout
    error, advice = done.stdout.splitlines()[-2:]
    assert error.startswith("error: ")
    assert "step 6" in error
    assert f"--resume {disk / 'run'}" in advice
    (disk / "ballast").unlink()
    exported = run(
        "python", "export.py", disk / "run", "--output", disk.parent / "x.pt2", cwd=PAYLOAD
    )
    assert exported.returncode == 0, exported.stdout  # the first checkpoint can be read
    assert not list(disk.rglob(".unfinished*"))


def test_a_full_or_read_only_disk_is_found_before_training(disk: Path) -> None:
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
