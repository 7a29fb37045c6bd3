"""Weights & Biases offline: training writes a run, which is read back from its files."""
# ruff: noqa: D103, E402  the names of the tests say what they test; wandb may be missing

import csv
import gc
import json
import os
import signal
import sys
import warnings
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
def offline(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("WANDB_MODE", "offline")
    yield
    with warnings.catch_warnings():
        # wandb forgets its service while it runs, which would be an error in another test.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def records(file: Path) -> Iterator[Any]:
    """Reads the records of a file.

    It consists of blocks of 32 KiB, and they of chunks with a header of 7 bytes: checksum, length
    and kind.
    """
    block_size = 2**15
    header_size = 7
    content = file.read_bytes()
    assert content.startswith(b":W&B")
    offset = 7
    record = b""
    while offset + header_size <= len(content):
        size = int.from_bytes(content[offset + 4 : offset + 6], "little")
        kind = content[offset + 6]
        if 0 < kind <= 4:  # 1: a whole record; 2, 3, 4: its first, a middle and its last chunk
            start = offset + header_size
            record += content[start : start + size]
            offset = start + size
        if kind in (1, 4):
            yield protobuf.Record.FromString(record)
            record = b""
        if kind == 0 or block_size - offset % block_size < header_size:  # padding
            offset += -offset % block_size


def records_of(run: Path, kind: str) -> list[Any]:
    """The records of a kind, from the start of the run and all times that it was resumed."""
    found = []
    for file in sorted(run.glob("wandb/offline-run-*/run-*.wandb")):
        for record in records(file):
            if record.WhichOneof("record_type") == kind:
                found.append(getattr(record, kind))
    return found


def values_in_wandb(run: Path) -> Values:
    """Step and value of each metric in W&B, in the order in which they were sent."""
    found: Values = {}
    for row in records_of(run, "history"):
        items = {item.key or "/".join(item.nested_key): item.value_json for item in row.item}
        for name, text in items.items():
            if name.startswith(("train/", "validation/")):
                found.setdefault(name, []).append((int(items["_step"]), float(text)))
    return found


def values_in_file(run: Path) -> Values:
    """Step and value of each metric in metrics.csv."""
    found: Values = {}
    with (run / "metrics.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            values = found.setdefault(f"{row['split']}/{row['metric']}", [])
            values.append((int(row["step"]), float(row["value"])))
    return found


def assert_same(run: Path, *speeds: str) -> None:
    """W&B has the values of metrics.csv; `speeds` differ, as they are measured again."""
    expected = values_in_file(run)
    found = values_in_wandb(run)
    assert found.keys() == expected.keys()
    for name, pairs in expected.items():
        assert [step for step, _ in found[name]] == [step for step, _ in pairs]
        if name not in speeds:
            values = [value for _, value in pairs]
            assert [value for _, value in found[name]] == pytest.approx(values, rel=1e-8)


def test_wandb_gets_values_settings_and_figures_of_a_run(tmp_path: Path, train: Command) -> None:
    run = tmp_path / "first"
    assert train(run, *TRACKED, "trainer.epochs=2", "logger.every_steps=5") == 0
    assert_same(run)
    steps = [step for step, _ in values_in_wandb(run)["train/loss"]]
    assert steps == [5, 10, 15, 16, 20, 25, 30, 32]
    (about,) = records_of(run, "run")
    (end,) = records_of(run, "exit")
    assert (about.display_name, about.run_group, end.exit_code) == ("first", "synthetic", 0)
    config = {item.key: json.loads(item.value_json) for item in about.config.update}
    settings = load_settings(run / "settings.yaml").model_dump(mode="json")
    assert {name: config[name] for name in flatten(settings)} == flatten(settings)
    figures = {file.name.rpartition("_")[0] for file in run.glob("wandb/*/files/media/**/*.png")}
    assert figures == {"inputs_16", "confusion_matrix_32", "misclassified_32"}
    # Nothing else about the machine or the project is logged.
    assert not [*run.glob("wandb/*/files/**/*.patch"), *run.glob("wandb/*/files/output.log")]
    assert not records_of(run, "stats") + records_of(run, "output_raw")


def test_a_resumed_run_continues_in_wandb_with_each_step_once(
    tmp_path: Path, train: Command, command: Command
) -> None:
    run = tmp_path / "run"
    saved = ("checkpoint.every_steps=4", "checkpoint.keep=9", "scheduler.name=constant")
    assert train(run, *TRACKED, *saved) == 0
    older = run / "checkpoints/step_00000004.pt"  # twelve steps before the last one
    assert command("train", "--resume", older, "trainer.epochs=2") == 0
    assert_same(run, *SPEEDS)
    assert [step for step, _ in values_in_wandb(run)["train/loss"]] == [*range(1, 33)]
    assert [step for step, _ in values_in_wandb(run)["validation/loss"]] == [16, 32]
    first, second = records_of(run, "run")
    assert first.run_id == second.run_id


def test_wandb_has_the_final_state_of_a_run(
    tmp_path: Path, train: Command, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    at_step(monkeypatch, {3: lambda: signal.raise_signal(signal.SIGTERM)})
    assert train(run, *TRACKED) == 128 + signal.SIGTERM
    at_step(monkeypatch, {6: fail})
    assert command("train", "--resume", run) == 2
    assert command("train", "--resume", run) == 0
    assert [end.exit_code for end in records_of(run, "exit")] == [0, 1, 0]
    assert_same(run, *SPEEDS)


def test_training_continues_when_the_service_of_wandb_is_killed(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    def kill() -> None:
        for folder in Path("/proc").iterdir():
            if not folder.name.isdecimal():
                continue
            try:
                status = (folder / "status").read_text()
                command_line = (folder / "cmdline").read_bytes()
            except OSError:  # the process has ended
                continue
            if f"PPid:\t{os.getpid()}\n" in status and b"wandb-core" in command_line:
                os.kill(int(folder.name), signal.SIGKILL)

    monkeypatch.setattr("logger.run_log.WRITE_INTERVAL_SECONDS", 0.0)
    at_step(monkeypatch, {9: kill})
    assert train(tmp_path / "run", *TRACKED) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if "tracker" in line and "metrics.csv" in line]) == 1
    steps = [step for step, _ in values_in_file(tmp_path / "run")["train/loss"]]
    assert steps == [*range(1, 17)]
    with pytest.raises(ConnectionResetError):  # otherwise, the end of Python would report it
        wandb.teardown()


def test_a_run_that_wandb_rejects_is_an_error_before_training(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    assert train(tmp_path / "run", *TRACKED) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("error: logger.tracker", "wandb", "a/b"):
        assert part in line
    assert not (tmp_path / "run").exists()


def test_a_missing_package_is_reported_with_its_extra(
    tmp_path: Path, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.delitem(sys.modules, "logger.wandb_tracker", raising=False)
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train(tmp_path / "run", *TRACKED) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for part in ("error: ", "wandb", "pip install -e '.[wandb]'"):
        assert part in line
    assert not (tmp_path / "run").exists()


def test_several_processes_log_one_run(tmp_path: Path) -> None:
    run_processes(2, "train", tmp_path / "run", *TRACKED, "logger.every_steps=2")
    assert_same(tmp_path / "run")
    assert len(records_of(tmp_path / "run", "run")) == 1
