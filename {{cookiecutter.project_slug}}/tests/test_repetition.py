"""A repeated run reports what differs at its start, and whether the bits do at its end."""
# ruff: noqa: D103  the names of the tests state what they test

import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import TINY_MODEL
from stopped_runs import during_step, fail_with, send_signal

from run_record import compare_with_original
from storage.repetition import compare_weights
from storage.run_folder import add_to_manifest, read_manifest

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]
SMALL = (*TINY_MODEL, "trainer.epochs=1")


@pytest.fixture
def original(tmp_path: Path, train: Command) -> Path:
    run = tmp_path / "first run"
    assert train(run, *SMALL) == 0
    return run


def test_a_repeated_run_has_the_same_bits(
    original: Path, tmp_path: Path, command: Command, capsys: Captured
) -> None:
    capsys.readouterr()
    assert command("train", "--repeat", original, "--run-dir", tmp_path / "again") == 0
    output = capsys.readouterr().out
    assert f"repeats {original} with the same code" in output
    assert "final weights: the same bits" in output
    assert "metrics that differ" not in output
    assert read_manifest(tmp_path / "again")["repeats"] == str(original)


def test_a_repeated_run_reports_what_differs(
    original: Path, tmp_path: Path, command: Command, capsys: Captured
) -> None:
    manifest = read_manifest(original)
    versions = {**manifest["versions"], "torch": "1.0", "removed": "3.1"}
    git = {"commit": "0" * 40, "dirty": False}
    hardware = {**manifest["hardware"], "cores": 999}
    data = {**manifest["data"], "hash": "before"}
    add_to_manifest(original, versions=versions, git=git, hardware=hardware, data=data)
    capsys.readouterr()
    arguments = ("--run-dir", tmp_path / "again", "optimizer.lr=0.04")
    assert command("train", "--repeat", original, *arguments) == 0
    output = capsys.readouterr().out
    for part in (
        "torch 1.0 -> ",
        "removed 3.1 -> none",
        "cores 999 -> ",
        "hash before -> ",
        "optimizer.lr=0.04 (was 0.05)",
        "final weights: they differ, at most by ",
        "metrics that differ: validation ",
    ):
        assert part in output
    if read_manifest(tmp_path / "again")["git"]["commit"] is not None:
        assert "code: commit 0000000000 -> " in output


def test_a_repeated_run_that_was_stopped_compares_when_it_is_resumed(
    original: Path,
    tmp_path: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    again = tmp_path / "again"
    with monkeypatch.context() as patch:
        during_step(patch, 5, send_signal(signal.SIGTERM))
        stopped = command("train", "--repeat", original, "--run-dir", again)
    assert stopped == 128 + signal.SIGTERM
    assert "final weights" not in capsys.readouterr().out
    assert command("train", "--resume", again) == 0
    assert "final weights: the same bits" in capsys.readouterr().out
    shutil.rmtree(original)
    assert command("train", "--resume", again) == 0
    assert f"{original}: the final weights are not compared" in capsys.readouterr().out


def test_a_run_of_another_length_is_not_compared(
    original: Path, tmp_path: Path, command: Command, capsys: Captured
) -> None:
    arguments = ("--run-dir", tmp_path / "again", "trainer.max_steps=2")
    assert command("train", "--repeat", original, *arguments) == 0
    output = capsys.readouterr().out
    assert "step 16" in output
    assert "step 2\n" in output
    assert "final weights: " not in output


@pytest.mark.parametrize("option", ["--resume", "--config"])
def test_repeat_names_the_settings_alone(
    original: Path, command: Command, capsys: Captured, option: str
) -> None:
    assert command("train", "--repeat", original, option, original) == 2
    message = capsys.readouterr().err
    assert option in message
    assert "--repeat" in message


def test_a_run_with_a_damaged_manifest_is_repeated_and_what_is_unknown_is_listed(
    original: Path, tmp_path: Path, command: Command, capsys: Captured
) -> None:
    for number, manifest in enumerate(("{", "[]", '{"git": "a", "versions": "b", "data": null}')):
        (original / "manifest.json").write_text(manifest)
        (original / "metrics.csv").write_bytes(b"step,\xff\n1")
        capsys.readouterr()
        run = tmp_path / str(number)
        assert command("train", "--repeat", original, "--run-dir", run) == 0
        output = capsys.readouterr().out
        assert "unknown: commit, " in output
        assert "data" in output.partition("unknown: ")[2].partition("\n")[0]
        assert "final weights: the same bits" in output
        assert "metrics are not compared" in output


def test_any_error_of_the_comparison_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    add_to_manifest(tmp_path, repeats="first run")
    for error in (KeyError("model"), RuntimeError("damaged"), MemoryError(), OSError("no disk")):
        caplog.clear()
        monkeypatch.setattr("run_record.compare_ends", fail_with(error))
        compare_with_original(tmp_path)
        (record,) = caplog.records
        assert type(error).__name__ in record.getMessage()
        assert "first run" in record.getMessage()


def test_settings_of_another_version_are_named_with_their_file(
    original: Path, command: Command, capsys: Captured
) -> None:
    file = original / "settings.yaml"
    file.write_text(file.read_text() + "removed: 1\n")
    assert command("train", "--repeat", original) == 2
    error = capsys.readouterr().err
    assert str(file) in error
    assert "unknown setting removed" in error


def test_a_run_without_settings_cannot_be_repeated(
    original: Path, command: Command, capsys: Captured
) -> None:
    (original / "settings.yaml").unlink()
    assert command("train", "--repeat", original) == 2
    assert "settings.yaml" in capsys.readouterr().err
    assert command("train", "--repeat", "nowhere") == 2
    assert "nowhere does not exist" in capsys.readouterr().err


def test_weights_are_compared_bit_by_bit() -> None:
    weights = {"a": torch.zeros(2), "b": torch.ones(3), "n": torch.tensor(4)}
    assert compare_weights(weights, dict(weights)) == "the same bits"
    assert "by 0 (a)" in compare_weights(weights, {**weights, "a": -torch.zeros(2)})
    changed = {**weights, "b": torch.tensor([1, 1.5, 1]), "n": torch.tensor(5)}
    assert "by 1 (n)" in compare_weights(weights, changed)
    assert "different networks" in compare_weights(weights, {"a": torch.zeros(2)})
