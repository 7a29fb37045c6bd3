"""Classifies image files with a trained model."""

import json
import sys
from pathlib import Path
from typing import Any

from config.reference import command_parser
from storage.run_folder import find_checkpoints
from utils.errors import UserError, run_command
from utils.imports import importing


def main() -> int:
    """Returns the exit code: 0, or 2 if a file could not be read (the others are classified)."""
    parser = command_parser("Classifies image files with a trained model.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or checkpoint file")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help="image files")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    with importing():
        from base.base_dataset import stack
        from builders import restore_trainer
        from logger.console import format_table, progress_bar

    trainer, checkpoint = restore_trainer(find_checkpoints(arguments.run), None, ["device=auto"])
    dataset, shown = trainer.dataset, min(3, len(trainer.dataset.classes))
    if not shown:
        raise UserError(f"predict.py is for classifiers; {checkpoint} has no classes")
    entries: list[dict[str, Any]] = []
    rows = [[f"file ({dataset.title})", *("class", "probability") * shown]]
    with progress_bar(len(arguments.inputs), dataset.title) as bar:
        for file in arguments.inputs:
            bar.update()
            try:
                batch = dataset.transform(stack([dataset.read_input(file)]), None)
            except UserError as error:
                bar.write(f"error: {error}", file=sys.stderr)
                entries.append({"file": str(file), "error": str(error)})
                continue
            best = trainer.predict(batch).softmax(1).topk(shown)
            names = [dataset.classes[k] for k in best.indices[0]]
            ranked = list(zip(names, best.values[0].tolist(), strict=True))
            guesses = [{"class": name, "probability": p} for name, p in ranked]
            entries.append({"file": str(file), "predictions": guesses})
            rows.append([str(file), *(cell for name, p in ranked for cell in (name, f"{p:.1%}"))])
    if arguments.json:
        print(json.dumps({"data": dataset.title, "files": entries}, indent=2, ensure_ascii=False))
    elif len(rows) > 1:
        print(format_table(rows))
    return 2 if len(rows) <= len(entries) else 0


if __name__ == "__main__":
    run_command(main)
