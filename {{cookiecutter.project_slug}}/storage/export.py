"""Trained models as files for other programs; each writer gives back what it reads again."""

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

SHAPES = {"input": {0: torch.export.Dim.DYNAMIC}}
Reloaded = Callable[[Tensor], Tensor]


def export_model(
    model: nn.Module, example: Tensor, kind: str, file: Path, about: Mapping[str, Any]
) -> float:
    """Writes `model`, in evaluation mode, as `file`, and checks what the file computes.

    Args:
        model: takes inputs like `example`, of any batch size.
        example: one input, shape (1, ...).
        kind: pt2, onnx or safetensors.
        file: gets its name when it is whole and right, not before.
        about: plain data that is kept in the file as JSON.

    Returns:
        The largest absolute difference of the file's outputs from the model's.

    Raises:
        UserError: if the difference is more than rounding, or a package is missing.
    """
    batch = torch.cat([example.roll(k, -1) for k in range(5)])
    batch = torch.randn_like(batch) if batch.is_floating_point() else batch
    file.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns where torchvision is not
    with replacing(file) as temporary:
        with warnings.catch_warnings(action="ignore"):  # of the exporters, about themselves
            reloaded = WRITERS[kind](model, batch, temporary, json.dumps(about))
        with torch.inference_mode():
            pairs = [(model(batch[:n]), reloaded(batch[:n])) for n in (1, 2, 5)]
        worst = max(float((wanted - found).abs().max()) for wanted, found in pairs)
        if not all(torch.allclose(*pair, rtol=1e-3, atol=1e-4) for pair in pairs):
            raise UserError(f"as {kind} the model computes something else (off by {worst:.1e})")
    return worst


def _write_pt2(model: nn.Module, batch: Tensor, file: Path, about: str) -> Reloaded:
    """Architecture and weights; loads without the project's code."""
    program = torch.export.export(model, (batch,), dynamic_shapes=SHAPES)
    program.example_inputs = None  # they would be pickled
    with file.open("wb") as stream:  # by name, it would insist on the suffix
        torch.export.save(program, stream, extra_files={"about.json": about})
    with file.open("rb") as stream:
        return torch.export.load(stream).module()


def _write_onnx(model: nn.Module, batch: Tensor, file: Path, about: str) -> Reloaded:
    """Architecture and weights, for other runtimes."""
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  torch.onnx needs it
    except ImportError as error:
        raise UserError(f"{error.name} is missing; pip install -e '.[onnx]' brings it") from error
    names: Any = {"input_names": ["input"], "output_names": ["output"]}
    program: Any = torch.onnx.export(model, (batch,), dynamic_shapes=SHAPES, verbose=False, **names)
    program.model.metadata_props["about"] = about
    program.save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {"input": inputs.numpy()})[0])


def _write_safetensors(model: nn.Module, _: Tensor, file: Path, about: str) -> Reloaded:
    """The weights alone; using them takes the network's class."""
    weights = {name: value.contiguous() for name, value in model.state_dict().items()}
    save_file(weights, file, metadata={"about": about})
    return lambda inputs: functional_call(model, load_file(file), (inputs,))


WRITERS = {"pt2": _write_pt2, "onnx": _write_onnx, "safetensors": _write_safetensors}
