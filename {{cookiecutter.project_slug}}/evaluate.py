"""Evaluates a trained model; the one place that touches the test data."""

import csv
import json
from pathlib import Path

from config.help import command_parser
from storage.run_folder import find_checkpoints, run_folder_of
from utils.errors import RANK, run_command
from utils.imports import importing


def main() -> None:
    """Prints metrics and tables and saves them, with pictures, in the run folder."""
    parser = command_parser("Evaluates a trained model and saves the results in its run folder.")
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, checkpoint or last")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="test")
    parser.add_argument("settings", nargs="*", default=[], metavar="KEY=VALUE", help="device=cpu")
    arguments = parser.parse_intermixed_args()

    with importing():
        from builders import restore_trainer
        from logger.console import format_table
        from logger.figures import MAX_LABELLED_CLASSES, save_figure
        from metrics.protocol import scalar_results
        from utils import parallel as distributed

    split, files = arguments.split, find_checkpoints(arguments.run)
    trainer, checkpoint = restore_trainer(files, split, arguments.settings)
    results = trainer.evaluate(split)
    about = {"data": trainer.dataset.title, "split": split, "samples": len(trainer.dataset)}
    about |= {"checkpoint": str(checkpoint), "step": trainer.step}
    metrics = {name: float(f"{value:.6g}") for name, value in scalar_results(results).items()}
    other = trainer.dataset.title != trainer.dataset.trained_on  # the run's own results stay
    place = f"{trainer.dataset.title} {split}" if other else split
    folder, tables = run_folder_of(checkpoint) / "evaluation" / place, trainer.tables(results)
    pictures = trainer.figures(split, results)
    distributed.stop()
    if RANK:
        return
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.json").write_text(json.dumps(about | metrics, indent=2), encoding="utf-8")
    for name, table in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
    for name, figure in pictures.items():
        save_figure(figure, folder / f"{name}.png")

    print("\n".join(f"{name}: {value}" for name, value in (about | metrics).items()))
    for name, table in tables.items():
        large = max(len(table), len(table[0])) > 2 * MAX_LABELLED_CLASSES
        print(f"\n{folder / name}.csv" if large else f"\n{format_table(table)}")
    print(f"\nsaved in {folder}")


if __name__ == "__main__":
    run_command(main)
