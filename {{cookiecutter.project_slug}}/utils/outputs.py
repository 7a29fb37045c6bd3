"""What a model returns: a tensor, or any nesting of dicts, tuples and dataclasses of tensors."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from utils.errors import UserError
from utils.nested import fields_of, is_dataclass


def named_outputs(outputs: Any) -> dict[str, Tensor]:
    """The tensors by name, in order; values that are None are left out.

    A single tensor is called ``output``, and the items of a tuple ``output_0``, ``output_1``.
    Those of a dict or dataclass have the names of its keys or fields. Names in a nested structure
    are joined, as in ``hidden_0``.

    Raises:
        UserError: if there is anything but tensors, or two of them have the same name.
    """
    named: dict[str, Tensor] = {}
    _collect(to_plain(outputs), "", named)
    if not named:
        raise UserError("the model returns no tensors")
    return named


def to_plain(outputs: Any) -> Any:
    """Outputs with dicts in the place of dataclasses and named tuples, without values of None."""
    if isinstance(outputs, Mapping):
        fields = dict(outputs)
    elif is_dataclass(outputs):
        fields = fields_of(outputs)
    elif isinstance(outputs, tuple) and hasattr(outputs, "_fields"):  # a named tuple
        fields = dict(zip(outputs._fields, outputs, strict=True))
    elif isinstance(outputs, list | tuple):
        return tuple(to_plain(item) for item in outputs if item is not None)
    else:
        return outputs
    return {name: to_plain(value) for name, value in fields.items() if value is not None}


def is_plain(outputs: Any) -> bool:
    """Whether outputs consist of tensors, dicts, lists and tuples alone."""
    if isinstance(outputs, Tensor):
        return True
    if type(outputs) is dict:
        return all(map(is_plain, outputs.values()))
    if type(outputs) in (list, tuple):
        return all(map(is_plain, outputs))
    return False


def answers_by_sample(outputs: Any) -> list[list[dict[str, Any]]]:
    """One answer for each sample: its values by name.

    Args:
        outputs: tensors of shape (N, ...).

    Raises:
        UserError: if there is anything but tensors whose first dimension is the batch.
    """
    named = named_outputs(outputs)
    first_dimensions = set()
    shapes = []
    for name, tensor in named.items():
        first_dimensions.add(tuple(tensor.shape[:1]))
        shapes.append(f"{name} {tuple(tensor.shape)}")
    if len(first_dimensions) > 1 or first_dimensions == {()}:
        raise UserError(
            "the first dimension of all outputs must be the batch, not "
            f"{', '.join(shapes)}; override the trainer's describe"
        )
    columns = [tensor.tolist() for tensor in named.values()]
    return [[dict(zip(named, values, strict=True))] for values in zip(*columns, strict=True)]


def _collect(value: Any, name: str, named: dict[str, Tensor]) -> None:
    """Adds the tensors in a plain structure to `named`."""
    if isinstance(value, Tensor):
        name = name or "output"
        if name in named:
            raise UserError(f"two outputs of the model are named {name!r}; rename one of them")
        named[name] = value
    elif isinstance(value, dict):
        for key, item in value.items():
            _collect(item, f"{name}_{key}".lstrip("_"), named)
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            _collect(item, f"{name or 'output'}_{index}", named)
    else:
        raise UserError(
            f"the model returns {type(value).__name__} in {name or 'output'}; allowed are tensors, "
            "and dicts, tuples and dataclasses of tensors"
        )
