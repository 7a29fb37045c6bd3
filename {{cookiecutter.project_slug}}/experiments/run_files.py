"""Reads the files of a run folder, which may be missing, damaged or incomplete."""

import csv
import json
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from utils.errors import first_line

MAX_MAGNITUDE = 1e300  # of a metric that has not diverged; sums of larger ones overflow
# Settings of all runs. A file that was cut off lacks the last ones.
REQUIRED_SETTINGS = ("data.name", "model.name", "trainer.name", "checkpoint.monitor")


class LoggedValue(NamedTuple):
    """A row of metrics.csv."""

    split: str
    step: int
    metric: str
    value: float


class MetricsFile(NamedTuple):
    """The content of metrics.csv.

    Attributes:
        values: the complete rows with a finite value, see `is_usable`.
        damaged: the number of rows that cannot be read, without the last one if it is incomplete.
    """

    values: list[LoggedValue]
    damaged: int


def read_metrics(file: Path) -> MetricsFile:
    """Reads a metrics.csv; a file that is missing has no values."""
    try:
        lines = complete_lines(file)
    except OSError:
        return MetricsFile([], 0)
    values = []
    damaged = 0
    for line in lines:
        row = read_row(line)
        if row is None:
            damaged += 1
        elif is_usable(row.value):
            values.append(row)
    return MetricsFile(values, damaged)


def complete_lines(file: Path) -> list[str]:
    """The lines of a metrics.csv below its header, without one that is incomplete.

    Raises:
        OSError: if the file cannot be read.
    """
    content = file.read_bytes()
    complete, _, _ = content.rpartition(b"\n")  # a process that was killed may leave half a row
    # A machine that lost its power may leave zeros in the place of the last rows.
    text = complete.decode(errors="replace").replace("\0", "")
    _header, *lines = text.split("\n")
    return lines


def read_row(line: str) -> LoggedValue | None:
    """A row of metrics.csv, whose value may be non-finite; None if it is damaged."""
    try:
        (row,) = csv.reader([line])
        _data, split, _epoch, step, metric, value = row
        return LoggedValue(split, int(step), metric, float(value))
    except (ValueError, csv.Error):
        return None


def ends_with_line_break(file: Path) -> bool:
    """Whether the last row of a file is complete; an empty file has none.

    Raises:
        OSError: if the file cannot be read.
    """
    with file.open("rb") as stream:
        if stream.seek(0, os.SEEK_END) == 0:
            return True
        stream.seek(-1, os.SEEK_END)
        return stream.read() == b"\n"


def find_damage(file: Path, must_have_rows: bool) -> str:
    """What is wrong with the metrics.csv of a run that has ended; empty if nothing is.

    Args:
        file: the file.
        must_have_rows: whether the run has trained to its end.
    """
    try:
        if not ends_with_line_break(file):
            return "ends in the middle of a row"
        if must_have_rows and file.stat().st_size == 0:
            return "is empty"
    except FileNotFoundError:
        if must_have_rows:
            return "is missing"
    except OSError as error:
        return f"cannot be read: {first_line(error)}"
    return ""


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it contains something else; the message continues a sentence about the file.
    """
    try:
        content = json.loads(file.read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"is no complete JSON (line {error.lineno})") from error
    except UnicodeDecodeError as error:
        raise ValueError("is no text") from error
    except RecursionError as error:
        raise ValueError("is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("contains no JSON object")
    return content


def read_settings(file: Path) -> dict[str, Any]:
    """The settings in a YAML file by ``section.key``.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it contains something else, or was cut off; the message continues a sentence
            about the file.
    """
    text = file.read_bytes().decode(errors="replace")
    settings: dict[str, Any] = {}
    # Parsing takes milliseconds, and most runs have most sections in common: the results for the
    # text of each section are kept.
    for section in re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE):
        settings.update(_read_section(section))
    if not text.endswith("\n"):
        raise ValueError("ends in the middle of a line")
    for key in REQUIRED_SETTINGS:
        if key not in settings:
            raise ValueError(f"lacks {key}")
    return settings


@lru_cache(maxsize=10_000)
def _read_section(text: str) -> dict[str, Any]:
    """The settings in the lines of one section, or in a line without a section."""
    try:
        content = _parse_yaml(text)
    except Exception as error:  # malicious content can raise any
        raise ValueError(f"is no complete YAML: {first_line(error)}") from error
    if content is None:  # blank lines or comments
        return {}
    if not isinstance(content, dict):
        raise ValueError("contains no settings")
    settings: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            for inner_key, inner_value in value.items():
                settings[f"{key}.{inner_key}"] = inner_value
        else:
            settings[str(key)] = value
    return settings


def _parse_yaml(text: str) -> Any:
    if "&" in text:  # an anchor: references to references can expand without end
        from config.reading import parse  # takes 0.3 s to import

        return parse(text, "settings.yaml")
    return YAML(typ="safe", pure=True).load(text)


def as_mapping(value: Any) -> Mapping[str, Any]:
    """A value of a JSON file that should be an object; empty if it is something else."""
    if isinstance(value, dict):
        return value
    return {}


def as_number(value: Any) -> float | None:
    """A value of a JSON file that should be a finite number; None if it is something else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    if not is_usable(number):
        return None
    return number


def is_usable(value: float) -> bool:
    """Whether a number is finite, and so are sums of such numbers."""
    return abs(value) <= MAX_MAGNITUDE
