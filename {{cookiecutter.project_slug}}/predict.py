"""Classifies image files with a trained model."""

import json
import sys
from pathlib import Path
from typing import Any

from config.reference import command_parser
from storage.run_folder import find_checkpoint
from utils.errors import UserError, run_command


def main() -> int:
    """Returns the exit code: 0, or 2 if a file could not be read (the others are classified)."""
    parser = command_parser("Classifies image files with a trained model.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder or checkpoint file")
    parser.add_argument("inputs", type=Path, nargs="+", metavar="INPUT", help="image files")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()

    from base.base_dataset import stack
    from logger.console import format_table
    from trainer import restore_trainer

    trainer = restore_trainer(find_checkpoint(arguments.run), None, ["device=auto"])
    dataset, entries = trainer.dataset, []
    rows = [[f"file ({dataset.title})", "most probable", "second", "third"]]
    for file in arguments.inputs:
        entry: dict[str, Any] = {"file": str(file)}
        entries.append(entry)
        try:
            batch = dataset.transform(stack([dataset.read_input(file)]), None)
        except UserError as error:
            entry["error"] = str(error)
            print(f"error: {error}", file=sys.stderr)
            continue
        (logits,) = trainer.predict(batch)
        best = logits.softmax(0).topk(min(3, len(dataset.classes)))
        ranked = [(dataset.classes[k], best.values[i].item()) for i, k in enumerate(best.indices)]
        entry["predictions"] = [{"class": name, "probability": p} for name, p in ranked]
        cells = [f"{name} {p:.1%}" for name, p in ranked]
        rows.append([str(file), *cells, *[""] * (3 - len(cells))])
    if arguments.json:
        print(json.dumps({"data": dataset.title, "files": entries}, indent=2, ensure_ascii=False))
    elif len(rows) > 1:
        print(format_table(rows))
    return 2 if len(rows) <= len(entries) else 0


if __name__ == "__main__":
    run_command(main)
