"""Tracing of a model with torch.export, and the shapes in the traced program."""

import io
import logging
import re
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from storage.dynamic_axes import AxisGroup, make_tensors
from storage.example_inputs import BATCH, ModelInputs
from utils.errors import UserError, describe_error

TRACED_BATCH_SIZE = 5  # torch.export takes an axis of size 0 or 1 as fixed

Shape = list[int | str]


class ConversionError(UserError):
    """An exporter cannot convert the model, at least not with these variable axes."""


def trace_model(
    model: nn.Module, inputs: ModelInputs, groups: Sequence[AxisGroup], file_format: str
) -> ExportedProgram:
    """Traces a model, with the batch size and the sizes of the axis groups as variables.

    Raises:
        ConversionError: if the model cannot be traced, with its line that cannot and what to do.
    """
    sizes: dict[tuple[str, int], int] = {}
    dynamic: dict[str, dict[int, Any]] = {name: {} for name in inputs.tensors}
    for name in inputs.tensors:
        batch_axis = inputs.batch_axis(name)
        if batch_axis is not None:
            dynamic[name][batch_axis] = Dim.AUTO
    for group in groups:
        sizes |= group.sizes(group.traced_size)
        for name, axis in group.axes:
            dynamic[name][axis] = Dim.AUTO
    tensors = make_tensors(inputs, TRACED_BATCH_SIZE, sizes)
    positional, keywords = inputs.arguments(tensors)
    positional_shapes, keyword_shapes = inputs.arguments(dynamic)
    # torch.export expects the shapes by parameter of `forward`.
    shapes = signature(model.forward).bind(*positional_shapes, **keyword_shapes).arguments
    expected = sum(map(len, dynamic.values()))
    options: Any = {"args": positional, "kwargs": keywords, "dynamic_shapes": shapes}
    with quiet(), torch.no_grad(), _recurrent_layers_of_any_length(bool(groups)):
        try:
            program = torch.export.export(model, **options)
        except Exception as error:  # the exporter, and the code of a model, may raise anything
            raise ConversionError(_tracing_problem(error, file_format)) from error
        found = _count_dynamic_axes(program, inputs)
        if found < expected:
            # It reads the code instead of running it, which keeps the size in `len(input)`.
            with suppress(Exception):  # the first program is the result then
                strict_program = torch.export.export(model, **options, strict=True)
                if _count_dynamic_axes(strict_program, inputs) > found:
                    program = strict_program
    program.example_inputs = None  # they would be stored as a pickle
    for module in program.graph_module.modules():
        for node in getattr(module, "graph", torch.fx.Graph()).nodes:
            node.meta.pop("stack_trace", None)  # contains paths of this machine
    return program


