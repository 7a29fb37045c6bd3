"""What a model returns: a tensor, or any nesting of dicts, tuples and dataclasses of tensors."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from utils.errors import UserError


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
    elif dataclasses.is_dataclass(outputs) and not isinstance(outputs, type):
        fields = {field.name: getattr(outputs, field.name) for field in dataclasses.fields(outputs)}
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
        return all(is_plain(value) for value in outputs.values())
    if type(outputs) in (list, tuple):
        return all(is_plain(value) for value in outputs)
    return False


def answers_by_sample(outputs: Any) -> list[list[dict[str, Any]]]:
    """One answer for each sample: its values by name.

    Args:
        outputs: tensors of shape (N, ...).

    Raises:
        UserError: if there is anything but tensors whose first dimension is the batch.
    """
    named = named_outputs(outputs)
    counts = {name: tensor.shape[0] if tensor.ndim else 0 for name, tensor in named.items()}
    if len(set(counts.values())) > 1 or any(tensor.ndim == 0 for tensor in named.values()):
        shapes = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in named.items())
        raise UserError(
            f"the first dimension of all outputs must be the batch, not {shapes}; override the "
            "trainer's describe"
        )
    answers: list[list[dict[str, Any]]] = []
    for index in range(next(iter(counts.values()))):
        answers.append([{name: tensor[index].tolist() for name, tensor in named.items()}])
    return answers


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
        where = f" in {name}" if name else ""
        raise UserError(
            f"the model returns {type(value).__name__}{where}; allowed are tensors, and dicts, "
            "tuples and dataclasses of tensors"
        )
