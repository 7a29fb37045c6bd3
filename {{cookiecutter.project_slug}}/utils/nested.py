"""Functions on nested structures of tensors: a batch, a state, the outputs of a model.

They enter dicts, lists, tuples (also named ones) and dataclasses. In a batch, a tensor may also be
inside an object with a method ``to(device)``, such as a graph or a packed sequence.
"""

import copy
import dataclasses
import hashlib
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from utils.errors import UserError


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """A copy of a nested structure with `function(tensor)` in the place of each tensor.

    All other values are kept.
    """

    def replace_tensor(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return function(leaf)
        return leaf

    return map_leaves(replace_tensor, value)


def map_leaves(function: Callable[[Any], Any], value: Any) -> Any:
    """A copy of a nested structure with `function(leaf)` in the place of each leaf.

    A leaf is anything that is not entered. An object with a method `to` is a leaf, even if it is a
    tuple or a dict.
    """
    if isinstance(value, Tensor) or is_movable(value):
        return function(value)
    if isinstance(value, Mapping):
        mapped = {key: map_leaves(function, item) for key, item in value.items()}
        if isinstance(value, Counter | OrderedDict):
            return type(value)(mapped)
        return mapped
    if isinstance(value, list):
        return [map_leaves(function, item) for item in value]
    if isinstance(value, tuple):
        return rebuild_tuple(value, [map_leaves(function, item) for item in value])
    if is_dataclass(value):
        items = {name: map_leaves(function, item) for name, item in fields_of(value).items()}
        return rebuild_dataclass(value, items)
    return function(value)


def move(value: Any, to: Callable[[Any], Any]) -> Any:
    """A copy of a batch in which `to` has moved each tensor and each object that can be moved."""

    def move_leaf(leaf: Any) -> Any:
        if isinstance(leaf, Tensor) or is_movable(leaf):
            return to(leaf)
        return leaf

    return map_leaves(move_leaf, value)


def is_movable(value: Any) -> bool:
    """Whether a value that is not a tensor has a method ``to(device)``."""
    return hasattr(value, "to") and not isinstance(value, type | Tensor)


def is_dataclass(value: Any) -> bool:
    """Whether a value is an instance of a dataclass."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def fields_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass by name; nested ones are not converted."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def rebuild_tuple(value: tuple[Any, ...], items: Sequence[Any]) -> Any:
    """A tuple of the same type with other items."""
    if hasattr(value, "_fields"):  # a named tuple
        return type(value)(*items)
    return tuple(items)


def rebuild_dataclass(value: Any, items: Mapping[str, Any]) -> Any:
    """A dataclass of the same type with other values of its fields."""
    rebuilt = copy.copy(value)
    for name, item in items.items():
        object.__setattr__(rebuilt, name, item)  # the dataclass may be frozen
    return rebuilt


def named_leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """All leaves of a nested structure with their path, such as ``optimizers.0 state 3``.

    Movable objects are entered as well: their attributes are items.
    """
    items = _items(value)
    if items is None:
        yield name, value
        return
    for key, item in items.items():
        yield from named_leaves(item, f"{name} {key}".lstrip())


def named_tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    """All tensors of a nested structure with their path, such as ``optimizers.0 state 3``."""
    for name, leaf in named_leaves(value):
        if isinstance(leaf, Tensor):
            yield name, leaf


def digest(value: Any) -> str:
    """A hash of the tensors, numbers, texts, bytes and sets in a nested structure, with paths."""
    hashed = hashlib.sha256()
    leaves = dict(named_leaves(value))
    for name in sorted(leaves):
        leaf = leaves[name]
        hashed.update(name.encode())
        if isinstance(leaf, Tensor):
            # `contiguous` would keep the stride of a single number, which a view does not allow.
            tensor = leaf.detach().cpu().clone(memory_format=torch.contiguous_format)
            flat = tensor.reshape(-1)
            hashed.update(flat.view(torch.uint8).numpy().tobytes())  # NumPy has no bfloat16
        elif isinstance(leaf, bool | int | float | complex | str | bytes):
            hashed.update(repr(leaf).encode())
        elif isinstance(leaf, set | frozenset):
            hashed.update(repr(sorted(map(repr, leaf))).encode())
    return hashed.hexdigest()


def as_plain_data(value: Any) -> Any:
    """A nested structure as dicts, lists, tensors, numbers and texts, which a checkpoint may have.

    Dataclasses and movable objects become dicts; any other object becomes its text.
    """
    if isinstance(value, list | tuple) and not is_movable(value):
        return [as_plain_data(item) for item in value]
    items = _items(value)
    if items is not None:
        return {key: as_plain_data(item) for key, item in items.items()}
    if value is None or isinstance(value, Tensor | bool | int | float | str):
        return value
    return repr(value)


def is_plain_data(value: Any) -> bool:
    """Whether a checkpoint can contain a nested structure as it is."""
    if isinstance(value, Mapping):
        return type(value) is dict and all(is_plain_data(item) for item in value.values())
    if isinstance(value, list | tuple):
        return not hasattr(value, "_fields") and all(is_plain_data(item) for item in value)
    return value is None or isinstance(value, Tensor | bool | int | float | str)


def _items(value: Any) -> Mapping[Any, Any] | None:
    """What a nested structure contains; None for a leaf."""
    if isinstance(value, Tensor):
        return None
    if isinstance(value, Mapping):
        return value
    if isinstance(value, list | tuple):
        if hasattr(value, "_fields"):  # a named tuple
            return dict(zip(value._fields, value, strict=True))
        return dict(enumerate(value))
    if is_dataclass(value):
        return fields_of(value)
    if is_movable(value) and hasattr(value, "__dict__"):
        attributes: dict[str, Any] = vars(value)
        return attributes
    return None


def stack_samples(samples: Sequence[Any], name: str = "") -> Any:
    """Stacks the tensors of nested samples of equal structure along a new first dimension.

    Texts and objects become lists.

    Args:
        samples: one value for each sample.
        name: the path of the values, for messages.

    Raises:
        UserError: if a sample contains a number or an array instead of a tensor, tensors have
            different shapes, or samples different keys.
    """
    first = samples[0]
    if isinstance(first, Tensor):
        return _stack_tensors(samples, name)
    if isinstance(first, bool | int | float | complex) or hasattr(first, "__array__"):
        kind = type(first).__name__
        raise UserError(
            f"{_describe_path(name)} is {first!r} ({kind}) instead of a tensor; use torch.as_tensor"
        )
    items = _items(first)
    if items is None or is_movable(first):
        return list(samples)
    stacked = {}
    for key in _common_keys(samples, name):
        values = [_items_of(sample)[key] for sample in samples]
        stacked[key] = stack_samples(values, f"{name} {key}".lstrip())
    if isinstance(first, tuple):
        return rebuild_tuple(first, list(stacked.values()))
    if isinstance(first, list):
        return list(stacked.values())
    if is_dataclass(first):
        return rebuild_dataclass(first, stacked)
    return stacked


def _common_keys(samples: Sequence[Any], name: str) -> list[Any]:
    """The keys, or positions, of nested samples, which must all have the same ones."""
    keys = list(_items_of(samples[0]))
    for sample in samples:
        differing = set(keys).symmetric_difference(_items_of(sample))
        if differing:
            path = f"{name} {min(differing, key=str)}".lstrip()
            raise UserError(f"some samples have {path!r}, others do not; override `collate`")
    return keys


def _items_of(sample: Any) -> Mapping[Any, Any]:
    return _items(sample) or {}


def _stack_tensors(tensors: Sequence[Any], name: str) -> Tensor:
    try:
        return torch.stack(tuple(tensors))
    except RuntimeError as error:
        shapes = sorted({str(tuple(tensor.shape)) for tensor in tensors})
        raise UserError(
            f"{_describe_path(name)} has different shapes, such as {' and '.join(shapes[:2])}; "
            "override `collate`, for example to pad them"
        ) from error


def _describe_path(name: str) -> str:
    if name == "":
        return "a sample"
    return f"{name!r} of a sample"
