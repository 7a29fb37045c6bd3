"""Exports a trained model as one file for other programs."""

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from storage.run_folder import PROJECT, find_checkpoints, run_folder_of
from utils.command import CommandParser, next_command, run_command
from utils.errors import USER_CODE_ERRORS, UserError, describe_error
from utils.files import replace_file
from utils.imports import fast_imports
from utils.paths import path_argument
from utils.signals import exiting_on_signals

if TYPE_CHECKING:
    from torch import nn

    from base.base_trainer import BaseTrainer

FORMATS = ("pt2", "onnx", "safetensors")
# The CPU computes in float32, which all runtimes agree on; nothing is trained.
OVERRIDES = ("device=cpu", "trainer.precision=fp32", "trainer.strategy=auto")


def main() -> None:
    """Prints the file, how much its outputs differ from the model's, and its inputs."""
    parser = CommandParser(description="Exports a trained model as one file for other programs.")
    parser.add_argument(
        "run", type=path_argument, metavar="RUN", help="run folder, checkpoint file, or last"
    )
    parser.add_argument(
        "--format", choices=FORMATS, help="default: that of the file name, or else pt2"
    )
    parser.add_argument(
        "--output",
        type=path_argument,
        metavar="FILE",
        help="default: export/model.* in the run folder",
    )
    arguments = parser.parse_args()
    file_format = select_format(arguments.format, arguments.output)

    # These import torch, which takes 1.3 s: not needed for --help.
    with fast_imports():
        from builders import restore_trainer
        from storage.checkpoint_file import load_first_usable
        from storage.example_inputs import resolve_inputs
        from storage.export import export_model, export_weights
        from storage.export_description import declared_shapes, describe_inputs

    checkpoint, state = load_first_usable(find_checkpoints(arguments.run))
    trainer, _ = restore_trainer([checkpoint], None, OVERRIDES)
    about = describe_run(trainer, state)
    export_folder = run_folder_of(checkpoint) / "export"
    file = arguments.output or export_folder / f"model.{file_format}"
    model = exported_model(trainer)
    source = f"{type(trainer).__name__}.example_inputs"
    if file_format == "safetensors":
        if state.get("example_inputs") is not None:
            inputs = resolve_inputs(state["example_inputs"], model, source)
            about["inputs"] = describe_inputs(inputs, declared_shapes(inputs))
        with exiting_on_signals():
            exported = export_weights(model, file, about)
        compared = "weights"
    else:
        saved = find_example_inputs(trainer, checkpoint, state)
        inputs = resolve_inputs(saved, model, source)
        with exiting_on_signals():
            exported = export_model(model, inputs, file_format, file, about)
        compared = "outputs"
    if file.parent == export_folder:
        text = json.dumps(exported.about, indent=2, ensure_ascii=False) + "\n"
        replace_file(export_folder / "about.json", text.encode())
    difference = f"{compared} within {exported.difference:.1e} of the model's"
    print(f"{file}: {difference}; trained on {state['data']['title']}")
    print_axes(exported.about)
    if not (run_folder_of(checkpoint) / "evaluation").exists():
        print(f"evaluate: {next_command('evaluate.py', arguments.run)}")


def select_format(file_format: str | None, output: Path | None) -> str:
    """The format that the command line states, or that the name of the output file implies.

    Raises:
        UserError: if the name implies none, or another one.
    """
    if output is None:
        return file_format or FORMATS[0]
    implied = output.suffix.removeprefix(".")
    if file_format is None and implied not in FORMATS:
        endings = ", .".join(FORMATS)
        raise UserError(f"--output {output}: the name must end with one of .{endings}")
    if file_format is not None and implied != file_format:
        raise UserError(
            f"--format {file_format} contradicts --output {output}: the name must end with "
            f".{file_format}"
        )
    return implied


def describe_run(trainer: "BaseTrainer", state: dict[str, Any]) -> dict[str, Any]:
    """What a file says about the run: settings, data, and how an input becomes a tensor."""
    from storage.export_description import without_local_paths

    return {
        "settings": without_local_paths(state["settings"], PROJECT),
        "data": state["data"],
        "step": state["progress"]["step"],
        "preparation": trainer.dataset.describe_input(),
    }


def exported_model(trainer: "BaseTrainer") -> "nn.Module":
    """The module that the trainer exports, in evaluation mode."""
    from torch import nn

    name = f"{type(trainer).__name__}.exported_model"
    try:
        model: Any = trainer.exported_model(trainer.model.eval())
    except USER_CODE_ERRORS as error:
        raise UserError(f"{name}: {describe_error(error)}") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"{name} must return an nn.Module, not {type(model).__name__}")
    return model.eval()


def find_example_inputs(
    trainer: "BaseTrainer", checkpoint: Path, state: dict[str, Any]
) -> dict[str, Any]:
    """The example inputs in the checkpoint.

    If the trainer did not define them when it was saved, they are made from a training sample.

    Raises:
        UserError: if the trainer does not define them.
    """
    from base.base_trainer import BaseTrainer
    from builders import restore_trainer

    saved: dict[str, Any] | None = state.get("example_inputs")
    is_defined_now = type(trainer).example_inputs is not BaseTrainer.example_inputs
    if saved is None and (is_defined_now or "example_inputs" not in state):
        trainer_with_data, _ = restore_trainer([checkpoint], "train", OVERRIDES)
        saved = trainer_with_data.saved_example_inputs
    if saved is None:
        raise UserError(
            f"{type(trainer).__name__} does not define example_inputs(batch), and its batches have "
            "no tensor `input`: return the arguments of the model's forward from it, or use "
            "--format safetensors"
        )
    return saved


def print_axes(about: dict[str, Any]) -> None:
    """Prints the shape of each input, and why an axis is fixed if the model is more flexible."""
    for entry in about.get("inputs", []):
        shape = ", ".join(map(str, entry["shape"]))
        print(f"  input {entry['name']}: {entry['dtype']} ({shape})")
    for name, axis in about.get("axes", {}).items():
        line = f"  axis {name}: variable"
        # Not every size within these limits needs to work.
        if "min" in axis:
            line += f", but not below {axis['min']}"
        if "max" in axis:
            line += f", but not above {axis['max']}"
        print(f"{line}; verified with {', '.join(map(str, axis['verified_sizes']))}")
    for entry in about.get("fixed_axes", []):
        where = f"axis {entry['axis']} of {entry['input']}"
        print(f"  {where}: fixed at {entry['size']}; {entry['reason']}")


if __name__ == "__main__":
    run_command(main)
