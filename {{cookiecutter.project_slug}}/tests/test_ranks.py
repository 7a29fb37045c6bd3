"""Rank and world size, as torchrun sets them."""
# ruff: noqa: D103  the names of the tests state what they test

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import CONFIG

from builders import build_loader, fit_dataset
from config.schema import Settings
from data_loader.synthetic import Synthetic
from utils.ranks import is_main_process, local_rank, local_world_size, rank, world_size

VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")


def test_process_without_torchrun_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert rank() == local_rank() == 0
    assert world_size() == local_world_size() == 1
    assert is_main_process()


def test_ranks_follow_the_environment_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    for current_rank in (3, 1):
        monkeypatch.setenv("RANK", str(current_rank))
        monkeypatch.setenv("WORLD_SIZE", "4")
        monkeypatch.setenv("LOCAL_RANK", "1")
        monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
        assert rank() == current_rank
        assert world_size() == 4
        assert local_rank() == 1
        assert local_world_size() == 2
        assert not is_main_process()
    monkeypatch.setenv("RANK", "0")
    assert is_main_process()
    monkeypatch.setenv("RANK", "")  # as unset
    monkeypatch.setenv("WORLD_SIZE", "")
    assert is_main_process()
    assert world_size() == 1


@pytest.mark.parametrize(
    ("world_size", "named"), [("two", "WORLD_SIZE = 'two'"), ("2", "MASTER_ADDR")]
)
def test_an_environment_that_torchrun_has_not_set_is_an_error(
    command: Callable[..., int],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    world_size: str,
    named: str,
) -> None:
    monkeypatch.setattr("utils.command.exit_at_once", sys.exit)  # it would end the tests
    monkeypatch.setenv("WORLD_SIZE", world_size)
    monkeypatch.setenv("MASTER_ADDR", "")
    assert command("train", "--config", CONFIG) == 2
    assert named in capsys.readouterr().err


def test_loaders_use_the_rank_at_run_time(
    make_settings: Callable[..., Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = fit_dataset(Synthetic(Path(), "train", 0))
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "4")
    source = build_loader(make_settings(), dataset, training=True).source
    assert source.rank == 2
    assert source.world_size == 4
