"""Exports a trained model as one file for other programs."""

from argparse import ArgumentParser
from pathlib import Path

from config.loading import load_settings
from storage.run_folder import find_checkpoints, run_folder_of
from utils.command import run_command
from utils.errors import UserError
from utils.imports import fast_imports

FORMATS = ("pt2", "onnx", "safetensors")


def main() -> None:
    """Prints the file, and how much its outputs differ from the model's."""
    parser = ArgumentParser(description="Exports a trained model as one file for other programs.")
    parser.add_argument(
        "run", type=Path, metavar="RUN", help="run folder, checkpoint file, or last"
    )
    parser.add_argument("--format", choices=FORMATS, default="pt2", help="default: pt2")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: export/model.* in the run folder"
    )
    arguments = parser.parse_args()
    suffix = f".{arguments.format}"
    if arguments.output and arguments.output.suffix != suffix:
        raise UserError(f"--output {arguments.output}: the name must end with {suffix}")

    # These import torch, which takes 1.3 s: not needed for --help.
    with fast_imports():
        from builders import build_trained_model, restore_dataset
        from storage.checkpoint_file import load_first_usable
        from storage.export import export_model

    checkpoint, state = load_first_usable(find_checkpoints(arguments.run))
    settings = load_settings(state["settings"])
    dataset = restore_dataset(settings, None, state)
    model = build_trained_model(settings, dataset, state).eval()
    about = {
        "settings": state["settings"],
        "data": state["data"],
        "step": state["progress"]["step"],
    }
    file = arguments.output or run_folder_of(checkpoint) / "export" / f"model{suffix}"
    difference = export_model(model, state["example"], arguments.format, file, about)
    title = state["data"]["title"]
    print(f"{file}: outputs within {difference:.1e} of the model's; trained on {title}")


if __name__ == "__main__":
    run_command(main)
