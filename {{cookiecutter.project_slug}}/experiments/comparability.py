"""Warns about runs whose results mean different things."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.names import list_runs
from experiments.runs import Run

PROJECT = Path(__file__).resolve().parent.parent
MAX_SHOWN_VALUES = 3
HASHED_SPLITS = {"data": "training data", "validation": "validation data", "test": "test data"}
PACKAGES = {"data.name": "data_loader", "model.name": "model", "trainer.name": "trainer"}


def find_warnings(runs: Sequence[Run], names: Mapping[Path, str]) -> list[str]:
    """One line for each reason why the results of runs can hardly be compared.

    Args:
        runs: the runs that are compared.
        names: what they are called, by their folders.
    """
    warnings = [
        *_different_data(runs, names),
        *_uncommitted_code(runs, names),
        _difference("torch", runs, names, [run.fact("versions", "torch") for run in runs]),
        _difference("number of steps", runs, names, [run.step for run in runs]),
        _difference("checkpoint.monitor", runs, names, [run.monitor or None for run in runs]),
        _difference("device", runs, names, [run.manifest.get("device") for run in runs]),
        *_marked_runs(runs, names),
        *_foreign_runs(runs, names),
    ]
    return [warning for warning in warnings if warning]


def _different_data(runs: Sequence[Run], names: Mapping[Path, str]) -> list[str]:
    """Compares the fingerprints of runs with the same seed, which may decide on the splits."""
    titles = [run.fact("data", "title") for run in runs]
    warning = _difference("data set", runs, names, titles)
    if warning:
        return [warning]
    warnings = []
    for split, label in HASHED_SPLITS.items():
        by_repetition: dict[tuple[Any, ...], list[Run]] = {}
        for run in runs:
            by_repetition.setdefault(run.repetition, []).append(run)
        for repeated in by_repetition.values():
            hashes = [run.fact(split, "hash") for run in repeated]
            warning = _difference(f"{label} (fingerprint)", repeated, names, hashes)
            if warning:
                warnings.append(warning)
                break
        else:
            samples = [run.fact(split, "samples") for run in runs]
            warnings.append(_difference(f"{label} (number of samples)", runs, names, samples))
    return warnings


def _uncommitted_code(runs: Sequence[Run], names: Mapping[Path, str]) -> list[str]:
    dirty = [run for run in runs if run.git.get("dirty")]
    warnings = []
    if dirty:
        warnings.append(f"uncommitted code: {list_runs(dirty, names)}")
    commits = []
    for run in runs:
        commit = run.git.get("commit")
        commits.append(str(commit)[:8] if commit else None)
    warnings.append(_difference("commit", runs, names, commits))
    return warnings


def _marked_runs(runs: Sequence[Run], names: Mapping[Path, str]) -> list[str]:
    by_mark: dict[str, list[Run]] = {}
    for run in runs:
        if run.mark:
            by_mark.setdefault(run.mark, []).append(run)
    warnings = []
    for mark, marked in by_mark.items():
        warnings.append(f"no real results (trainer.{mark}): {list_runs(marked, names)}")
    return warnings


def _foreign_runs(runs: Sequence[Run], names: Mapping[Path, str]) -> list[str]:
    """Finds runs of classes that are not in this project."""
    by_class: dict[str, list[Run]] = {}
    for run in runs:
        for key, package in PACKAGES.items():
            name = run.settings.get(key)
            if isinstance(name, str) and not _has_module(package, name):
                by_class.setdefault(f"{key}={name}", []).append(run)
    warnings = []
    for name, foreign in by_class.items():
        warnings.append(f"{name} is not in this project: {list_runs(foreign, names)}")
    return warnings


def _has_module(package: str, name: str) -> bool:
    """Whether a package has the file of a class such as ``networks.MLP``."""
    *parts, _ = name.split(".")
    file = PROJECT.joinpath(package, *parts)
    return file.with_suffix(".py").is_file() or (file / "__init__.py").is_file()


def _difference(
    label: str, runs: Sequence[Run], names: Mapping[Path, str], values: Sequence[Any]
) -> str:
    """A line about a value that differs between runs; empty if it does not or is unknown."""
    by_value: dict[str, list[Run]] = {}
    for run, value in zip(runs, values, strict=True):
        if value is not None:
            by_value.setdefault(str(value), []).append(run)
    if len(by_value) < 2:
        return ""
    parts = []
    for value, with_value in list(by_value.items())[:MAX_SHOWN_VALUES]:
        parts.append(f"{value} in {list_runs(with_value, names)}")
    if len(by_value) > MAX_SHOWN_VALUES:
        parts.append(f"and {len(by_value) - MAX_SHOWN_VALUES} other values")
    return f"different {label}: {'; '.join(parts)}"
