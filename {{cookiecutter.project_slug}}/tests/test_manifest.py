"""What a run records about its origin: packages, hardware, data, settings."""
# ruff: noqa: D103  the names of the tests state what they test

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import CONFIG

from config.differences import describe_settings, keys_without_default
from config.loading import load_settings
from config.reading import read_file

Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]


def test_the_manifest_has_all_packages_the_hardware_and_the_validation_set(
    trained_run: Path,
) -> None:
    manifest = json.loads((trained_run / "manifest.json").read_text(encoding="utf-8"))
    for package in ("torch", "pytest", "pydantic"):
        assert manifest["versions"][package] == version(package)
    assert list(manifest["versions"]) == sorted(manifest["versions"], key=str.lower)
    hardware = manifest["hardware"]
    assert hardware["cores"] == os.cpu_count()
    assert hardware["memory_gb"] > 0.1
    assert hardware["cpu"]
    assert (hardware["gpus"], hardware["driver"]) == ([], None)
    assert manifest["validation"]["samples"] == 210
    assert manifest["validation"]["hash"] != manifest["data"]["hash"]


def describe(*overrides: str) -> str:
    settings = load_settings(CONFIG, overrides)
    return describe_settings(settings, read_file(CONFIG), "synthetic.yaml", overrides)


def test_the_first_lines_report_what_the_command_line_changes() -> None:
    number = len(keys_without_default(load_settings(CONFIG)))
    assert (
        describe() == f"settings: synthetic.yaml; {number} other settings differ from the defaults"
    )
    text = describe("trainer.epochs=9", "seed=2", "data.sampler=sequential", "optimizer.lr=0.1")
    assert "trainer.epochs=9 (was 4)" in text
    assert "seed=2" in text
    assert "data.sampler=sequential" in text
    assert "optimizer.lr" not in text  # as in the file
    assert "model.name=networks.MLP (was networks.ConvNet)" in describe("model.name=networks.MLP")


def test_settings_with_default_values_are_not_counted() -> None:
    keys = keys_without_default(load_settings(CONFIG))
    for key in ("data.name", "optimizer.lr", "loss.label_smoothing", "scheduler.name"):
        assert key in keys
    for key in ("name", "seed", "trainer.clip_norm", "checkpoint.keep", "data.sampler.name"):
        assert key not in keys
    assert "trainer.epochs" in keys
    assert "trainer.epochs" not in keys_without_default(load_settings(CONFIG, ["trainer.epochs=5"]))


def test_a_run_logs_its_origin(
    tmp_path: Path, train: Command, command: Command, capsys: Captured
) -> None:
    run = tmp_path / "run"
    assert train(run, "model.name=networks.MLP", "trainer.max_steps=1") == 0
    output = capsys.readouterr().out
    assert f"settings: {CONFIG} with " in output
    assert "trainer.max_steps=1" in output
    assert command("train", "--resume", run, "trainer.max_steps=2") == 0
    assert "those of the run with trainer.max_steps=2 (was 1)" in capsys.readouterr().out
