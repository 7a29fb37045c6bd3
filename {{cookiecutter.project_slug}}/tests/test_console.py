"""Log lines on a full disk, and values and tables as text."""
# ruff: noqa: D103  the names of the tests say what they test

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from logger.console import configure_logging, format_table, format_values, log

FULL_DISK = Path("/dev/full")  # a file of Linux that no one can write to


@pytest.fixture
def restored_handlers() -> Iterator[None]:
    handlers = log.handlers
    yield
    for handler in log.handlers:
        with contextlib.suppress(OSError):
            handler.close()
    log.handlers = handlers


@pytest.mark.skipif(not FULL_DISK.exists(), reason="only on Linux")
def test_a_full_disk_prints_no_traceback(
    restored_handlers: None, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(FULL_DISK)
    log.info("a line for the console")
    captured = capsys.readouterr()
    assert captured.out == "a line for the console\n"
    assert captured.err == ""


def test_other_errors_of_logging_are_reported(
    restored_handlers: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(tmp_path / "train.log")
    log.propagate = False  # pytest's own handler would raise the error
    try:
        log.info("%d", "not a number")
    finally:
        log.propagate = True
    assert "TypeError" in capsys.readouterr().err


def test_configuring_leaves_the_logging_module_unchanged(restored_handlers: None) -> None:
    before = logging.raiseExceptions
    configure_logging()
    assert logging.raiseExceptions == before


def test_values_have_four_digits() -> None:
    values = {"loss": 0.5, "accuracy": 1.0, "samples": 1234.0}
    assert format_values(values) == "loss 0.5000  accuracy 1.000  samples 1234"


def test_numbers_in_tables_are_right_aligned() -> None:
    rows = [("layer", "size"), ("a", "1,000"), ("longer", "7")]
    lines = format_table(rows).splitlines()
    assert lines == ["layer    size", "-------------", "a       1,000", "longer      7"]
