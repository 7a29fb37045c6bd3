"""The inputs that export.py traces a model with: how a trainer states and a checkpoint keeps them.

A checkpoint keeps them as plain data: the tensors by position or by name, as `forward` gets them,
and the declared axes. The names of positional ones follow from the exported model.
"""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from utils.errors import UserError

BATCH = "batch"  # the name of the axis of the samples


@dataclass(frozen=True)
class ExampleInputs:
    """The arguments of a model's `forward` for one sample, and those of their axes that vary.

    Attributes:
        inputs: a tensor, a tuple of tensors, or a dict of tensors by parameter of `forward`.
            Programs call an exported .pt2 file in the same way.
        dynamic: the names of the axes that vary, by parameter and position, as in
            ``{"tokens": {1: "length"}}``. Axes of the same name always have the same size. Axis 0
            is ``batch``, unless another axis of the input has this name. Without any name except
            ``batch``, export.py finds the axes that vary by trying other sizes.
    """

    inputs: Tensor | Sequence[Tensor] | Mapping[str, Tensor]
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)


def to_plain_data(example: Any, source: str) -> dict[str, Any] | None:
    """Example inputs as plain data for a checkpoint; None stays None.

    Args:
        example: an `ExampleInputs`, or its `inputs` alone.
        source: the method that returned it, for messages.

    Returns:
        ``inputs``: tensors on the CPU by position (int) or name (str), with zeros if they are
        floating-point; ``dynamic``: the declared axes.

    Raises:
        UserError: if it is of another type.
    """
    if example is None:
        return None
    if not isinstance(example, ExampleInputs):
        example = ExampleInputs(example)
    given: Any = example.inputs
    if isinstance(given, Tensor):
        given = [given]
    if isinstance(given, Mapping):
        named = dict(given)
    elif isinstance(given, list | tuple):
        named = dict(enumerate(given))
    else:
        named = {"inputs": given}
    inputs: dict[int | str, Tensor] = {}
    for name, tensor in named.items():
        if not isinstance(tensor, Tensor):
            raise UserError(
                f"{source} must return a tensor, a tuple of tensors, a dict of tensors by "
                f"parameter of forward, or ExampleInputs; {name} is {type(tensor).__name__}"
            )
        inputs[name] = without_values(tensor)
    dynamic = {}
    for name, axes in example.dynamic.items():
        dynamic[name] = dict(axes)
    return {"inputs": inputs, "dynamic": dynamic}


def without_values(tensor: Tensor) -> Tensor:
    """A copy on the CPU; floating-point values, which may be private, are replaced by zeros."""
    copy = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    if copy.is_floating_point() or copy.is_complex():
        copy.zero_()
    return copy


@dataclass(frozen=True)
class ModelInputs:
    """The inputs of a model by name.

    Attributes:
        tensors: one sample of each input, in the order of the parameters of `forward`.
        keywords: names of the inputs that are passed by keyword.
        dynamic: names of the declared axes, by input and position.
    """

    tensors: dict[str, Tensor]
    keywords: frozenset[str]
    dynamic: dict[str, dict[int, str]]

    def arguments(self, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of `forward`, from values by input."""
        positional = []
        by_name = {}
        for name in self.tensors:
            if name in self.keywords:
                by_name[name] = values[name]
            else:
                positional.append(values[name])
        return tuple(positional), by_name

    def batch_axis(self, name: str) -> int | None:
        """The axis of the samples; None for an input without axes."""
        for axis, axis_name in self.dynamic.get(name, {}).items():
            if axis_name == BATCH:
                return axis
        if self.tensors[name].ndim == 0:
            return None
        return 0

    @property
    def declares_axes(self) -> bool:
        """Whether any axis has a name, except for those of the samples."""
        names = {BATCH}
        for axes in self.dynamic.values():
            names.update(axes.values())
        return names != {BATCH}


class ModelWrapper(nn.Module):
    """A model with other outputs than the wrapped one, but the same inputs and weights.

    A subclass defines `forward`, with any arguments.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The weights by their names in the wrapped model."""
        return self.model.state_dict(*args, **kwargs)


def resolve_inputs(saved: Mapping[str, Any], model: nn.Module, source: str) -> ModelInputs:
    """The inputs in a checkpoint with the names of the parameters of `model.forward`.

    Args:
        saved: the result of `to_plain_data`.
        model: the exported model.
        source: the method that returned the inputs, for messages.

    Raises:
        UserError: if they do not fit the parameters, or a declared axis does not exist.
    """
    keywords = {}
    positional = []
    for name, tensor in saved["inputs"].items():
        if isinstance(name, str):
            keywords[name] = tensor
        else:
            positional.append(tensor)
    while isinstance(model, ModelWrapper):
        model = model.model
    signature = inspect.signature(model.forward)
    try:
        bound = signature.bind(*positional, **keywords)
    except TypeError as error:
        given = ", ".join(keywords) or f"{len(positional)} by position"
        raise UserError(
            f"{source} ({given}) does not fit {type(model).__name__}.forward{signature}: {error}"
        ) from error
    tensors: dict[str, Tensor] = {}
    for name, value in bound.arguments.items():
        if isinstance(value, tuple):  # *args
            for index, tensor in enumerate(value):
                tensors[f"{name}_{index}"] = tensor
        elif isinstance(value, dict):  # **kwargs
            tensors.update(value)
        else:
            tensors[name] = value
    dynamic = _check_axes(saved["dynamic"], tensors, source)
    inputs = ModelInputs(tensors, frozenset(keywords), dynamic)
    _check_batch_axes(inputs, source)
    return inputs


def _check_axes(
    declared: Mapping[str, Mapping[int, str]], tensors: Mapping[str, Tensor], source: str
) -> dict[str, dict[int, str]]:
    """The declared axes, counted from the first one."""
    dynamic: dict[str, dict[int, str]] = {}
    for name, axes in declared.items():
        if name not in tensors:
            raise UserError(
                f"{source}: dynamic names {name!r}, but the inputs are {', '.join(tensors)}"
            )
        ndim = tensors[name].ndim
        dynamic[name] = {}
        for axis, axis_name in axes.items():
            if not -ndim <= axis < ndim:
                raise UserError(
                    f"{source}: the axis {axis_name!r} of {name} is {axis}, but {name} has "
                    f"{ndim} axes, counted from 0"
                )
            if not axis_name.isidentifier():
                raise UserError(f"{source}: the axis name {axis_name!r} must be a word")
            dynamic[name][axis % ndim] = axis_name
    return dynamic


def _check_batch_axes(inputs: ModelInputs, source: str) -> None:
    for name, tensor in inputs.tensors.items():
        axis = inputs.batch_axis(name)
        if axis is not None and tensor.shape[axis] != 1:
            raise UserError(
                f"{source}: axis {axis} of {name} is the batch, but has the size "
                f"{tensor.shape[axis]} for one sample; if the batch is another axis, such as 1, "
                f"declare it: ExampleInputs(..., dynamic={{{name!r}: {{1: {BATCH!r}}}}})"
            )
