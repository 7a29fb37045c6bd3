"""Runs inference on new inputs: python predict.py RUN INPUT ..."""

import glob
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from storage.run_folder import find_checkpoints
from utils.command import CommandParser, next_command, run_command
from utils.errors import BAD_INPUT, USER_CODE_ERRORS, UserError, describe_error
from utils.files import to_json
from utils.imports import fast_imports
from utils.paths import expand_home, path_argument

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer

MAX_CELL_CHARACTERS = 100  # --json prints the whole value

Entry = dict[str, Any]


def main() -> int:
    """Prints the predictions; returns 2 if an input could not be read, else 0."""
    parser = CommandParser(description="Runs inference on new inputs.")
    parser.add_argument(
        "run", type=path_argument, metavar="RUN", help="run folder, checkpoint file, or last"
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="files, folders, patterns such as 'photos/**/*.jpg', or the inputs themselves; write "
        "-- before an input that starts with -",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    # These import torch, which takes 1.3 s: not needed for --help.
    with fast_imports():
        from builders import restore_trainer
        from logger.console import progress_bar

    trainer, checkpoint = restore_trainer(find_checkpoints(arguments.run), None, ["device=auto"])
    title = trainer.dataset.title
    entries: list[Entry] = []
    sources: list[str] = []
    for argument in arguments.inputs:
        try:
            sources += find_sources(expand_home(argument), trainer.dataset.input_suffixes)
        except (UserError, OSError) as error:
            print(f"error: {error}", file=sys.stderr)
            entries.append({"input": argument, "error": str(error)})
    with progress_bar(len(sources), title) as bar:
        for source in sources:
            try:
                entries += predict_source(trainer, source)
            except (UserError, *USER_CODE_ERRORS) as error:
                message = describe_error(error)
                if not isinstance(error, UserError):  # which names the input itself
                    message = f"{source}: {message}"
                bar.write(f"error: {message}", file=sys.stderr)
                entries.append({"input": source, "error": message})
            bar.update()

    if arguments.json:
        result = {"data": title, "checkpoint": str(checkpoint), "inputs": entries}
        print(to_json(result))
    else:
        print_table(title, entries)
        print(f"\ncheckpoint: {checkpoint}")
    if any("error" in entry for entry in entries):
        return BAD_INPUT
    if not arguments.json:
        print(f"export: {next_command('export.py', arguments.run)}")
    return 0


def find_sources(argument: str, suffixes: Sequence[str]) -> list[str]:
    """The inputs that an argument names: itself, or the files of a folder or of a pattern.

    Hidden files are left out, and the others are sorted. A pattern without matches is returned as
    it is, because it can be a sentence with a question mark.

    Args:
        argument: an input, a file, a folder, or a pattern in which ``**`` stands for any folders.
        suffixes: the endings of the files in a folder that are inputs; without any, an argument
            is an input itself.

    Raises:
        UserError: if a folder contains no such file, or the argument is empty, a pipe or a device.
    """
    if not argument.strip():
        raise UserError("an input is empty; give a file, a folder, or the input itself")
    # Unlike pathlib, os.path does not fail for a sentence that is too long for a file name.
    is_file = os.path.isfile(argument)  # noqa: PTH113
    is_folder = os.path.isdir(argument)  # noqa: PTH112
    if os.path.exists(argument) and not is_file and not is_folder:  # noqa: PTH110
        raise UserError(
            f"{argument} is not a regular file, but a pipe or a device; save its content in a file"
        )
    if not suffixes or is_file:
        return [argument]
    if is_folder:
        return _find_in_folder(Path(argument), suffixes)
    matches = glob.glob(argument, recursive=True)  # noqa: PTH207  pathlib finds hidden files
    files = sorted(name for name in matches if not Path(name).is_dir())
    return files or [argument]


def _find_in_folder(folder: Path, suffixes: Sequence[str]) -> list[str]:
    found = []
    left_out = 0
    for file in folder.iterdir():
        if file.is_dir() or file.name.startswith("."):
            continue
        if file.suffix.lower() in suffixes:
            found.append(str(file))
        else:
            left_out += 1
    endings = ", ".join(suffixes)
    if not found:
        raise UserError(
            f"{folder}: no file in this folder ends with {endings}; for "
            f"its subfolders, use {shlex.quote(str(folder / '**/*'))}"
        )
    if left_out > 0:
        message = f"{folder}: left out {left_out} files that do not end with {endings}"
        print(message, file=sys.stderr)
    return sorted(found)


def predict_source(trainer: "BaseTrainer", source: str) -> list[Entry]:
    """The predictions for all inputs that an argument names."""
    from builders import EVALUATION_BATCH_FACTOR

    dataset = trainer.dataset
    inputs = dataset.read_inputs(source)
    if not inputs:
        raise UserError(f"{source}: it contains no inputs")
    batch_size = EVALUATION_BATCH_FACTOR * trainer.settings.data.batch_size
    entries = []
    for start in range(0, len(inputs), batch_size):
        named_samples = inputs[start : start + batch_size]
        samples = [sample for _, sample in named_samples]
        batch = dataset.transform(dataset.collate(samples), None)
        predictions = trainer.describe(trainer.predict(batch))
        if len(predictions) != len(samples):
            raise UserError(
                f"{source}: {type(trainer).__name__}.describe must return a list of answers for "
                f"each of the {len(samples)} inputs, not {len(predictions)} lists"
            )
        for (name, _), prediction in zip(named_samples, predictions, strict=True):
            entries.append({"input": name, "predictions": prediction})
    return entries


def print_table(title: str, entries: Sequence[Entry]) -> None:
    """Prints the inputs with predictions: a row for each of them, or for each answer."""
    from logger.console import format_table

    answered = [entry for entry in entries if "predictions" in entry]
    if not answered:
        return
    heading = f"input ({title})"
    layouts = [list(map(list, entry["predictions"])) for entry in answered]
    if layouts[0] and layouts.count(layouts[0]) == len(layouts):
        rows = rows_by_input(heading, answered)
    else:
        rows = rows_by_answer(heading, answered)
    print(format_table(rows))


def rows_by_input(heading: str, entries: Sequence[Entry]) -> list[list[str]]:
    """A header and a row for each input, whose answers are next to each other."""
    header = [heading]
    for answer in entries[0]["predictions"]:
        header.extend(answer)
    rows = [header]
    for entry in entries:
        row = [entry["input"]]
        for answer in entry["predictions"]:
            row += [format_cell(name, value) for name, value in answer.items()]
        rows.append(row)
    return rows


def rows_by_answer(heading: str, entries: Sequence[Entry]) -> list[list[str]]:
    """A header and a row for each answer, if inputs have different numbers or kinds of answers.

    An input without answers has a row with empty cells.
    """
    names: dict[str, None] = {}  # in the order in which they occur
    for entry in entries:
        for answer in entry["predictions"]:
            names |= dict.fromkeys(answer)
    rows = [[heading, *names]]
    for entry in entries:
        for answer in entry["predictions"] or [{}]:
            row = [entry["input"]]
            for name in names:
                cell = ""
                if name in answer:
                    cell = format_cell(name, answer[name])
                row.append(cell)
            rows.append(row)
    return rows


def format_cell(name: str, value: Any) -> str:
    """A value of an answer, as the table shows it."""
    from logger.console import format_number

    if not isinstance(value, float):
        return str(value)[:MAX_CELL_CHARACTERS]
    if name == "probability":
        return f"{value:.1%}"
    return format_number(value)


if __name__ == "__main__":
    run_command(main)
