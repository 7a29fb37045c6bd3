"""The log of a run: damaged rows of metrics.csv, and writers that fail."""
# ruff: noqa: D103  the names of the tests state what they test

import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import logger
from config.schema import Settings
from logger import run_log
from logger.curves import read_panels
from logger.metrics_file import CSV_HEADER, as_csv, read_rows
from logger.run_log import RunLog, find_tracker
from utils.errors import UserError

MakeSettings = Callable[..., Settings]
Command = Callable[..., int]
Captured = pytest.CaptureFixture[str]

# The name of a file may contain any of these; `str.splitlines` splits at each.
TITLE = "a\u2028b\x85c\x0cd"
DAMAGED_ROWS = (
    b"\xff\xfe,train,1,one,loss,1",
    b'"data,train,1,1,loss,1',
    b"data,train,1,1,loss",
    b"data,train,1,1,loss,1.2.3",
    b"x" * 200_000 + b",train,1,1,loss,1",  # longer than the csv module allows
)


@pytest.fixture
def logger_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which `logger.tracker` finds modules."""
    folder = tmp_path / "logger"
    folder.mkdir()
    monkeypatch.setattr(logger, "__path__", [*logger.__path__, str(folder)])
    monkeypatch.setattr(run_log, "__file__", str(folder / "run_log.py"))
    return folder


def test_damaged_rows_are_left_out_when_a_run_resumes(
    tmp_path: Path, make_settings: MakeSettings
) -> None:
    file = tmp_path / "metrics.csv"
    rows = [(TITLE, "train", 1, step, "loss", f"{step}.5") for step in (1, 2, 3)]
    lines = as_csv([CSV_HEADER, *rows]).splitlines()
    incomplete = as_csv([rows[0]])[:-1]  # without the end of its line
    file.write_bytes(b"\n".join([*lines[:2], *DAMAGED_ROWS, *lines[2:], incomplete]))
    assert read_rows(file) == rows
    (series,) = read_panels(file)["loss"].values()
    assert series.values == [1.5, 2.5, 3.5]
    with RunLog(tmp_path, TITLE, make_settings()).open(2):
        pass
    assert file.read_bytes() == as_csv([CSV_HEADER, *rows[:2]])
    assert b"\r" not in file.read_bytes()


def test_a_title_from_an_undecodable_file_name_can_be_logged(
    tmp_path: Path, make_settings: MakeSettings
) -> None:
    entries = RunLog(tmp_path, "a\udcffb", make_settings())
    with entries.open(0):
        entries.scalars("train", 1, 1, {"loss": 1.0})
    (row,) = read_rows(tmp_path / "metrics.csv")
    assert row.value == "1"


def test_training_continues_if_tensorboard_cannot_be_opened(
    tmp_path: Path, make_settings: MakeSettings, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "tensorboard").write_text("no folder")
    entries = RunLog(tmp_path, "data", make_settings("logger.tensorboard=true"))
    with entries.open(0):
        entries.scalars("train", 1, 1, {"loss": 1.0})
    (record,) = caplog.records
    for part in ("TensorBoard", "metrics.csv", "FileExistsError"):
        assert part in record.getMessage()
    assert len(read_rows(tmp_path / "metrics.csv")) == 1


TRACKER = """
from pathlib import Path

from logger.log_writer import LogWriter


class Tracker(LogWriter):
    def __init__(self, folder, settings):
        self.calls = folder / "calls"

    def scalars(self, entries):
        raise ValueError("no connection")

    def close(self, state):
        with self.calls.open("a") as file:
            file.write(f"close {state} ")
"""


def test_a_tracker_that_fails_is_closed_once(
    tmp_path: Path, logger_folder: Path, make_settings: MakeSettings
) -> None:
    (logger_folder / "failing_tracker.py").write_text(TRACKER)
    entries = RunLog(tmp_path, "data", make_settings("logger.tracker=failing"))
    with entries.open(0):
        for step in (1, 2):
            entries.scalars("train", 1, step, {"loss": 1.0})
            entries.flush()
    assert (tmp_path / "calls").read_text() == "close failed "
    assert len(read_rows(tmp_path / "metrics.csv")) == 2


@pytest.mark.parametrize(
    ("code", "parts"),
    [
        ("import no_such_package", ("no_such_package", "install")),
        ("class MyTracker: pass", ("odd_tracker.py", "class Tracker", "logger/log_writer.py")),
    ],
)
def test_a_tracker_of_a_project_that_cannot_be_used_is_reported(
    logger_folder: Path, code: str, parts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    (logger_folder / "odd_tracker.py").write_text(code)
    monkeypatch.delitem(sys.modules, "logger.odd_tracker", raising=False)
    with pytest.raises(UserError) as caught:
        find_tracker("odd")
    message = str(caught.value)
    for part in ("logger.tracker = 'odd'", *parts):
        assert part in message
    assert "[odd]" not in message  # there is no such extra


def test_errors_in_threads_of_a_project_are_reported(
    tmp_path: Path, make_settings: MakeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("error in a thread")

    reported: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda problem: reported.append(problem.exc_value))
    with RunLog(tmp_path, "data", make_settings()).open(0):
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
    (error,) = reported
    assert "error in a thread" in str(error)
