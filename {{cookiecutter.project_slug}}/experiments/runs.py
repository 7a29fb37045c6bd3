"""Reads the folders of runs: their settings, their state and their results."""

import csv
import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ruamel.yaml import YAML

from utils.errors import UserError, first_line
from utils.locks import is_locked

RUN_FILES = frozenset({"manifest.json", ".pid"})  # a run that was killed early has no manifest yet
RECORDED_STATES = ("finished", "stopped", "failed")
COMPLETE_STATES = ("finished", "unknown")
REPEATED = ("seed", "fold")  # settings of repetitions, whose results are averaged
MARKS = ("trainer.overfit", "trainer.fraction")


class LoggedValue(NamedTuple):
    """A row of metrics.csv."""

    split: str
    step: int
    metric: str
    value: float


class MetricsFile(NamedTuple):
    """The content of metrics.csv.

    Attributes:
        values: the complete rows with a finite value.
        damaged: the number of rows that cannot be read, without the last one if it is incomplete.
    """

    values: list[LoggedValue]
    damaged: int


@dataclass(frozen=True)
class Evaluation:
    """What evaluate.py has saved about one split.

    Attributes:
        folder: where its files are.
        metrics: the content of metrics.json.
    """

    folder: Path
    metrics: Mapping[str, Any]

    def number(self, name: str) -> float | None:
        """A metric; None if there is none of this name."""
        return as_number(self.metrics.get(name))


@dataclass(frozen=True)
class Run:
    """A run folder.

    Files that are missing or damaged count as empty.

    Attributes:
        folder: the run folder.
        state: running, finished, stopped, failed or killed; unknown if the run is older than
            result.json, or the file is damaged.
        settings: the values of settings.yaml by ``section.key``.
        manifest: manifest.json.
        result: result.json.
        problems: what is wrong with its files.
    """

    folder: Path
    state: str
    settings: Mapping[str, Any]
    manifest: Mapping[str, Any]
    result: Mapping[str, Any]
    problems: Sequence[str]

    @cached_property
    def log(self) -> MetricsFile:
        """What is in metrics.csv."""
        return read_metrics(self.folder / "metrics.csv")

    @property
    def values(self) -> list[LoggedValue]:
        """The complete rows of metrics.csv."""
        return self.log.values

    @property
    def is_complete(self) -> bool:
        """Whether it has trained to its end, as far as it is known, and its files are whole."""
        return self.state in COMPLETE_STATES and not self.problems

    @cached_property
    def evaluations(self) -> dict[str, Evaluation]:
        """What evaluate.py has saved about this run alone, by the name of the split."""
        found: dict[str, Evaluation] = {}
        for file in sorted((self.folder / "evaluation").glob("*/metrics.json")):
            with suppress(OSError, ValueError):  # a damaged file counts as missing
                evaluation = Evaluation(file.parent, _read_json(file))
                if "ensemble" not in evaluation.metrics:
                    found[file.parent.name] = evaluation
        return found

    @property
    def started(self) -> str:
        """When it was started or resumed last, as a text that can be sorted."""
        return str(self.manifest.get("resumed") or self.manifest.get("started") or "")

    @property
    def monitor(self) -> str:
        """The metric that selects its best checkpoint."""
        return str(self.settings.get("checkpoint.monitor") or "")

    @property
    def best(self) -> Mapping[str, Any]:
        """The entry of result.json about the best validation; empty if there is none."""
        return as_mapping(self.result.get("best"))

    @property
    def step(self) -> int | None:
        """The number of optimizer steps that it has made."""
        step = as_number(self.result.get("step"))
        if step is not None:
            return int(step)
        if not self.values:
            return None
        return max(self.values, key=lambda row: row.step).step

    @property
    def repetition(self) -> tuple[Any, ...]:
        """The seed and the fold: runs that differ in nothing else are repetitions."""
        values = []
        for key in sorted(filter(is_repeated, self.settings)):
            values.append(str(self.settings[key]))
        return tuple(values)

    @property
    def mark(self) -> str:
        """Why its results are not real ones, such as ``overfit=2``; empty for ordinary runs."""
        marks = []
        for key in MARKS:
            value = self.settings.get(key)
            if value is not None and value != 1.0:
                marks.append(f"{key.removeprefix('trainer.')}={value}")
        return ", ".join(marks)

    @property
    def tags(self) -> list[str]:
        """The tags that it was started with."""
        tags = self.manifest.get("tags")
        if not isinstance(tags, list):
            return []
        return list(map(str, tags))

    @property
    def note(self) -> str:
        """The note that it was started with."""
        return str(self.manifest.get("note") or "")

    @property
    def git(self) -> Mapping[str, Any]:
        """The entry of the manifest about the code."""
        return as_mapping(self.manifest.get("git"))

    @property
    def commit(self) -> str | None:
        """The commit in short; None if it is unknown."""
        commit = self.git.get("commit")
        if not commit:
            return None
        return str(commit)[:8]

    @property
    def code(self) -> str:
        """The commit in short, with a plus sign if files differed from it."""
        commit = self.commit or ""
        if self.git.get("dirty"):
            commit += "+"
        return commit

    @cached_property
    def patch_hash(self) -> str:
        """A hash of the changes to the committed code; empty if they are not recorded."""
        try:
            content = (self.folder / "code.patch").read_bytes()
        except OSError:
            return ""
        return hashlib.sha256(content).hexdigest()[:8]

    def fact(self, section: str, name: str) -> Any:
        """An entry of a section of the manifest, such as the hash of the data; None without it."""
        return as_mapping(self.manifest.get(section)).get(name)

    def number(self, name: str) -> float | None:
        """A number in result.json, such as minutes; None without it."""
        return as_number(self.result.get(name))

    def logged(self, metric: str, split: str) -> list[tuple[int, float]]:
        """The values of a metric in metrics.csv, as pairs of step and value."""
        found = []
        for row in self.values:
            if row.metric == metric and row.split == split:
                found.append((row.step, row.value))
        return found


