"""Weights of any origin: runs and exports of this project, files of torch.save, safetensors.

Only tensors are read. Code in a file is never run.
"""

import dataclasses
import json
import pickle
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import EnumType
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from storage.checkpoint_file import load_checkpoint, load_first_usable
from storage.run_folder import find_checkpoints
from storage.state import evaluation_weights
from utils.errors import UserError, first_line

INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
DISTRIBUTED_METADATA = ".metadata"  # of a folder that torch.distributed.checkpoint has written
# Where other programs keep the weights in a file, in the order in which they are looked for.
WRAPPING_KEYS = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "network",
    "weights",
    "params",
    "ema",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
)
# Parts of names that wrappers such as DDP and torch.compile add.
WRAPPER_NAMES = {"module", "_orig_mod", "_fsdp_wrapped_module"}
TORCH_FILES = (b"PK\x03\x04", b"\x80")  # an archive, or a pickle of earlier versions of torch
MAX_FIRST_BYTES = 20
METADATA_TYPES = {  # that a description of tensors may contain
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("collections", "OrderedDict"),
}
MAX_LISTED_NAMES = 5
MAX_PREFIXES = 10  # a prefix is that of at least a tenth of all names
ACCEPTED = (
    "allowed are files of torch.save with tensors alone, .safetensors (export.py --format "
    "safetensors writes such a file), and runs and checkpoints of this project"
)


@dataclass(frozen=True)
class WeightsMatch:
    """Which weights of a file fit a model.

    Attributes:
        fitting: the tensors by their names in the model.
        missing: names in the model that the file does not have.
        other_shapes: names in the model, with the shapes in the file and in the model.
        unused: names in the file that the model does not have.
    """

    fitting: dict[str, Tensor]
    missing: list[str]
    other_shapes: list[str]
    unused: list[str]

    def describe(self) -> str:
        """Two lines: how many tensors fit, and what does not."""
        total = len(self.fitting) + len(self.missing) + len(self.other_shapes)
        return (
            f"{len(self.fitting)} of the model's {total} tensors are set\n"
            f"missing in the file: {_listed(self.missing)}; other shape: "
            f"{_listed(self.other_shapes)}; left over in the file: {_listed(self.unused)}"
        )


def read_weights(source: Path) -> dict[str, Tensor]:
    """The weights in a file or folder, on the CPU, by name.

    Args:
        source: a run folder or checkpoint of this project; a file of safetensors or torch.save; the
            index of several such files; a folder that contains one of these; or a folder of
            torch.distributed.checkpoint.

    Raises:
        UserError: if there are no weights, or they cannot be read without running code.
    """
    if not source.exists() and str(source) != "last":
        raise UserError(f"{source} does not exist")
    try:
        if source.is_file():
            return _read_file(source)
        for name in (*INDEX_FILES, *WEIGHTS_FILES):
            if (source / name).is_file():
                return _read_file(source / name)
        if (source / DISTRIBUTED_METADATA).is_file():
            return _read_distributed(source)
        _, state = load_first_usable(find_checkpoints(source))
        return evaluation_weights(state)
    except UserError:
        raise
    except Exception as error:  # whatever a malicious file may cause
        reason = first_line(error)
        raise UserError(f"{source} has no usable weights: {reason}; {ACCEPTED}") from error


def _read_file(file: Path) -> dict[str, Tensor]:
    if file.name.endswith(".index.json"):
        return _read_index(file)
    if file.suffix == ".safetensors":
        from safetensors.torch import load_file

        return dict(load_file(file))
    if file.suffix in (".pt2", ".onnx"):
        raise UserError(f"{file} is an exported program, and not a file of weights; {ACCEPTED}")
    _check_first_bytes(file)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about the protocol of other files
            content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:  # torch's message advises to run the code in it
        raise UserError(
            f"{file} is not a usable checkpoint: it contains more than plain data, and reading it "
            f"would run code; {ACCEPTED}"
        ) from error
    if isinstance(content, Mapping) and "format" in content and "progress" in content:
        return evaluation_weights(load_checkpoint(file))  # one of this project is verified
    weights = _find_tensors(content)
    if not weights:
        problem = "it contains no tensors by name"
        if isinstance(content, Mapping) and content:
            keys = _listed([str(key) for key in content])
            problem = f"none of its keys ({keys}) alone has tensors by name"
        raise UserError(f"{file} has no usable weights: {problem}; {ACCEPTED}")
    return weights


def _check_first_bytes(file: Path) -> None:
    """Raises a UserError for a text or another file that torch.save has not written."""
    with file.open("rb") as stream:
        start = stream.read(MAX_FIRST_BYTES)
    if not start.startswith(TORCH_FILES):
        raise UserError(
            f"{file} has no usable weights: torch.save has not written it, it starts with "
            f"{start!r}; {ACCEPTED}"
        )


def _read_index(file: Path) -> dict[str, Tensor]:
    """The weights of several files, which an index assigns to them."""
    weight_map = json.loads(file.read_bytes())["weight_map"]
    weights: dict[str, Tensor] = {}
    for name in sorted(set(weight_map.values())):
        part = file.parent / Path(name).name
        if not part.is_file():
            raise UserError(f"{file}: its file {part} is missing")
        weights |= _read_file(part)
    return weights


