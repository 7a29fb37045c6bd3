"""Warns about runs whose results mean different things."""

from collections.abc import Callable, Mapping, Sequence
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
    warnings = _different_data(runs, names)
    warnings += _uncommitted_code(runs, names)
    warnings += _difference("torch", runs, names, lambda run: run.fact("versions", "torch"))
    warnings += _difference("number of steps", runs, names, lambda run: run.step)
    warnings += _difference("checkpoint.monitor", runs, names, lambda run: run.monitor or None)
    warnings += _difference("device", runs, names, lambda run: run.manifest.get("device"))
    warnings += _marked_runs(runs, names)
    warnings += _foreign_runs(runs, names)
    return warnings


def _different_data(runs: Sequence[Run], names: Mapping[Path, str]) -> list[str]:
    warnings = _difference("data set", runs, names, lambda run: run.fact("data", "title"))
    if warnings:
        return warnings
    for split, label in HASHED_SPLITS.items():
        warnings += _different_split(split, label, runs, names)
    return warnings


def _different_split(
    split: str, label: str, runs: Sequence[Run], names: Mapping[Path, str]
) -> list[str]:
    """A line if the samples of a split differ.

    The seed may decide on the splits. So fingerprints are compared between runs with the same seed.
    """
    by_repetition: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        by_repetition.setdefault(run.repetition, []).append(run)
    for repeated in by_repetition.values():
        warnings = _difference(
            f"{label} (fingerprint)", repeated, names, lambda run: run.fact(split, "hash")
        )
        if warnings:
            return warnings
    return _difference(
        f"{label} (number of samples)", runs, names, lambda run: run.fact(split, "samples")
    )


def _uncommitted_code(runs: Sequence[Run], names: Mapping[Path, str]) -> list[str]:
    warnings = _difference("commit", runs, names, lambda run: run.commit)
    dirty = [run for run in runs if run.git.get("dirty")]
    if dirty:
        warnings.append(
            f"uncommitted code; commit it before further runs: {list_runs(dirty, names)}"
        )
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
    label: str, runs: Sequence[Run], names: Mapping[Path, str], value_of: Callable[[Run], Any]
) -> list[str]:
    """A line about a value that differs between runs; none if it does not or is unknown."""
    by_value: dict[str, list[Run]] = {}
    for run in runs:
        value = value_of(run)
        if value is not None:
            by_value.setdefault(str(value), []).append(run)
    if len(by_value) < 2:
        return []
    parts = []
    for value, with_value in list(by_value.items())[:MAX_SHOWN_VALUES]:
        parts.append(f"{value} in {list_runs(with_value, names)}")
    if len(by_value) > MAX_SHOWN_VALUES:
        parts.append(f"and {len(by_value) - MAX_SHOWN_VALUES} other values")
    return [f"different {label}: {'; '.join(parts)}"]
