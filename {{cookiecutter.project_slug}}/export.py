"""Writes a trained model as one file that other programs can load."""

from pathlib import Path

from config.help import command_parser
from config.loading import load_settings
from storage.run_folder import find_checkpoints, run_folder_of
from utils.errors import UserError, run_command
from utils.imports import importing


def main() -> None:
    """Prints where the file is and how well its outputs agree with the model's."""
    parser = command_parser("Writes a trained model as one file that other programs can load.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, checkpoint or last")
    parser.add_argument("--format", choices=("pt2", "onnx", "safetensors"), default="pt2")
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: in the run folder")
    arguments = parser.parse_args()
    if arguments.output and arguments.output.suffix != f".{arguments.format}":
        raise UserError(f"--output {arguments.output}: must end with .{arguments.format}")

    with importing():
        from builders import build_model, restore_dataset
        from storage.checkpoint_file import load_first_usable
        from storage.export import export_model

    checkpoint, state = load_first_usable(find_checkpoints(arguments.run))
    settings = load_settings(state["settings"])
    model = build_model(settings, restore_dataset(settings, None, state), state).eval()
    title = state["data"]["title"]
    about = {name: state[name] for name in ("settings", "data", "step")}
    file = arguments.output or run_folder_of(checkpoint) / "export" / f"model.{arguments.format}"
    difference = export_model(model, state["example"], arguments.format, file, about)
    print(f"{file}: outputs within {difference:.1e} of the model's; trained on {title}")


if __name__ == "__main__":
    run_command(main)
