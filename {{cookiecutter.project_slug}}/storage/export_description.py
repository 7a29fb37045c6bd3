"""What an exported file says about itself: inputs, outputs and axes, without local paths."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from torch import Tensor
from torch.export import ExportedProgram

from storage.dynamic_axes import Axis, AxisGroup, candidate_axes
from storage.example_inputs import BATCH, ModelInputs
from storage.export_tracing import size_limits
from storage.export_verification import VERIFIED_BATCH_SIZES

About = dict[str, Any]
LEFT_OUT = object()
PLACE_IN_CODE = re.compile(r" \([^()]*, line \d+\)")  # with a path of this machine


def without_local_paths(value: Any, project: Path) -> Any:
    """Settings without absolute paths: those in the project become relative, others are left out.

    They name folders of this machine, which say nothing to the reader of an exported file.
    """
    if isinstance(value, dict):
        kept = {}
        for name, item in value.items():
            cleaned = without_local_paths(item, project)
            if cleaned is not LEFT_OUT:
                kept[name] = cleaned
        return kept
    if isinstance(value, list | tuple):
        indexed = without_local_paths(dict(enumerate(value)), project)
        return list(indexed.values())
    if not isinstance(value, str) or not _is_local_path(value):
        return value
    path = Path(value)
    if path.is_relative_to(project):
        return path.relative_to(project).as_posix()
    return LEFT_OUT


def _is_local_path(text: str) -> bool:
    if text.startswith(("~", "file:")):
        return True
    is_posix_path = PurePosixPath(text).is_absolute() and len(PurePosixPath(text).parts) > 1
    return is_posix_path or PureWindowsPath(text).drive != ""


def describe_inputs(inputs: ModelInputs, shapes: Mapping[str, Sequence[int | str]]) -> list[About]:
    """Name, dtype and shape of each input, and how a .pt2 file gets it."""
    described = []
    for name, tensor in inputs.tensors.items():
        entry = {"name": name, "dtype": dtype_name(tensor), "shape": [*shapes[name]]}
        entry["passed_by"] = "position"
        if name in inputs.keywords:
            entry["passed_by"] = "keyword"
        described.append(entry)
    return described


def declared_shapes(inputs: ModelInputs) -> dict[str, list[int | str]]:
    """The shape of each input, with the names of its batch axis and of the declared ones."""
    shapes: dict[str, list[int | str]] = {}
    for name, tensor in inputs.tensors.items():
        shape: list[int | str] = [*tensor.shape]
        batch_axis = inputs.batch_axis(name)
        if batch_axis is not None:
            shape[batch_axis] = BATCH
        for axis, axis_name in inputs.dynamic.get(name, {}).items():
            shape[axis] = axis_name
        shapes[name] = shape
    return shapes


def describe_outputs(
    outputs: Mapping[str, Tensor], shapes: Sequence[Sequence[int | str]]
) -> list[About]:
    """Name, dtype and shape of each output, in order."""
    described = []
    for (name, tensor), shape in zip(outputs.items(), shapes, strict=True):
        described.append({"name": name, "dtype": dtype_name(tensor), "shape": [*shape]})
    return described


def dtype_name(tensor: Tensor) -> str:
    """The dtype without the name of the library, such as float32."""
    return str(tensor.dtype).removeprefix("torch.")


def describe_axes(
    program: ExportedProgram,
    inputs: ModelInputs,
    groups: Sequence[AxisGroup],
    shapes: Mapping[str, Sequence[int | str]],
) -> About:
    """The axes whose size may vary, by name, with the sizes that were verified."""
    axes: About = {BATCH: {"verified_sizes": [*VERIFIED_BATCH_SIZES]}}
    for group in groups:
        name, position = group.axes[0]
        limits = size_limits(program, inputs, group.axes[0])
        sizes = sorted({group.size, *group.other_sizes})
        axes[str(shapes[name][position])] = {"verified_sizes": sizes, **limits}
    return axes


def describe_fixed_axes(
    inputs: ModelInputs, groups: Sequence[AxisGroup], reasons: Mapping[Axis, str]
) -> list[About]:
    """The axes that must have the size of the example, with the reason of each."""
    dynamic: set[Axis] = set()
    for group in groups:
        dynamic.update(group.axes)
    described = []
    for axis, size in candidate_axes(inputs).items():
        if axis not in dynamic:
            name, position = axis
            reason = PLACE_IN_CODE.sub("", reasons.get(axis, "it is not declared as dynamic"))
            described.append({"input": name, "axis": position, "size": size, "reason": reason})
    return described


def rename_outputs(about: About, inputs: ModelInputs) -> None:
    """Renames outputs that are called like an input: in ONNX, all names are different."""
    for output in about["outputs"]:
        while output["name"] in inputs.tensors:
            output["name"] += "_out"
