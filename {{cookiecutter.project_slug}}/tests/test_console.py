"""Log lines on a full disk, and values and tables as text."""
# ruff: noqa: D103  the names of the tests say what they test

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT

from logger.console import MAX_EARLY_RECORDS, configure_logging, format_table, format_values, log

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


COMMAND = """
import sys
from logger.console import configure_logging, log
from utils.command import run_command
from utils.errors import UserError

def main():
    configure_logging("train.log")
    for number in range(3):
        log.info("価格 %d", number)
    print("the end")
    print("the end", file=sys.stderr)
    if len(sys.argv) > 1:
        raise UserError("価格 is wrong")

run_command(main)
"""


def run_command_in(shell: str, *arguments: str, **environment: str) -> tuple[int, bytes, bytes]:
    """Runs `COMMAND` with redirections; returns exit code, stdout and stderr."""
    done = subprocess.run(
        ["sh", "-c", f'"$0" -u -c "$1" {" ".join(arguments)} {shell}', sys.executable, COMMAND],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
    )
    return done.returncode, done.stdout, done.stderr


def logged_lines() -> list[str]:
    lines = Path("train.log").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if "INFO 価格" in line]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_letters_that_a_terminal_lacks_are_escaped(encoding: str) -> None:
    code, output, errors = run_command_in("", "fail", PYTHONIOENCODING=encoding)
    name = "価格".encode(encoding, "backslashreplace")
    assert code == 2
    assert output.count(name) == 3
    assert errors.endswith(b"error: " + name + b" is wrong\n")
    assert len(logged_lines()) == 3


@pytest.mark.skipif(os.name != "posix", reason="redirections of sh")
def test_closed_streams_do_not_end_a_command() -> None:
    assert run_command_in(">&-") == (0, b"", b"the end\n")
    assert run_command_in("2>&-") == (0, run_command_in("")[1], b"")
    assert run_command_in(">&- 2>&-", "fail")[0] == 2
    assert len(logged_lines()) == 12


@pytest.mark.skipif(os.name != "posix", reason="redirections of sh")
def test_closed_pipe_does_not_end_training() -> None:
    """The output of training goes to the log; a later `print` ends the command quietly."""
    command = '; echo "exit code $?" >&2) | true'
    done = subprocess.run(
        ["bash", "-c", f'(sleep 0.1; "$0" -u -c "$1" {command}', sys.executable, COMMAND],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    assert done.stderr.decode() == "the end\nexit code 0\n"
    assert len(logged_lines()) == 3
    assert "the reader of the output has exited" in Path("train.log").read_text(encoding="utf-8")


TERMINAL = """
import sys
from logger.console import configure_logging, log, progress_bar
from utils.command import run_command
from utils.errors import UserError

def main():
    configure_logging("train.log")
    with progress_bar(3, "some data with a long title, which leaves room for the progress") as bar:
        bar.update()
        log.warning("the data differ")
        bar.update()
    raise UserError("this is wrong")

run_command(main)
"""


def run_on_terminal(**environment: str) -> str:
    """Runs `TERMINAL` on a terminal; returns what it shows."""
    import termios  # Windows has no such module

    reader, writer = os.openpty()
    termios.tcsetwinsize(writer, (24, 40))
    variables = {**os.environ, "COLUMNS": "40"}  # which may be that of another terminal
    process = subprocess.Popen(
        [sys.executable, "-c", TERMINAL],
        env={**variables, "PYTHONPATH": str(ROOT), "TERM": "xterm", **environment},
        stdout=writer,
        stderr=writer,
    )
    os.close(writer)
    output = b""
    with contextlib.suppress(OSError):  # Linux signals the end of a terminal's output in this way
        while True:
            output += os.read(reader, 1000)
    os.close(reader)
    assert process.wait() == 2
    return output.decode()


@pytest.mark.skipif(os.name != "posix", reason="terminals of POSIX")
@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_warnings_and_errors_have_colours_on_a_terminal(environment: dict[str, str]) -> None:
    output = run_on_terminal(**environment)
    assert "some d…ogress:   0%|" in output
    if environment:
        assert "\x1b[3" not in output
        assert "the data differ" in output
        assert "error: this is wrong" in output
    else:
        assert "\x1b[33mthe data differ\x1b[0m" in output
        assert "\x1b[31merror:\x1b[0m this is wrong" in output
    assert "\x1b" not in Path("train.log").read_text(encoding="utf-8")


def test_output_to_a_file_has_neither_colours_nor_a_progress_bar() -> None:
    done = subprocess.run(
        [sys.executable, "-c", TERMINAL],
        env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm"},
        capture_output=True,
    )
    assert done.stdout == b"the data differ\n"
    assert done.stderr == b"error: this is wrong\n"


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


def test_what_was_logged_before_the_file_was_known_is_in_the_file(
    restored_handlers: None, tmp_path: Path
) -> None:
    configure_logging()
    log.warning("the data have changed")
    configure_logging(tmp_path / "train.log")
    log.info("epoch 1")
    first_line, second_line = (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()
    assert first_line.endswith("WARNING the data have changed")
    assert second_line.endswith("INFO epoch 1")


def test_no_more_lines_are_kept_than_the_limit(restored_handlers: None, tmp_path: Path) -> None:
    configure_logging()
    for number in range(MAX_EARLY_RECORDS + 5):
        log.debug("line %d", number)
    configure_logging(tmp_path / "train.log")
    lines = (tmp_path / "train.log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == MAX_EARLY_RECORDS
    assert lines[-1].endswith(f"line {MAX_EARLY_RECORDS + 4}")


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


def test_invisible_characters_in_tables_are_escaped() -> None:
    rows = [("text", "size"), ("a\x1b[31mb\udce9\u200b", "7"), ("caf\u00e9 C:\\n", "8")]
    lines = format_table(rows).splitlines()
    assert lines[2] == r"a\x1b[31mb\udce9\u200b     7"
    assert lines[3].split() == ["caf\u00e9", "C:\\n", "8"]
    assert len(lines[2]) == len(lines[3])
