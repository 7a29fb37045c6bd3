"""Which axes of a model's inputs may have other sizes, found by running the model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, nn

from storage.example_inputs import BATCH, ModelInputs
from utils.errors import UserError, describe_error

SIZE_CHANGES = (1, 2, 4, 8, 16, 32)  # tried in this order; some models need multiples of 32
SIZES_TO_VERIFY = 2
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
    def traced_size(self) -> int:
        """The size to trace with.

        torch.export takes an axis of size 1 as fixed. It also fixes one of the largest size that
        the model takes, if that is the size of a buffer which the model slices, as a causal mask.
        """
        is_largest = self.size > max(self.other_sizes)
        if self.size > 1 and not is_largest:
            return self.size
        return self.other_sizes[0]


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


def find_axis_groups(model: nn.Module, inputs: ModelInputs) -> list[AxisGroup]:
    """The declared axes that vary or, without a declaration, all those whose size may change.

    Raises:
        UserError: if the model takes no other sizes of a declared axis.
    """
    if inputs.declares_axes:
        return _declared_groups(model, inputs)
    groups = []
    axes_by_size: dict[int, list[Axis]] = {}
    for axis, size in candidate_axes(inputs).items():
        axes_by_size.setdefault(size, []).append(axis)
    for axes in axes_by_size.values():
        groups += _find_groups_of_equal_size(model, inputs, axes)
    return groups


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
        group, error = _try_sizes(model, inputs, group_axes, name)
        if group is None:
            raise UserError(
                f"the axis {name!r} of {group_axes[0][0]} is declared as dynamic, but the model "
                f"only takes the size {sizes.pop()}: {error}"
            )
        groups.append(group)
    return groups


def _find_groups_of_equal_size(
    model: nn.Module, inputs: ModelInputs, axes: Sequence[Axis]
) -> list[AxisGroup]:
    """Tries each axis alone, then those that must change together: all of them, or pairs."""
    groups = []
    remaining = []
    for axis in axes:
        group, _ = _try_sizes(model, inputs, [axis])
        if group is None:
            remaining.append(axis)
        else:
            groups.append(group)
    if len(remaining) < 2:
        return groups
    group, _ = _try_sizes(model, inputs, remaining)
    if group is not None:
        return [*groups, group]
    grouped: set[Axis] = set()
    for pair in combinations(remaining, 2):
        if len(remaining) > 2 and grouped.isdisjoint(pair):
            group, _ = _try_sizes(model, inputs, pair)
            if group is not None:
                groups.append(group)
                grouped.update(pair)
    return groups


def _try_sizes(
    model: nn.Module, inputs: ModelInputs, axes: Sequence[Axis], name: str = ""
) -> tuple[AxisGroup | None, str]:
    """The axes as a group if the model takes two other sizes of them, and the last error.

    One of the two sizes is smaller if possible.
    """
    owner, position = axes[0]
    size = inputs.tensors[owner].shape[position]
    larger = [size + change for change in SIZE_CHANGES]
    smaller = [size - change for change in SIZE_CHANGES if size - change > 1]
    errors: dict[int, str] = {}
    accepted: list[int] = []
    for sizes, wanted in ((larger, 1), (smaller, SIZES_TO_VERIFY), (larger, SIZES_TO_VERIFY)):
        for other_size in sizes:
            if len(accepted) == wanted:
                break
            if other_size in errors or other_size in accepted:
                continue
            try:
                run_model(model, inputs, TRIED_BATCH_SIZE, dict.fromkeys(axes, other_size))
                accepted.append(other_size)
            except Exception as error:  # whatever a model raises for a size that it does not take
                errors[other_size] = describe_error(error)
    if len(accepted) < SIZES_TO_VERIFY:
        return None, next(iter(errors.values()))
    is_declared = bool(name)
    name = name or f"{owner}_axis_{position}"
    return AxisGroup(name, tuple(axes), size, tuple(accepted), is_declared), ""
