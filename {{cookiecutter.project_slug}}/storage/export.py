"""Export: a trained model as a file for other programs, verified by reading it again."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from storage.dynamic_axes import Axis, AxisGroup, find_axis_groups, run_model
from storage.example_inputs import BATCH, ModelInputs, ModelWrapper
from storage.export_description import (
    About,
    describe_axes,
    describe_fixed_axes,
    describe_inputs,
    describe_outputs,
    rename_outputs,
)
from storage.export_formats import write_onnx, write_pt2, write_safetensors
from storage.export_tracing import ConversionError, input_shapes, output_shapes, trace_model
from storage.export_verification import (
    VERIFIED_BATCH_SIZES,
    AxisMismatchError,
    compare,
    reject_axis,
    verify,
)
from utils.errors import UserError, describe_error, first_line
from utils.files import replacing
from utils.outputs import is_plain, named_outputs, to_plain


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        about: what the file contains about itself, as plain data.
        difference: the largest absolute difference between its outputs and the model's.
    """

    about: About
    difference: float


class PlainOutputs(ModelWrapper):
    """A model with dicts in the place of the dataclasses and named tuples that it returns.

    A program that loads the file does not have these classes.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The outputs of the model."""
        return to_plain(self.model(*args, **kwargs))


def export_weights(model: nn.Module, file: Path, about: Mapping[str, Any]) -> Exported:
    """Writes the weights of a model as safetensors, and compares the file with the model.

    Args:
        model: the model.
        file: the file, which exists only after it was verified.
        about: plain data that is included in the file as JSON.
    """
    check_weights_exist(model)
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        write_safetensors(model, temporary, about)
    return Exported(dict(about), 0.0)


def export_model(
    model: nn.Module, inputs: ModelInputs, file_format: str, file: Path, about: Mapping[str, Any]
) -> Exported:
    """Writes a model in evaluation mode as pt2 or onnx, and compares the file with the model.

    Args:
        model: the model; its parameters do not require gradients afterwards.
        inputs: its inputs for one sample, and the declared axes.
        file_format: pt2 or onnx.
        file: the file, which exists only after it was verified.
        about: plain data that is included in the file as JSON, with the inputs and outputs.

    Raises:
        UserError: if the model cannot be exported, or the file's outputs differ from the model's
            by more than rounding errors.
    """
    check_hooks(model)
    check_weights_exist(model)
    for parameter in model.parameters():  # a program that loads the file does not train
        parameter.requires_grad_(False)
    with _without_fast_path(), _reporting_errors(file_format):
        outputs = _check_model(model, inputs)
        traceable = model
        if not is_plain(outputs):
            traceable = PlainOutputs(model)
        groups, fixed = find_axis_groups(model, inputs)
        while True:
            try:
                return _export_once(traceable, inputs, groups, fixed, file_format, file, about)
            except AxisMismatchError as error:
                rejected = [error.group]
                reason = str(error)
            except ConversionError as error:
                if not groups or inputs.declares_axes:
                    raise
                rejected = groups
                reason = f"it cannot be exported as variable: {first_line(error)}"
            for group in rejected:
                fixed.update(dict.fromkeys(group.axes, reason))
            groups = [group for group in groups if group not in rejected]


@contextmanager
def _reporting_errors(file_format: str) -> Iterator[None]:
    """Reports an error of an exporter, such as one in writing an unusual tensor, in one line."""
    try:
        yield
    except (UserError, OSError):
        raise
    except Exception as error:  # the exporters may raise anything
        raise UserError(
            f"the model cannot be exported as {file_format}: {describe_error(error)}\n"
            "Return a part that can from the trainer's exported_model, or use "
            "another --format"
        ) from error


def check_weights_exist(model: nn.Module) -> None:
    """Raises a UserError for a parameter or buffer of a lazy layer that no batch has passed."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise UserError(
                f"{name} of the model has no shape yet: it is of a lazy "
                "layer that is not used; remove it, or use it in forward"
            )


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """Runs transformer layers as they are written; their fused kernel cannot be exported."""
    was_enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_enabled)


def check_hooks(model: nn.Module) -> None:
    """Raises a UserError if forward hooks are registered: exporters drop or freeze them.

    Those of torch itself, such as for weight normalisation, are part of the layer.
    """
    for name, module in model.named_modules():
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            owner = getattr(hook, "__module__", None) or ""
            if owner.partition(".")[0] == "torch":
                continue
            hook_name = getattr(hook, "__qualname__", type(hook).__qualname__)
            layer = name or type(model).__name__
            raise UserError(
                f"{layer} has the forward hook {hook_name}, which an exported file would not "
                "contain; compute this in forward, remove the hook in the trainer's "
                "exported_model, or export the weights alone: --format safetensors"
            )


def _check_model(model: nn.Module, inputs: ModelInputs) -> Any:
    """Raises a UserError unless the model runs on the inputs and its outputs are tensors."""
    try:
        outputs = run_model(model, inputs, VERIFIED_BATCH_SIZES[-1], {})
        again = run_model(model, inputs, VERIFIED_BATCH_SIZES[-1], {})
    except Exception as error:  # whatever the code of a model may raise
        names = ", ".join(inputs.tensors)
        raise UserError(
            f"the model fails on a batch of the example inputs ({names}): {describe_error(error)}; "
            "override the trainer's example_inputs"
        ) from error
    problem, _ = compare(named_outputs(outputs), named_outputs(again))
    if problem:
        raise UserError(
            "the model's outputs for the same inputs are random; return a part that is not from "
            "the trainer's exported_model, or make the random numbers an input"
        )
    return outputs


def _export_once(
    model: nn.Module,
    inputs: ModelInputs,
    groups: Sequence[AxisGroup],
    fixed: Mapping[Axis, str],
    file_format: str,
    file: Path,
    about: Mapping[str, Any],
) -> Exported:
    program = trace_model(model, inputs, groups, file_format)
    shapes, axis_names = input_shapes(program, inputs, groups)
    _check_traced_axes(inputs, groups, shapes)
    outputs = named_outputs(run_model(model, inputs, 1, {}))
    shapes_of_outputs = output_shapes(program, outputs, axis_names)
    complete: About = {
        **about,
        "inputs": describe_inputs(inputs, shapes),
        "outputs": describe_outputs(outputs, shapes_of_outputs),
        "axes": describe_axes(program, inputs, groups, shapes),
        "fixed_axes": describe_fixed_axes(inputs, groups, fixed),
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        if file_format == "pt2":
            predictor = write_pt2(program, inputs, temporary, complete)
        else:
            rename_outputs(complete, inputs)
            predictor = write_onnx(program, inputs, temporary, complete, axis_names)
        difference = verify(model, predictor, inputs, groups, file_format)
    return Exported(complete, difference)


def _check_traced_axes(
    inputs: ModelInputs, groups: Sequence[AxisGroup], shapes: Mapping[str, Sequence[int | str]]
) -> None:
    """Raises an error for an axis that torch.export has made fixed."""
    for name in inputs.tensors:
        axis = inputs.batch_axis(name)
        if axis is not None and isinstance(shapes[name][axis], int):
            raise UserError(
                f"the axis {BATCH!r} of {name} cannot be exported as dynamic: torch.export fixes "
                f"it; use {name}.shape[{axis}] in forward, without int() or Python loops over it"
            )
    for group in groups:
        for name, axis in group.axes:
            if isinstance(shapes[name][axis], int):
                reject_axis(group, "torch.export fixes it, as in Python loops over an axis")