def find_runs(paths: Sequence[Path]) -> list[Run]:
    """The runs in some folders, each once, the newest first.

    Args:
        paths: run folders, or folders that contain some at any depth.

    Raises:
        UserError: if one of them does not exist or contains no run.
    """
    folders: dict[Path, Path] = {}
    for path in paths:
        found = list(run_folders(path))
        if not found:
            problem = "contains no run: a run folder has a manifest.json"
            if not path.exists():
                problem = "does not exist"
            elif not path.is_dir():
                problem = "is a file; name a run folder, or a folder that contains some"
            raise UserError(f"{path} {problem}")
        for folder in found:
            folders.setdefault(folder.resolve(), folder)
    runs = map(read_run, folders.values())
    return sorted(runs, key=lambda run: (run.started, str(run.folder)), reverse=True)


def run_folders(path: Path) -> Iterator[Path]:
    """The run folders at or below a path; those below another run folder do not count."""
    seen = set()  # links may lead in circles
    for folder, inner_folders, files in os.walk(path, followlinks=True):
        real_path = os.path.realpath(folder)
        if real_path in seen:
            inner_folders.clear()
            continue
        seen.add(real_path)
        inner_folders.sort()
        if not RUN_FILES.isdisjoint(files):
            inner_folders.clear()
            yield Path(folder)


