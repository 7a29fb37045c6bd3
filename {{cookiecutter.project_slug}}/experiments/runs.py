"""Reads the folders of runs: their settings, their state and their results."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from experiments.run_files import (
    LoggedValue,
    MetricsFile,
    as_mapping,
    as_number,
    find_damage,
    read_json,
    read_metrics,
    read_settings,
)
from utils.errors import UserError, first_line
from utils.locks import is_locked

RUN_FILES = frozenset({"manifest.json", ".pid"})  # a run that was killed early has no manifest yet
PLAN_FILE = "sweep.yaml"  # in the folder of a sweep
RECORDED_STATES = ("finished", "stopped", "failed")
FINISHED_STATES = ("finished", "unknown")  # unknown: older runs, taken as finished
REPEATED = ("seed", "fold")  # settings of repetitions, whose results are averaged
MARKS = ("trainer.overfit", "trainer.fraction")


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

    def interval(self, name: str) -> tuple[float, float] | None:
        """The confidence interval of a metric; None if there is none."""
        limits = as_mapping(self.metrics.get("intervals")).get(name)
        if not isinstance(limits, list) or len(limits) != 2:
            return None
        low = as_number(limits[0])
        high = as_number(limits[1])
        if low is None or high is None:
            return None
        return low, high


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
    def is_finished(self) -> bool:
        """Whether it has trained to its end, as far as it is known."""
        return self.state in FINISHED_STATES

    @property
    def is_complete(self) -> bool:
        """Whether it has trained to its end, and its files are whole."""
        return self.is_finished and not self.problems

    @cached_property
    def _evaluations(self) -> tuple[dict[str, Evaluation], list[str]]:
        return read_evaluations(self.folder)

    @property
    def evaluations(self) -> Mapping[str, Evaluation]:
        """What evaluate.py has saved about this run alone, by the name of the split."""
        return self._evaluations[0]

    @property
    def evaluation_problems(self) -> Sequence[str]:
        """What is wrong with the files of evaluations; it does not matter for validation."""
        return self._evaluations[1]

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
    def data_title(self) -> str | None:
        """The name of its data set; None if it is not recorded."""
        title = self.fact("data", "title")
        if title is None:
            return None
        return str(title)

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
    def repetition(self) -> tuple[str, ...]:
        """The seed and the fold: runs that differ in nothing else are repetitions."""
        keys = sorted(filter(is_repeated, self.settings))
        return tuple(str(self.settings[key]) for key in keys)

    @property
    def mark(self) -> str:
        """Why its results are not real ones, such as ``overfit=2``; empty for ordinary runs."""
        marks = []
        for key in MARKS:
            value = self.settings.get(key)
            is_whole = key == "trainer.fraction" and value == 1.0
            if value is not None and not is_whole:
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
            raise UserError(f"{path} {_why_no_run(path)}")
        for folder in found:
            folders.setdefault(folder.resolve(), folder)
    runs = map(read_run, folders.values())
    return sorted(runs, key=lambda run: (run.started, str(run.folder)), reverse=True)


def _why_no_run(path: Path) -> str:
    if path.is_dir():
        return "contains no run: a run folder has a manifest.json"
    if path.exists():
        return "is a file; name a run folder, or a folder that contains some"
    return "does not exist"


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
    settings = _read(folder, "settings.yaml", read_settings, problems)
    manifest = _read(folder, "manifest.json", read_json, problems)
    state = _state_without_result(folder, manifest, problems)
    result: Mapping[str, Any] = {}
    if (folder / "result.json").exists():  # written since the test of the lock, perhaps
        result = _read(folder, "result.json", read_json, problems)
        state = "unknown"
        if result.get("state") in RECORDED_STATES:
            state = str(result["state"])
    if state != "running":
        damage = find_damage(folder / "metrics.csv", must_have_rows=state in FINISHED_STATES)
        if damage:
            problems.append(f"metrics.csv {damage}")
    return Run(folder, state, settings, manifest, result, problems)


def read_evaluations(folder: Path) -> tuple[dict[str, Evaluation], list[str]]:
    """What evaluate.py has saved about a run alone, by the name of the split.

    Returns:
        The evaluations, and what is wrong with files that cannot be read.
    """
    evaluations: dict[str, Evaluation] = {}
    problems: list[str] = []
    for file in sorted((folder / "evaluation").glob("*/metrics.json")):
        metrics = _read(folder, file.relative_to(folder).as_posix(), read_json, problems)
        if metrics and "ensemble" not in metrics:
            evaluations[file.parent.name] = Evaluation(file.parent, metrics)
    return evaluations, problems


def _read(
    folder: Path, name: str, read: Callable[[Path], Mapping[str, Any]], problems: list[str]
) -> Mapping[str, Any]:
    """The content of a file; empty, with a line in `problems`, if it is missing or damaged."""
    try:
        return read(folder / name)
    except FileNotFoundError:
        problems.append(f"{name} is missing")
    except OSError as error:
        problems.append(f"{name} cannot be read: {first_line(error)}")
    except ValueError as error:
        problems.append(f"{name} {error}")
    return {}


def _state_without_result(folder: Path, manifest: Mapping[str, Any], problems: list[str]) -> str:
    """The state as far as the lock and the manifest tell; `read_run` knows that in result.json."""
    if (folder / "result.json").exists():
        return "unknown"
    try:
        if is_locked(folder / ".lock"):
            return "running"
    except OSError as error:  # the folder of somebody else, which cannot be opened
        problems.append(f"whether it is running is unknown: {first_line(error)}")
        return "unknown"
    if manifest and "hardware" not in manifest:  # it is older than result.json
        return "unknown"
    return "killed"


def is_repeated(key: str) -> bool:
    """Whether a setting is that of repetitions: a seed or a fold."""
    return key.rpartition(".")[2] in REPEATED
