"""Evaluates a trained model: the only command that uses the test set."""

import csv
import io
import json
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from config.help import SettingsParser
from logger.console import log
from storage.run_folder import find_checkpoints, read_manifest, run_folder_of
from utils.command import next_command, run_command
from utils.files import replace_file, to_json
from utils.imports import fast_imports
from utils.paths import path_argument
from utils.ranks import is_main_process
from utils.signals import exiting_on_signals

if TYPE_CHECKING:
    from base.base_dataset import BaseDataset
    from base.base_trainer import BaseTrainer

SIGNIFICANT_DIGITS = 6
MAX_CELL_CHARACTERS = 80  # of a printed cell; the CSV file has the whole text

Table = Sequence[Sequence[str]]


def main() -> None:
    """Prints metrics and tables, and saves them with figures in the run folder."""
    parser = SettingsParser(
        description="Evaluates a trained model, and saves the results in its run folder."
    )
    parser.add_argument(
        "run", type=path_argument, metavar="RUN", help="run folder, checkpoint file, or last"
    )
    parser.add_argument(
        "--split",
        default="test",
        help="train, validation, test, or one of data.validation_sets; default: test",
    )
    parser.add_argument(
        "settings", nargs="*", default=[], metavar="KEY=VALUE", help="a setting, such as device=cpu"
    )
    arguments = parser.parse_command_line()
    split = arguments.split

    # These import torch, which takes 1.3 s: not needed for --help.
    with fast_imports():
        from builders import restore_trainer
        from metrics.protocol import scalar_results
        from utils.process_group import destroy_process_group

    files = find_checkpoints(arguments.run)
    trainer, checkpoint = restore_trainer(files, split, arguments.settings)
    dataset = trainer.dataset
    folder = results_folder(trainer, checkpoint, split)
    if is_main_process():
        report_changed_samples(folder / "metrics.json", dataset)
        if split == "test":
            report_changed_test_split(run_folder_of(checkpoint), dataset)
    results = trainer.evaluate(split)
    tables = trainer.tables(results)
    figures = trainer.figures(split, results)
    destroy_process_group()
    if not is_main_process():
        return

    summary: dict[str, Any] = {
        "data": dataset.title,
        "split": split,
        "samples": len(dataset),
        "fingerprint": dataset.fingerprint,
        "checkpoint": str(checkpoint),
        "step": trainer.progress.step,
    }
    for name, value in scalar_results(results).items():
        summary[name] = float(f"{value:.{SIGNIFICANT_DIGITS}g}")
    save_results(folder, summary, tables, figures)
    print_results(folder, summary, tables)
    print(f"export: {next_command('export.py', arguments.run)}")


def results_folder(trainer: "BaseTrainer", checkpoint: Path, split: str) -> Path:
    """The folder for the results; that of other data does not replace that of the run's own."""
    name = split
    dataset = trainer.dataset
    is_other_data = dataset.title != dataset.trained_on
    if is_other_data and split not in trainer.settings.data.validation_sets:
        name = f"{dataset.title} {split}"
    if trainer.settings.subset:
        name += f"-{trainer.settings.subset}"
    return run_folder_of(checkpoint) / "evaluation" / name


def report_changed_samples(metrics_file: Path, dataset: "BaseDataset") -> None:
    """Warns if the samples differ from those of the last evaluation of this split.

    A file whose rows are divided into splits is compared with the training data, too: by
    `BaseDataset.load_state_dict`.
    """
    earlier = read_metrics(metrics_file).get("fingerprint")
    if earlier is not None and earlier != dataset.fingerprint:
        log.warning(
            "%s: the samples have changed since the last evaluation, whose results are in %s",
            dataset.title,
            metrics_file,
        )


def report_changed_test_split(run: Path, dataset: "BaseDataset") -> None:
    """Warns if the test split differs from that at the end of training, which train.py records."""
    recorded = read_manifest(run).get("test")
    if not isinstance(recorded, dict) or recorded.get("title") != dataset.title:
        return
    if recorded.get("hash") != dataset.fingerprint:
        log.warning(
            "%s: the test split has changed since training: %s samples then, %d now",
            dataset.title,
            recorded.get("samples"),
            len(dataset),
        )


def save_results(
    folder: Path,
    summary: Mapping[str, Any],
    tables: Mapping[str, Table],
    figures: Mapping[str, Any],
) -> None:
    """Writes metrics.json, a CSV file for each table, and a PNG file for each figure.

    The other files of an earlier evaluation, which metrics.json lists, are deleted.
    """
    from logger.figures import save_figure

    files: dict[str, bytes] = {}
    for name, table in tables.items():
        text = io.StringIO(newline="")
        csv.writer(text).writerows(table)
        files[f"{name}.csv"] = text.getvalue().encode()
    for name, figure in figures.items():
        image = io.BytesIO()
        save_figure(figure, image)
        files[f"{name}.png"] = image.getvalue()

    # metrics.json is replaced last. Until then, it describes the earlier evaluation.
    folder.mkdir(parents=True, exist_ok=True)
    metrics_file = folder / "metrics.json"
    earlier_files = read_metrics(metrics_file).get("files", [])
    with exiting_on_signals():
        for name, content in files.items():
            replace_file(folder / name, content)
        metrics = to_json({**summary, "files": list(files)})
        replace_file(metrics_file, metrics.encode())
        for name in earlier_files:
            if name not in files:
                (folder / Path(name).name).unlink(missing_ok=True)


def read_metrics(metrics_file: Path) -> dict[str, Any]:
    """The content of the metrics.json of an earlier evaluation; empty without one."""
    if not metrics_file.exists():
        return {}
    try:
        content = json.loads(metrics_file.read_text(encoding="utf-8"))
    except ValueError:  # damaged; it is about to be replaced
        return {}
    return dict(content)


def print_results(folder: Path, summary: Mapping[str, Any], tables: Mapping[str, Table]) -> None:
    """Prints the metrics and the tables; of a large table, the name of its file."""
    from logger.console import format_table
    from logger.figures import MAX_LABELLED_CLASSES

    for name, value in summary.items():
        print(f"{name}: {value}")
    for name, table in tables.items():
        largest_side = max(len(table), len(table[0]))
        if largest_side > 2 * MAX_LABELLED_CLASSES:
            print(f"\n{folder / name}.csv")
        else:
            rows = []
            for row in table:
                rows.append([cell[:MAX_CELL_CHARACTERS] for cell in row])
            print(f"\n{format_table(rows)}")
    print(f"\nsaved in {folder}")


if __name__ == "__main__":
    run_command(main)