def _find_tensors(content: Any) -> dict[str, Tensor]:
    """The first state dict in the content of a file; empty if there is none.

    It is under one of the usual keys, or else under the only key that has tensors.
    """
    if not isinstance(content, Mapping):
        return {}
    inner = {}
    for key, value in content.items():
        found = _find_tensors(value)
        if found:
            inner[key] = found
    for key in WRAPPING_KEYS:
        if key in inner:
            return inner[key]
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors and len(inner) == 1:
        (tensors,) = inner.values()
    return tensors


class _MetadataUnpickler(pickle.Unpickler):
    """Reads the description of tensors that torch.distributed.checkpoint has written.

    Allowed are its own data classes and what these consist of.
    """

    def find_class(self, module: str, name: str) -> Any:
        if "." not in name:  # a dotted name might lead to another module
            found = super().find_class(module, name)
            if (module, name) in METADATA_TYPES or isinstance(found, torch.dtype):
                return found
            is_data = dataclasses.is_dataclass(found) or isinstance(found, EnumType)
            if is_data and module.startswith("torch.distributed.checkpoint."):
                return found
        raise pickle.UnpicklingError(f"it contains {module}.{name}")


def _read_distributed(folder: Path) -> dict[str, Tensor]:
    """The weights in a folder of torch.distributed.checkpoint."""
    from torch.distributed.checkpoint.filesystem import FileSystemReader
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata
    from torch.distributed.checkpoint.state_dict_loader import load

    with (folder / DISTRIBUTED_METADATA).open("rb") as file:
        # torch reads the same file without restrictions.
        metadata = _MetadataUnpickler(file).load()
    weights: dict[str, Tensor] = {}
    for name, entry in metadata.state_dict_metadata.items():
        if isinstance(entry, TensorStorageMetadata):
            weights[name] = torch.empty(entry.size, dtype=entry.properties.dtype)
    load(weights, storage_reader=FileSystemReader(folder), no_dist=True)
    return _without_wrapping_key(weights)


def _without_wrapping_key(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of the model alone, if names have the form ``model.NAME``, ``optimizer.NAME``."""
    for key in WRAPPING_KEYS:
        prefix = f"{key}."
        selected = {}
        for name, value in weights.items():
            if name.startswith(prefix):
                selected[name.removeprefix(prefix)] = value
        if selected:
            return selected
    return dict(weights)


def match_weights(current: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> WeightsMatch:
    """Assigns the weights of a file to those of a model.

    Names are compared without what wrappers add. A prefix of many names in the file or in the
    model, such as ``model.``, is left out if more tensors fit then.

    Args:
        current: the `state_dict` of the model.
        weights: the weights in the file.
    """
    model_names = _tensors_by_plain_name(current)
    file_names = _tensors_by_plain_name(weights)
    renamings = _renamings(list(file_names), list(model_names))
    renaming = renamings[0]
    fitting: dict[str, Tensor] = {}
    for candidate in renamings:
        candidate_fitting = {}
        for plain_name, target in candidate.items():
            value = weights[file_names[plain_name]]
            if target in model_names and _fits(value, current[model_names[target]]):
                candidate_fitting[model_names[target]] = value
        if len(candidate_fitting) > len(fitting):
            renaming = candidate
            fitting = candidate_fitting
    sources = {target: file_names[plain_name] for plain_name, target in renaming.items()}
    missing = []
    other_shapes = []
    for target, name in model_names.items():
        if target not in sources:
            missing.append(name)
        elif name not in fitting:
            form = _form(weights[sources[target]])
            other_shapes.append(f"{name} {form}, not {_form(current[name])}")
    unused = [file_names[name] for name, target in renaming.items() if target not in model_names]
    return WeightsMatch(fitting, missing, other_shapes, unused)


def _tensors_by_plain_name(weights: Mapping[str, Any]) -> dict[str, str]:
    """The names of the tensors; a layer may save something else, by `get_extra_state`."""
    names = {}
    for name, value in weights.items():
        if isinstance(value, Tensor):
            names[_plain_name(name)] = name
    return names


def _plain_name(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPER_NAMES)


def _renamings(file_names: Sequence[str], model_names: Sequence[str]) -> list[dict[str, str]]:
    """Possible names in the model of those in the file: the same, without a prefix, with one."""
    renamings = [{name: name for name in file_names}]
    for prefix in _prefixes(file_names):
        renamings.append({name: name.removeprefix(prefix) for name in file_names})
    for prefix in _prefixes(model_names):
        renamings.append({name: f"{prefix}{name}" for name in file_names})
    return renamings


def _prefixes(names: Sequence[str]) -> list[str]:
    """The beginnings of names up to a dot, the shortest first, without those of few names."""
    counts: dict[str, int] = {}
    for name in names:
        parts = name.split(".")
        for length in range(1, len(parts)):
            prefix = ".".join(parts[:length]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    common = [prefix for prefix, count in counts.items() if count * MAX_PREFIXES >= len(names)]
    return sorted(common, key=len)


def _fits(value: Tensor, current: Tensor) -> bool:
    """Whether a copy has all the information: integers are no weights, for example."""
    same_kind = (
        value.is_floating_point() == current.is_floating_point()
        and value.is_complex() == current.is_complex()
    )
    return same_kind and value.shape == current.shape


def _form(tensor: Tensor) -> str:
    dtype = str(tensor.dtype).removeprefix("torch.")
    return f"{dtype} {tuple(tensor.shape)}"


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    text = ", ".join(names[:MAX_LISTED_NAMES])
    if len(names) > MAX_LISTED_NAMES:
        text += f", and {len(names) - MAX_LISTED_NAMES} more"
    return text
