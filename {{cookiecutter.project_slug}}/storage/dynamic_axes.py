"""Which axes of a model's inputs may have other sizes, found by running the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from storage.example_inputs import BATCH, ModelInputs
from utils.errors import UserError, describe_error

# Tried in this order. Some models need multiples of 32; 64 is a second one next to the size 32.
SIZE_CHANGES = (1, 2, 4, 8, 16, 32, 64)
MIN_OTHER_SIZES = 2  # with a single one, the model may only broadcast an axis of size 1
TRIED_BATCH_SIZE = 2

Axis = tuple[str, int]  # an input and the position of one of its axes


@dataclass(frozen=True)
class AxisGroup:
    """Axes that always have the same size, and may have others than the example.

    Attributes:
        name: what the axes are called in the exported file.
        axes: the axes.
        size: their size in the example.
        other_sizes: further sizes that the model takes, with which the file is verified.
        is_declared: whether the trainer has declared them.
    """

    name: str
    axes: tuple[Axis, ...]
    size: int
    other_sizes: tuple[int, ...]
    is_declared: bool

    def sizes(self, size: int) -> dict[Axis, int]:
        """A size for each of the axes."""
        return dict.fromkeys(self.axes, size)

    @property
    def is_variable(self) -> bool:
        """Whether axes that are not declared are exported as variable.

        Neighbouring sizes alone do not suffice: strided convolutions round them to the same size.
        """
        half, double = distant_sizes(self.size)
        takes_distant_size = half in self.other_sizes or double in self.other_sizes
        return takes_distant_size and len(self.other_sizes) >= MIN_OTHER_SIZES

    @property
    def traced_size(self) -> int:
        """The size to trace with.

        torch.export takes an axis of size 1 as fixed. It also fixes one of the largest size that
        the model takes, if that is the size of a buffer which the model slices, as a causal mask.
        """
        is_largest = self.size > max(self.other_sizes)
        if self.size > 1 and not is_largest:
            return self.size
        return self.other_sizes[0]


def distant_sizes(size: int) -> list[int]:
    """Half and double a size."""
    return [size // 2, 2 * size]


def make_tensors(
    inputs: ModelInputs, batch_size: int, sizes: Mapping[Axis, int]
) -> dict[str, Tensor]:
    """A batch of inputs: random numbers, or for other dtypes the example's values, rolled.

    Args:
        inputs: one sample.
        batch_size: number of samples.
        sizes: sizes of axes that differ from the sample's.
    """
    rng = torch.Generator().manual_seed(0)
    tensors = {}
    for name, sample in inputs.tensors.items():
        own_sizes = {}
        for (owner, axis), size in sizes.items():
            if owner == name:
                own_sizes[axis] = size
        batch_axis = inputs.batch_axis(name)
        if sample.is_floating_point() or sample.is_complex():
            shape = list(sample.shape)
            for axis, size in own_sizes.items():
                shape[axis] = size
            if batch_axis is not None:
                shape[batch_axis] = batch_size
            tensors[name] = torch.randn(shape, generator=rng, dtype=sample.dtype)
            continue
        for axis, size in own_sizes.items():
            repeated = torch.arange(size) % sample.shape[axis]
            sample = sample.index_select(axis, repeated)
        if batch_axis is not None:
            samples = [sample.roll(number, -1) for number in range(batch_size)]
            sample = torch.cat(samples, batch_axis)
        tensors[name] = sample
    return tensors


@torch.inference_mode()
def run_model(
    model: nn.Module, inputs: ModelInputs, batch_size: int, sizes: Mapping[Axis, int]
) -> Any:
    """The outputs of the model for a batch of these sizes."""
    positional, keywords = inputs.arguments(make_tensors(inputs, batch_size, sizes))
    return model(*positional, **keywords)


def find_axis_groups(
    model: nn.Module, inputs: ModelInputs
) -> tuple[list[AxisGroup], dict[Axis, str]]:
    """The declared axes that vary or, without a declaration, all those whose size may change.

    Returns:
        The groups, and why other axes are fixed.

    Raises:
        UserError: if the model takes no other sizes of a declared axis.
    """
    if inputs.declares_axes:
        return _declared_groups(model, inputs), {}
    axes_by_size: dict[int, list[Axis]] = {}
    for axis, size in candidate_axes(inputs).items():
        axes_by_size.setdefault(size, []).append(axis)
    groups = []
    reasons = {}
    for axes in axes_by_size.values():
        remaining = []
        for axis in axes:
            group = _try_axes(model, inputs, [axis])
            if group.is_variable:
                groups.append(group)
            else:
                remaining.append(axis)
                sizes = ", ".join(map(str, sorted([group.size, *group.other_sizes])))
                reasons[axis] = f"of the sizes that were tried, the model only takes {sizes}"
        groups += _find_joint_groups(model, inputs, remaining)
    return groups, reasons


def candidate_axes(inputs: ModelInputs) -> dict[Axis, int]:
    """All axes except those of the samples, with their sizes."""
    candidates = {}
    for name, tensor in inputs.tensors.items():
        for position, size in enumerate(tensor.shape):
            if position != inputs.batch_axis(name) and size > 0:
                candidates[name, position] = size
    return candidates


def _declared_groups(model: nn.Module, inputs: ModelInputs) -> list[AxisGroup]:
    axes_by_name: dict[str, list[Axis]] = {}
    for input_name, axes in inputs.dynamic.items():
        for position, axis_name in axes.items():
            if axis_name != BATCH:
                axes_by_name.setdefault(axis_name, []).append((input_name, position))
    groups = []
    for name, group_axes in axes_by_name.items():
        sizes = {inputs.tensors[owner].shape[position] for owner, position in group_axes}
        if len(sizes) > 1:
            raise UserError(
                f"the axes named {name!r} have different sizes: {sorted(sizes)}; axes of the same "
                "name must have the same size"
            )
        size = sizes.pop()
        other_sizes, error = accepted_sizes(model, inputs, group_axes)
        if not other_sizes:
            raise UserError(
                f"the axis {name!r} of {group_axes[0][0]} is declared as dynamic, but of the sizes "
                f"that were tried, the model only takes the size {size}: {error}"
            )
        groups.append(AxisGroup(name, tuple(group_axes), size, tuple(other_sizes), True))
    return groups


def _find_joint_groups(
    model: nn.Module, inputs: ModelInputs, axes: Sequence[Axis]
) -> list[AxisGroup]:
    """Groups of axes of equal size that only change together: all of them, or else pairs."""
    if len(axes) < 2:
        return []
    candidates = [tuple(axes)]
    if len(axes) > 2:
        candidates += combinations(axes, 2)
    groups = []
    grouped: set[Axis] = set()
    for joint_axes in candidates:
        if grouped.isdisjoint(joint_axes):
            group = _try_axes(model, inputs, joint_axes)
            if group.is_variable:
                groups.append(group)
                grouped.update(joint_axes)
    return groups


def _try_axes(model: nn.Module, inputs: ModelInputs, axes: Sequence[Axis]) -> AxisGroup:
    """Undeclared axes as a group, with the other sizes that the model takes, if any."""
    owner, position = axes[0]
    size = inputs.tensors[owner].shape[position]
    other_sizes, _ = accepted_sizes(model, inputs, axes)
    return AxisGroup(f"{owner}_axis_{position}", tuple(axes), size, tuple(other_sizes), False)


def accepted_sizes(
    model: nn.Module, inputs: ModelInputs, axes: Sequence[Axis]
) -> tuple[list[int], str]:
    """Other sizes of the axes, changed together, that the model takes, and its first error.

    The sizes are half and double the example's, and the nearest smaller and larger one, in this
    order.
    """
    owner, position = axes[0]
    size = inputs.tensors[owner].shape[position]
    smaller = [size - change for change in SIZE_CHANGES]
    larger = [size + change for change in SIZE_CHANGES]
    accepted: list[int] = []
    first_error = ""
    half, double = distant_sizes(size)
    for candidates in ([half], [double], smaller, larger):
        for candidate in candidates:
            if candidate < 2 or candidate in accepted:
                continue
            error = model_error(model, inputs, dict.fromkeys(axes, candidate))
            if not error:
                accepted.append(candidate)
                break
            first_error = first_error or error
    return accepted, first_error


def model_error(model: nn.Module, inputs: ModelInputs, sizes: Mapping[Axis, int]) -> str:
    """What the model raises for inputs of these sizes; nothing if it takes them."""
    try:
        run_model(model, inputs, TRIED_BATCH_SIZE, sizes)
    except Exception as error:  # whatever a model raises for a size that it does not take
        return describe_error(error)
    return ""
