"""The file formats of exports: how each is written, and read again to verify it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.export import ExportedProgram

from storage.example_inputs import ModelInputs
from storage.export_tracing import ConversionError, quiet
from utils.errors import UserError
from utils.outputs import named_outputs

MAX_ONNX_BYTES = 2**31 - 2**20  # of a Protocol Buffers file, with some room for the graph
MAX_REASON_CHARACTERS = 300
ADVICE_FOR_WEIGHTS = "return a part without it from the trainer's exported_model"

# From the inputs by name to the outputs by name.
Predictor = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def write_pt2(
    program: ExportedProgram, inputs: ModelInputs, file: Path, about: Mapping[str, Any]
) -> Predictor:
    """Architecture and weights; the file does not need the project's code."""
    with quiet(), file.open("wb") as stream:  # given a path, torch requires the suffix .pt2
        torch.export.save(program, stream, extra_files={"about.json": json.dumps(about)})
    with quiet(), file.open("rb") as written:
        module = torch.export.load(written).module()

    def predict(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        positional, keywords = inputs.arguments(tensors)
        return named_outputs(module(*positional, **keywords))

    return predict


def write_onnx(
    program: ExportedProgram,
    inputs: ModelInputs,
    file: Path,
    about: Mapping[str, Any],
    axis_names: Mapping[str, str],
) -> Predictor:
    """Architecture and weights, for other runtimes.

    Raises:
        ConversionError: if an operator has no equivalent in ONNX.
        UserError: if a package is missing, or the file would be too large.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx requires it
    except ImportError as error:
        raise UserError(
            f"--format onnx requires the package {error.name}; pip install -e '.[onnx]'"
        ) from error
    byte_counts = {}  # by address, because tied weights are stored once
    for value in program.state_dict.values():
        byte_counts[value.data_ptr()] = value.nbytes
    if sum(byte_counts.values()) > MAX_ONNX_BYTES:
        raise UserError("an ONNX file holds at most 2 GB; use --format pt2 for this model")
    output_names = [output["name"] for output in about["outputs"]]
    try:
        with quiet():
            exported: Any = torch.onnx.export(
                program, verbose=False, input_names=[*inputs.tensors], output_names=output_names
            )
    except Exception as error:  # the exporter may raise anything
        raise ConversionError(
            f"the model cannot be exported as onnx: {_first_cause(error)}\nUse operators that ONNX "
            "has, return a part that does from the trainer's exported_model, or use --format pt2"
        ) from error
    exported.rename_axes(dict(axis_names))
    _name_output_axes(exported.model.graph.outputs)
    exported.model.metadata_props["about"] = json.dumps(about)
    exported.save(file)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # its errors are raised as well
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def predict(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
        outputs = session.run(output_names, arrays)
        return dict(zip(output_names, map(torch.from_numpy, outputs), strict=True))

    return predict


def _name_output_axes(outputs: Any) -> None:
    """Names the axes of outputs whose size is computed, as in ``2*length``, by words as well."""
    for output in outputs:
        for axis, size in enumerate(output.shape):
            if isinstance(size, int):
                continue
            if size.value is None or not size.value.isidentifier():
                output.shape[axis] = f"{output.name}_axis_{axis}"


def _first_cause(error: BaseException) -> str:
    """The message of the error that caused an error; the exporter's own says what to report."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split())[:MAX_REASON_CHARACTERS]


def write_safetensors(model: nn.Module, file: Path, about: Mapping[str, Any]) -> None:
    """The weights alone; to use them, a program needs the class of the model.

    Tied weights are stored under each of their names, as `load_state_dict` expects.

    Raises:
        UserError: if the state has more than dense tensors, or the file differs from it.
    """
    weights: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            kind = type(value).__name__
            if isinstance(value, Tensor):
                kind = str(value.layout).removeprefix("torch.")
            raise UserError(
                "safetensors files contain dense tensors only, but "
                f"{name} of the model is {kind}; {ADVICE_FOR_WEIGHTS}"
            )
        weights[name] = value.detach().clone(memory_format=torch.contiguous_format)
    file.write_bytes(_as_safetensors(weights, {"about": json.dumps(about)}))
    stored = load_file(file)
    for name, value in weights.items():
        is_equal = name in stored and torch.equal(_bytes_of(value), _bytes_of(stored[name]))
        if not is_equal:
            raise UserError(f"{name} in the safetensors file differs from the model's")


def _as_safetensors(weights: Mapping[str, Tensor], metadata: dict[str, str]) -> bytes:
    """The content of a safetensors file.

    Raises:
        UserError: that names a tensor with a dtype that the format does not have.
    """
    for name, value in weights.items():
        try:
            save({name: value[..., :0] if value.ndim else value})
        except Exception as error:  # a KeyError for most of them
            dtype = str(value.dtype).removeprefix("torch.")
            raise UserError(
                f"safetensors files cannot contain {name} of the model, "
                f"which is {dtype} on {value.device}; {ADVICE_FOR_WEIGHTS}"
            ) from error
    return save(dict(weights), metadata)


def _bytes_of(tensor: Tensor) -> Tensor:
    """The memory of a tensor, uint8, shape (bytes,); it also compares NaN."""
    return tensor.reshape(-1).view(torch.uint8)
