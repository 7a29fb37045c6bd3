"""Runs in Weights & Biases without a network: written by training, read back from its files."""
# ruff: noqa: D103, E402  the names of the tests say what they test; wandb may be missing

import csv
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from launcher import run_processes
from test_disks import at_step, fail

wandb: Any = pytest.importorskip("wandb", reason="only where the extra 'wandb' is installed")
protobuf: Any = pytest.importorskip("wandb.proto.wandb_internal_pb2")

from config.loading import flatten, load_settings

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
TRACKED = ("logger.tracker=wandb", "logger.every_steps=1", "trainer.epochs=1")
SPEEDS = ("train/samples_per_second", "train/waiting_for_data")
Values = dict[str, list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")


def records(file: Path) -> Iterator[Any]:
    """What such a file holds: blocks of 32 KiB, of parts with checksum, length and kind."""
    content, whole = file.read_bytes(), b""
    assert content.startswith(b":W&B")
    place = 7
    while place + 7 <= len(content):
        size, kind = int.from_bytes(content[place + 4 : place + 6], "little"), content[place + 6]
        if 0 < kind <= 4:  # 1: all of a record; 2, 3, 4: its beginning, midst and end
            whole += content[place + 7 : place + 7 + size]
            place += 7 + size
        if kind in (1, 4):
            yield protobuf.Record.FromString(whole)
            whole = b""
        if kind == 0 or 2**15 - place % 2**15 < 7:
            place += -place % 2**15


def kept(run: Path, kind: str) -> list[Any]:
    """All records of a kind, of all times that the run was begun or gone on with."""
    files = sorted(run.glob("wandb/offline-run-*/run-*.wandb"))
    found = [record for file in files for record in records(file)]
    return [getattr(r, kind) for r in found if r.WhichOneof("record_type") == kind]


def values_in_wandb(run: Path) -> Values:
    """Step and value of each metric, in the order in which they came."""
    found: Values = {}
    for row in kept(run, "history"):
        items = {item.key or "/".join(item.nested_key): item.value_json for item in row.item}
        for name, text in items.items():
            if name.startswith(("train/", "validation/")):
                found.setdefault(name, []).append((int(items["_step"]), float(text)))
    return found


def values_in_file(run: Path) -> Values:
    """The same of metrics.csv."""
    found: Values = {}
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = found.setdefault(f"{row['split']}/{row['metric']}", [])
            values.append((int(row["step"]), float(row["value"])))
    return found


def assert_same(run: Path, *speeds: str) -> None:
    """W&B has what the file has, but for what differs when a step is done again."""
    here, there = values_in_file(run), values_in_wandb(run)
    assert here.keys() == there.keys()
    for name in here:
        if name in speeds:
            assert [step for step, _ in there[name]] == [step for step, _ in here[name]]
        else:
            expected: Any = [(step, pytest.approx(v, rel=1e-8)) for step, v in here[name]]
            assert there[name] == expected


def test_a_run_is_in_wandb_as_in_its_folder(tmp_path: Path, train: Command) -> None:
    run = tmp_path / "first"
    assert train(run, *TRACKED, "trainer.epochs=2", "logger.every_steps=5") == 0
    assert_same(run)
    steps = [step for step, _ in values_in_wandb(run)["train/loss"]]
    assert steps == [5, 10, 15, 16, 20, 25, 30, 32]
    (about,), (end,) = kept(run, "run"), kept(run, "exit")
    assert (about.display_name, about.run_group, end.exit_code) == ("first", "synthetic", 0)
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    settings = load_settings(run / "settings.yaml").model_dump(mode="json")
    assert {name: config[name] for name in flatten(settings)} == flatten(settings)
    pictures = {file.name.rpartition("_")[0] for file in run.glob("wandb/*/files/media/**/*.png")}
    assert pictures == {"inputs_16", "confusion_matrix_32", "misclassified_32"}
    # Nothing else of the machine or the project is sent.
    assert not [*run.glob("wandb/*/files/**/*.patch"), *run.glob("wandb/*/files/output.log")]
    assert not kept(run, "stats") + kept(run, "output_raw")


def test_a_run_goes_on_in_wandb_and_has_each_step_once(
    tmp_path: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    saved = ("checkpoint.every_steps=4", "checkpoint.keep=9", "scheduler.name=constant")
    assert train(run, *TRACKED, *saved) == 0
    older = run / "checkpoints/step_00000004.pt"  # from which twelve steps are done again
    assert command("train", "--resume", older, "trainer.epochs=2") == 0
    assert_same(run, *SPEEDS)
    assert [step for step, _ in values_in_wandb(run)["train/loss"]] == [*range(1, 33)]
    assert [step for step, _ in values_in_wandb(run)["validation/loss"]] == [16, 32]
    first, second = kept(run, "run")
    assert first.run_id == second.run_id


def test_wandb_says_how_a_run_ended(
    tmp_path: Path, train: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    at_step(monkeypatch, {3: lambda: signal.raise_signal(signal.SIGTERM)})
    assert train(run, *TRACKED) == 128 + signal.SIGTERM
    at_step(monkeypatch, {6: fail})
    assert command("train", "--resume", run) == 2
    assert command("train", "--resume", run) == 0
    assert [end.exit_code for end in kept(run, "exit")] == [0, 1, 0]
    assert_same(run, *SPEEDS)


def test_a_service_that_dies_does_not_end_training(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def kill() -> None:
        folders = (folder for folder in Path("/proc").iterdir() if folder.name.isdecimal())
        for folder in folders:
            try:
                status, line = (folder / "status").read_text(), (folder / "cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            if f"PPid:\t{os.getpid()}\n" in status and b"wandb-core" in line:
                os.kill(int(folder.name), signal.SIGKILL)

    monkeypatch.setattr("logger.run_log.PAUSE", 0.0)
    at_step(monkeypatch, {9: kill})
    assert train(tmp_path / "run", *TRACKED) == 0
    said = capsys.readouterr().out
    assert said.count("what the tracker is sent ends here, metrics.csv goes on") == 1
    steps = [step for step, _ in values_in_file(tmp_path / "run")["train/loss"]]
    assert steps == [*range(1, 17)]
    with pytest.raises(ConnectionResetError):  # or else Python's end would tell of it
        wandb.teardown()


def test_a_run_that_cannot_begin_is_told_before_training(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    assert train(tmp_path / "run", *TRACKED) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: logger.tracker = 'wandb': ")
    assert "a/b" in line
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_told_with_its_extra(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.delitem(sys.modules, "logger.wandb_tracker", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train(tmp_path / "run", *TRACKED) == 2
    expected = "error: wandb is missing; pip install -e '.[wandb]' brings it\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "run").exists()


def test_several_processes_are_one_run(tmp_path: Path) -> None:
    run_processes(2, "train", tmp_path / "run", *TRACKED, "logger.every_steps=2")
    assert_same(tmp_path / "run")
    assert len(kept(tmp_path / "run", "run")) == 1
