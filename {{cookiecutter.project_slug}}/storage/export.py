"""Export: a trained model as a file for other programs, verified by reading it again."""

import json
import logging
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.func import functional_call

from utils.errors import UserError
from utils.files import replacing

DYNAMIC_BATCH_SIZE = {"input": {0: torch.export.Dim.DYNAMIC}}
EXPORTED_BATCH_SIZE = 5
VERIFIED_BATCH_SIZES = (1, 2, 5)
RELATIVE_TOLERANCE = 1e-3
ABSOLUTE_TOLERANCE = 1e-4

Predictor = Callable[[Tensor], Tensor]


def export_model(
    model: nn.Module, example: Tensor, file_format: str, file: Path, about: Mapping[str, Any]
) -> float:
    """Writes a model in evaluation mode, and compares the file's outputs with the model's.

    Args:
        model: takes inputs like `example`, with any batch size.
        example: one input, shape (1, ...).
        file_format: pt2, onnx or safetensors.
        file: the file, which exists only after it was verified.
        about: plain data that is included in the file as JSON.

    Returns:
        The largest absolute difference between the outputs.

    Raises:
        UserError: if the outputs differ by more than rounding errors, or a package is missing.
    """
    batch = _make_batch(example)
    file.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns if torchvision is missing
    with replacing(file) as temporary:
        with warnings.catch_warnings(action="ignore"):  # the exporters warn about themselves
            predictor = WRITERS[file_format](model, batch, temporary, json.dumps(about))
        return _verify(model, predictor, batch, file_format)


def _make_batch(example: Tensor) -> Tensor:
    """A batch of inputs that differ from each other."""
    batch = torch.cat([example.roll(shift, -1) for shift in range(EXPORTED_BATCH_SIZE)])
    if batch.is_floating_point():
        return torch.randn_like(batch)
    return batch


@torch.inference_mode()
def _verify(model: nn.Module, predictor: Predictor, batch: Tensor, file_format: str) -> float:
    largest_difference = 0.0
    for size in VERIFIED_BATCH_SIZES:
        expected = model(batch[:size])
        found = predictor(batch[:size])
        difference = float((expected - found).abs().max())
        largest_difference = max(largest_difference, difference)
        if not torch.allclose(expected, found, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE):
            raise UserError(
                f"the model exported as {file_format} computes other outputs than the model "
                f"itself: they differ by up to {difference:.1e}"
            )
    return largest_difference


def _write_pt2(model: nn.Module, batch: Tensor, file: Path, about: str) -> Predictor:
    """Architecture and weights; the file does not need the project's code."""
    program = torch.export.export(model, (batch,), dynamic_shapes=DYNAMIC_BATCH_SIZE)
    program.example_inputs = None  # they would be stored as a pickle
    with file.open("wb") as stream:  # given a path, torch requires the suffix .pt2
        torch.export.save(program, stream, extra_files={"about.json": about})
    with file.open("rb") as stream:
        return torch.export.load(stream).module()


def _write_onnx(model: nn.Module, batch: Tensor, file: Path, about: str) -> Predictor:
    """Architecture and weights, for other runtimes."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx requires it
    except ImportError as error:
        raise UserError(
            f"--format onnx requires the package {error.name}; pip install -e '.[onnx]'"
        ) from error
    names: Any = {"input_names": ["input"], "output_names": ["output"]}
    program: Any = torch.onnx.export(
        model, (batch,), dynamic_shapes=DYNAMIC_BATCH_SIZE, verbose=False, **names
    )
    program.model.metadata_props["about"] = about
    program.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def predict(inputs: Tensor) -> Tensor:
        (outputs,) = session.run(None, {"input": inputs.numpy()})
        return torch.from_numpy(outputs)

    return predict


def _write_safetensors(model: nn.Module, _: Tensor, file: Path, about: str) -> Predictor:
    """The weights alone; to use them, a program needs the class of the model."""
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, file, metadata={"about": about})

    def predict(inputs: Tensor) -> Tensor:
        outputs: Tensor = functional_call(model, load_file(file), (inputs,))
        return outputs

    return predict


WRITERS = {"pt2": _write_pt2, "onnx": _write_onnx, "safetensors": _write_safetensors}
