"""The comparison of a run with the one that it repeats."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from logger.metrics_file import read_rows
from storage.checkpoint_file import load_first_usable
from storage.repository import describe_difference
from storage.run_folder import find_checkpoints, read_manifest

MAX_LISTED = 5  # packages or metrics
# Entries of the manifest.
COMPARED = ("versions", "machine", "device", "processes", "hardware", "data", "validation")


def compare_origins(run: Path, original: Path) -> list[str]:
    """Lines about what differs before training: code, versions, hardware, data.

    Args:
        run: the folder of the new run.
        original: the folder of the run that it repeats.
    """
    now = read_manifest(run)
    before = read_manifest(original)
    differences = []
    unknown = []
    if _commit_of(before) is None or _commit_of(now) is None:
        unknown.append("commit")
    else:
        code = describe_difference(before["git"], now["git"])
        if code:
            differences.append(f"code: {code}")
    for entry in COMPARED:
        if before.get(entry) is None:
            unknown.append(entry)
            continue
        changes = _changes(_by_name(entry, before[entry]), _by_name(entry, now.get(entry)))
        if changes:
            differences.append(f"{entry}: {_listed(changes)}")
    if unknown:
        differences.append(f"unknown: {', '.join(unknown)}")
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
    metrics = _last_metrics(run, step)
    metrics_before = _last_metrics(original, step)
    if not metrics_before:
        lines.append(f"the metrics are not compared: {original} has none of step {step}")
        return lines
    changes = _changes(metrics_before, metrics)
    if changes:
        lines.append(f"metrics that differ: {_listed(changes)}")
    return lines


def compare_weights(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Whether two state dicts have the same bits, or where they differ most."""
    tensors_before = _tensors_of(before)
    tensors = _tensors_of(now)
    shapes_before = {name: tensor.shape for name, tensor in tensors_before.items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    if shapes_before != shapes:
        return "they belong to different networks"
    distances = {}
    for name, tensor in tensors.items():
        tensor_before = tensors_before[name]
        if not _has_same_bits(tensor, tensor_before):
            difference = tensor.to(torch.complex128) - tensor_before.to(torch.complex128)
            distances[name] = float(difference.abs().nan_to_num(torch.inf).max())
    if not distances:
        return "the same bits"
    name = max(distances, key=distances.__getitem__)
    return f"they differ, at most by {distances[name]:.3g} ({name})"


def _tensors_of(weights: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a state dict, without those that are empty or what a layer has added."""
    tensors = {}
    for name, value in weights.items():
        if isinstance(value, Tensor) and value.numel() > 0:
            tensors[name] = value
    return tensors


def _has_same_bits(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors have the same dtype and bits; 0 and -0 differ."""
    if first.dtype != second.dtype:
        return False
    first_bytes = first.contiguous().reshape(-1).view(torch.uint8)
    return torch.equal(first_bytes, second.contiguous().reshape(-1).view(torch.uint8))


def _last_metrics(run: Path, step: int) -> dict[str, str]:
    """The results of the validations after a step, from metrics.csv, which may be damaged."""
    file = run / "metrics.csv"
    if not file.exists():
        return {}
    metrics = {}
    for row in read_rows(file):
        if row.split != "train" and row.step == step:
            metrics[f"{row.split} {row.metric}"] = row.value
    return metrics


def _commit_of(manifest: Mapping[str, Any]) -> str | None:
    """The commit of the code; None if it is unknown."""
    code = manifest.get("git")
    if not isinstance(code, Mapping):
        return None
    return code.get("commit")


def _by_name(entry: str, value: Any) -> Mapping[str, Any]:
    """An entry of a manifest as values by name."""
    if isinstance(value, Mapping):
        return value
    return {entry: value}


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two mappings, a text for each name."""
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