@contextmanager
def _recurrent_layers_of_any_length(is_needed: bool) -> Iterator[None]:
    """Traces LSTM and GRU layers as loops; unrolled, they would take only the traced length."""
    if not is_needed:
        yield
        return
    # Documented in its docstrings, but not yet a public module (torch 2.15).
    from torch.export import _patches as patches

    with (
        patches.register_lstm_while_loop_decomposition(),
        patches.register_gru_while_loop_decomposition(),
    ):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Suppresses what the exporters print about themselves: warnings, logs, and whole graphs."""
    previous_level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            warnings.catch_warnings(action="ignore"),
            redirect_stdout(io.StringIO()),
            redirect_stderr(io.StringIO()),
        ):
            yield
    finally:
        logging.disable(previous_level)


def _tracing_problem(error: Exception, file_format: str) -> str:
    problem = f"the model cannot be exported as {file_format}"
    text = str(error).lower()
    if "data-dependent" in text or "data dependent" in text:
        place = re.search(r"\(([^()]*, line \d+)\)$", describe_error(error))
        where = ""
        if place:
            where = f" ({place[1]})"
        return (
            f"{problem}: its control flow depends on the values of tensors{where}\n"
            "Use torch.where or torch.cond there, return a part without it from the trainer's "
            "exported_model, or export the weights alone: --format safetensors"
        )
    return (
        f"{problem}: {describe_error(error)}\nUse operations of torch alone, return a part that "
        "does from the trainer's exported_model, or export the weights alone: --format safetensors"
    )


# Shapes


def input_shapes(
    program: ExportedProgram, inputs: ModelInputs, groups: Sequence[AxisGroup]
) -> tuple[dict[str, Shape], dict[str, str]]:
    """The shape of each input, with the names of its axes in the place of variable sizes.

    Returns:
        The shapes by input, and the names by symbol of torch.
    """
    names: dict[str, str] = {}
    fake_tensors = _fake_inputs(program, inputs)
    for name, tensor in fake_tensors.items():
        batch_axis = inputs.batch_axis(name)
        if batch_axis is not None:
            names[str(tensor.shape[batch_axis])] = BATCH
    for group in groups:
        for name, axis in group.axes:
            names.setdefault(str(fake_tensors[name].shape[axis]), group.name)
    shapes = {name: named_shape(tensor, names) for name, tensor in fake_tensors.items()}
    return shapes, names


def output_shapes(
    program: ExportedProgram, output_names: Iterable[str], axis_names: dict[str, str]
) -> list[Shape]:
    """The shape of each output, in order, like those of the inputs.

    Args:
        program: the traced model.
        output_names: the names of the outputs.
        axis_names: names by symbol; those of sizes that depend on values are added.
    """
    shapes = []
    fake_tensors = _fake_tensors(program, program.graph_signature.user_outputs)
    for name, tensor in zip(output_names, fake_tensors, strict=True):
        for axis, size in enumerate(tensor.shape):
            if str(size).isidentifier():
                axis_names.setdefault(str(size), f"{name}_axis_{axis}")
        shapes.append(named_shape(tensor, axis_names))
    return shapes


def named_shape(tensor: Tensor, names: Mapping[str, str]) -> Shape:
    """A shape with the names of axes in the place of torch's symbols, as in ``2*length``."""
    shape: Shape = []
    for size in tensor.shape:
        text = str(size)
        if text.isdigit():  # also a symbol that torch has replaced by a number
            shape.append(int(text))
        else:
            shape.append(re.sub(r"[A-Za-z_]\w*", lambda word: names.get(word[0], word[0]), text))
    return shape


def size_limits(program: ExportedProgram, inputs: ModelInputs, axis: tuple[str, int]) -> Any:
    """The smallest and the largest size of an axis that the program takes, where it has limits."""
    name, position = axis
    size: Any = _fake_inputs(program, inputs)[name].shape[position]
    limits: dict[str, int] = {}
    for symbol, values in program.range_constraints.items():
        if str(symbol) != str(size):
            continue
        if values.lower > 2:  # torch assumes 2 where there is no limit
            limits["min"] = int(values.lower)
        if values.upper < 2**31:
            limits["max"] = int(values.upper)
    return limits


def _count_dynamic_axes(program: ExportedProgram, inputs: ModelInputs) -> int:
    count = 0
    for tensor in _fake_inputs(program, inputs).values():
        for size in named_shape(tensor, {}):
            if isinstance(size, str):
                count += 1
    return count


def _fake_inputs(program: ExportedProgram, inputs: ModelInputs) -> dict[str, Tensor]:
    fake_tensors = _fake_tensors(program, program.graph_signature.user_inputs)
    return dict(zip(inputs.tensors, fake_tensors, strict=True))


def _fake_tensors(program: ExportedProgram, nodes: Sequence[Any]) -> list[Tensor]:
    """The tensors, without data but with symbols in their shapes, that nodes of the graph have."""
    by_node = {node.name: node.meta.get("val") for node in program.graph.nodes}
    return [by_node[str(node)] for node in nodes]