def read_run(folder: Path) -> Run:
    """Reads a run folder, whatever is in it."""
    problems: list[str] = []
    contents: dict[str, Mapping[str, Any]] = {}
    for name, read in (
        ("settings.yaml", _read_settings),
        ("manifest.json", _read_json),
        ("result.json", _read_json),
    ):
        contents[name] = {}
        try:
            contents[name] = read(folder / name)
        except FileNotFoundError:
            if name != "result.json":
                problems.append(f"{name} is missing")
        except (OSError, ValueError) as error:
            problems.append(f"{name} cannot be read: {first_line(error)}")
    state = "unknown"
    try:
        state = _find_state(folder, contents["manifest.json"], contents["result.json"])
    except OSError as error:  # the folder of somebody else, which cannot be written
        problems.append(f"whether it is running is unknown: {first_line(error)}")
    if state != "running" and not _ends_with_line_break(folder / "metrics.csv"):
        problems.append("metrics.csv ends in the middle of a row")
    return Run(
        folder=folder,
        state=state,
        settings=contents["settings.yaml"],
        manifest=contents["manifest.json"],
        result=contents["result.json"],
        problems=problems,
    )


def _find_state(folder: Path, manifest: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    if result.get("state") in RECORDED_STATES:
        return str(result["state"])
    if (folder / "result.json").exists():
        return "unknown"
    if is_locked(folder / ".lock"):
        return "running"
    if manifest and "hardware" not in manifest:  # it is older than result.json
        return "unknown"
    return "killed"


def read_metrics(file: Path) -> MetricsFile:
    """Reads a metrics.csv; a file that is missing has no values."""
    try:
        content = file.read_bytes()
    except OSError:
        return MetricsFile([], 0)
    complete, _, _ = content.rpartition(b"\n")  # a process that was killed may leave half a row
    lines = complete.decode(errors="replace").replace("\0", "").splitlines()
    values = []
    damaged = 0
    for line in lines[1:]:
        value = _read_row(line)
        if value is None:
            damaged += 1
        elif math.isfinite(value.value):
            values.append(value)
    return MetricsFile(values, damaged)


def _read_row(line: str) -> LoggedValue | None:
    """A row of metrics.csv; None if it is damaged."""
    try:
        (row,) = csv.reader([line])
        _, split, _, step, metric, value = row
        return LoggedValue(split, int(step), metric, float(value))
    except (ValueError, csv.Error):
        return None


def _ends_with_line_break(file: Path) -> bool:
    """Whether the last row is complete; a file that is missing or empty has none."""
    try:
        with file.open("rb") as stream:
            if stream.seek(0, os.SEEK_END) == 0:
                return True
            stream.seek(-1, os.SEEK_END)
            return stream.read() == b"\n"
    except OSError:
        return True


def _read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it contains something else.
    """
    try:
        content = json.loads(file.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict):
        raise ValueError("it contains no JSON object")
    return content


def _read_settings(file: Path) -> dict[str, Any]:
    """The settings in a YAML file by ``section.key``.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it contains something else.
    """
    text = file.read_bytes().decode(errors="replace")
    settings: dict[str, Any] = {}
    # Most runs have most sections in common. Each text is parsed once: that takes milliseconds.
    for section in re.split(r"^(?=[^\s#])", text, flags=re.MULTILINE):
        settings.update(_read_section(section))
    return settings


@lru_cache(maxsize=10_000)
def _read_section(text: str) -> dict[str, Any]:
    try:
        content = _parse_yaml(text)
    except Exception as error:  # malicious content can raise any
        raise ValueError(first_line(error)) from error
    if content is None:  # blank lines or comments
        return {}
    if not isinstance(content, dict):
        raise ValueError("it contains no settings")
    flat: dict[str, Any] = {}
    for key, value in content.items():
        if isinstance(value, dict):
            for inner_key, inner_value in value.items():
                flat[f"{key}.{inner_key}"] = inner_value
        else:
            flat[str(key)] = value
    return flat


def _parse_yaml(text: str) -> Any:
    if "&" in text:  # an anchor: references to references can expand without end
        from config.reading import parse  # takes 0.3 s to import

        return parse(text, "settings.yaml")
    return YAML(typ="safe", pure=True).load(text)


def is_repeated(key: str) -> bool:
    """Whether a setting is that of repetitions: a seed or a fold."""
    return key.rpartition(".")[2] in REPEATED


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
    if not math.isfinite(number):
        return None
    return number
