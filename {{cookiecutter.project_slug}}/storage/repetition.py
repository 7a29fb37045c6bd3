"""The comparison of a run with the one that it repeats."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.checkpoint_file import load_first_usable
from storage.repository import describe_difference
from storage.run_folder import find_checkpoints, read_manifest

MAX_LISTED = 5  # packages or metrics
COMPARED = ("machine", "device", "processes", "hardware", "data", "validation")


def compare_origins(run: Path, original: Path) -> list[str]:
    """Lines about what differs before training: code, versions, hardware, data.

    Args:
        run: the folder of the new run.
        original: the folder of the run that it repeats.
    """
    now = read_manifest(run)
    before = read_manifest(original)
    differences = []
    code = describe_difference(before.get("git", {}), now.get("git", {}))
    if code:
        differences.append(f"code: {code}")
    versions = _changes(before.get("versions", {}), now.get("versions", {}))
    if versions:
        differences.append(f"versions: {_listed(versions)}")
    for key in COMPARED:
        changes = _changes(_as_mapping(before.get(key), key), _as_mapping(now.get(key), key))
        if changes:
            differences.append(f"{key}: {_listed(changes)}")
    unknown = [key for key in ("git", "versions", *COMPARED) if key not in before]
    if before.get("git", {}).get("commit") is None or now.get("git", {}).get("commit") is None:
        unknown.append("the commit")
    if unknown:
        differences.append(f"unknown: {', '.join(dict.fromkeys(unknown))}")
    if not differences:
        return [f"repeats {original} with the same code, versions, data, device and hardware"]
    return [f"repeats {original}; what differs:", *differences]


def compare_ends(run: Path, original: Path) -> list[str]:
    """Lines about whether the weights and the metrics of two runs are the same at their ends.

    Args:
        run: the folder of the new run.
        original: the folder of the run that it repeats.

    Raises:
        UserError: if a run has no usable checkpoint.
    """
    _, state = load_first_usable(find_checkpoints(run, best=False))
    _, state_before = load_first_usable(find_checkpoints(original, best=False))
    step = state["progress"]["step"]
    step_before = state_before["progress"]["step"]
    if step != step_before:
        return [
            f"the final weights are not compared: {original} is at step {step_before}, and this "
            f"run at step {step}"
        ]
    lines = [f"final weights: {compare_weights(state_before['model'], state['model'])}"]
    changes = _changes(_last_metrics(original, step), _last_metrics(run, step))
    if changes:
        lines.append(f"metrics that differ: {_listed(changes)}")
    return lines


def compare_weights(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Whether two state dicts have the same bits, or where they differ most."""
    shapes_before = {name: tuple(value.shape) for name, value in before.items()}
    shapes = {name: tuple(value.shape) for name, value in now.items()}
    if shapes_before != shapes:
        return "they belong to different networks"
    largest = -1.0
    largest_name = ""
    for name, value in now.items():
        if _has_same_bits(value, before[name]):
            continue
        difference = value.to(torch.complex128) - before[name].to(torch.complex128)
        distance = float(difference.abs().nan_to_num(torch.inf).max())
        if distance > largest:
            largest = distance
            largest_name = name
    if not largest_name:
        return "the same bits"
    return f"they differ, at most by {largest:.3g} ({largest_name})"


def _has_same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same dtype and bits; 0 and -0 differ."""
    if first.dtype != second.dtype:
        return False
    first_bytes = first.contiguous().reshape(-1).view(torch.uint8)
    return torch.equal(first_bytes, second.contiguous().reshape(-1).view(torch.uint8))


def _last_metrics(run: Path, step: int) -> dict[str, str]:
    """The results of the validations after a step, from metrics.csv."""
    file = run / "metrics.csv"
    if not file.exists():
        return {}
    metrics = {}
    with file.open(newline="", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            if row["split"] != "train" and row["step"] == str(step):
                metrics[f"{row['split']} {row['metric']}"] = row["value"]
    return metrics


def _as_mapping(value: Any, key: str) -> dict[str, Any]:
    """An entry of a manifest by names; empty if it is missing."""
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return dict(value)
    return {key: value}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two mappings; nothing if one of them is empty, and thus unknown."""
    if not before or not now:
        return []
    changes = []
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) != now.get(name):
            changes.append(f"{name} {before.get(name, 'none')} -> {now.get(name, 'none')}")
    return changes


def _listed(changes: list[str]) -> str:
    text = ", ".join(changes[:MAX_LISTED])
    if len(changes) > MAX_LISTED:
        text += f" and {len(changes) - MAX_LISTED} more"
    return text
