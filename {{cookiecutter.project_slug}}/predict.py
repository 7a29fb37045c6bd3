"""Tells what a trained model makes of new inputs."""

import json
import sys
from pathlib import Path
from typing import Any

from config.help import command_parser
from storage.run_folder import find_checkpoints
from utils.errors import USER_CODE_ERRORS, UserError, explain, run_command
from utils.imports import importing


def main() -> int:
    """Returns the exit code: 0, or 2 if an input could not be read (the others are answered)."""
    parser = command_parser("Tells what a trained model makes of new inputs.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, checkpoint or last")
    inputs = "files, or inputs themselves, as read_inputs takes them; after -- if one begins with -"
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=inputs)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    with importing():
        from builders import EVALUATION, restore_trainer
        from logger.console import format_table, progress_bar

    trainer, _ = restore_trainer(find_checkpoints(arguments.run), None, ["device=auto"])
    dataset, size = trainer.dataset, EVALUATION * trainer.settings.data.batch_size
    entries: list[dict[str, Any]] = []
    with progress_bar(len(arguments.inputs), dataset.title) as bar:
        for source in arguments.inputs:
            bar.update()
            try:
                if not (found := dataset.read_inputs(source)):
                    raise UserError(f"{source}: there is nothing in it")
                for part in (found[k : k + size] for k in range(0, len(found), size)):
                    names, samples = zip(*part, strict=True)
                    outputs = trainer.predict(dataset.transform(dataset.collate(samples), None))
                    answers = zip(names, trainer.describe(outputs), strict=True)
                    entries += [{"input": name, "predictions": best} for name, best in answers]
            except (UserError, *USER_CODE_ERRORS) as error:
                text = f"{source}: " * (not isinstance(error, UserError)) + explain(error)
                bar.write(f"error: {text}", file=sys.stderr)
                entries.append({"input": source, "error": text})
    answered = [entry for entry in entries if "predictions" in entry]
    if arguments.json:
        print(json.dumps({"data": dataset.title, "inputs": entries}, indent=2, ensure_ascii=False))
    elif answered:
        columns = [name for answer in answered[0]["predictions"] for name in answer]
        rows = [[f"input ({dataset.title})", *columns]]
        for entry in answered:
            parts = [part for answer in entry["predictions"] for part in answer.items()]
            rows.append([entry["input"], *(format_part(*part) for part in parts)])
        print(format_table(rows))
    return 0 if len(answered) == len(entries) else 2


def format_part(name: str, value: Any) -> str:
    """A part of an answer as a table shows it."""
    if isinstance(value, float):
        return f"{value:.1%}" if name == "probability" else f"{value:.6g}"
    return str(value)[:100]  # --json has all of it


if __name__ == "__main__":
    run_command(main)
