"""Verification of exports: the file and the model must compute the same outputs."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from storage.dynamic_axes import Axis, AxisGroup, make_tensors, model_error, run_model
from storage.example_inputs import ModelInputs
from storage.export_formats import Predictor
from storage.export_tracing import quiet
from utils.errors import UserError, first_line
from utils.outputs import named_outputs

VERIFIED_BATCH_SIZES = (1, 2, 5)
RELATIVE_TOLERANCE = 1e-3
# Rounding errors of small values depend on the largest one.
TOLERANCE_OF_LARGEST = 1e-4
MIN_TOLERANCE = 1e-6
LOW_PRECISION_TOLERANCE = 2e-2  # for outputs in bfloat16 or float16


class AxisMismatchError(Exception):
    """The exported file differs from the model at another size of an axis that was found."""

    def __init__(self, group: AxisGroup, reason: str) -> None:
        super().__init__(reason)
        self.group = group


@torch.inference_mode()
def verify(
    model: nn.Module,
    predictor: Predictor,
    inputs: ModelInputs,
    groups: Sequence[AxisGroup],
    file_format: str,
) -> float:
    """Compares the file with the model at several batch sizes and sizes of each axis."""
    largest = 0.0
    for batch_size in VERIFIED_BATCH_SIZES:
        problem, difference = _run_both(model, predictor, inputs, batch_size, {})
        if problem:
            raise UserError(
                f"the model exported as {file_format} computes other outputs than the model "
                f"itself for {batch_size} samples: {problem}"
            )
        largest = max(largest, difference)
    for group in groups:
        for size in group.other_sizes:
            problem, difference = _run_both(model, predictor, inputs, 2, group.sizes(size))
            if problem:
                reject_axis(group, f"at size {size}, {problem}")
            largest = max(largest, difference)
    for sizes in _sizes_together(model, inputs, groups):
        problem, difference = _run_both(model, predictor, inputs, 2, sizes)
        if problem:
            reject_axis(groups[-1], f"if other axes change, too, {problem}")
        largest = max(largest, difference)
    return largest


def _sizes_together(
    model: nn.Module, inputs: ModelInputs, groups: Sequence[AxisGroup]
) -> list[dict[Axis, int]]:
    """Other sizes of all groups at once that the model takes: distant ones, then near ones."""
    if len(groups) < 2:
        return []
    taken = []
    for position in (0, -1):
        sizes: dict[Axis, int] = {}
        for group in groups:
            sizes |= group.sizes(group.other_sizes[position])
        if not model_error(model, inputs, sizes):
            taken.append(sizes)
    return taken


def _run_both(
    model: nn.Module,
    predictor: Predictor,
    inputs: ModelInputs,
    batch_size: int,
    sizes: Mapping[Axis, int],
) -> tuple[str, float]:
    """What differs between the outputs of file and model, if anything, and by how much."""
    expected = named_outputs(run_model(model, inputs, batch_size, sizes))
    try:
        with quiet():
            found = predictor(make_tensors(inputs, batch_size, sizes))
    except Exception as error:  # a runtime may raise anything
        return first_line(error), 0.0
    renamed = dict(zip(expected, found.values(), strict=True))
    return compare(expected, renamed)


def compare(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> tuple[str, float]:
    """What differs by more than rounding errors, if anything, and the largest difference."""
    largest = 0.0
    for name, tensor in expected.items():
        other = found[name]
        if other.shape != tensor.shape or other.dtype != tensor.dtype:
            text = f"{name} is {other.dtype} {tuple(other.shape)} instead of {tensor.dtype} "
            return text + f"{tuple(tensor.shape)}", largest
        if not tensor.is_floating_point() and not tensor.is_complex():
            if not torch.equal(tensor, other):
                return f"{name} has other values", largest
            continue
        largest = max(largest, _largest_value(tensor - other))
        relative = RELATIVE_TOLERANCE
        absolute = TOLERANCE_OF_LARGEST
        if tensor.itemsize < 4:
            relative = LOW_PRECISION_TOLERANCE
            absolute = LOW_PRECISION_TOLERANCE
        absolute = max(MIN_TOLERANCE, absolute * _largest_value(tensor))
        if not torch.allclose(tensor, other, relative, absolute, equal_nan=True):
            return f"{name} differs by up to {largest:.1e}", largest
    return "", largest


def _largest_value(tensor: Tensor) -> float:
    """The largest finite absolute value; 0 without any."""
    values = tensor.abs()
    finite = values[values.isfinite()]
    if finite.numel() == 0:
        return 0.0
    return float(finite.max())


def reject_axis(group: AxisGroup, reason: str) -> None:
    """Raises an error about an axis that the model can change, but the exported file cannot."""
    sizes = ", ".join(map(str, sorted(group.other_sizes)))
    reason = f"the model also takes {sizes}, but the exported file cannot: {reason}"
    if group.is_declared:
        name, axis = group.axes[0]
        raise UserError(
            f"the axis {group.name!r} (axis {axis} of {name}) is declared as dynamic; {reason}"
        )
    raise AxisMismatchError(group, reason)
