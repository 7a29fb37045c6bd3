"""The results of an evaluation: their files, and how they are printed."""

import csv
import io
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from base.base_trainer import BaseTrainer
from evaluation.report import Report
from logger.confusion_matrix import MAX_LABELLED_CLASSES
from logger.console import display_width, format_interval, format_number, format_table, output_width
from logger.figures import save_figure
from storage.run_folder import averaged_checkpoints, run_folder_of
from utils.files import replace_file, sync_to_disk, to_json
from utils.signals import exiting_on_signals

MAX_CELL_CHARACTERS = 80  # of a printed cell; the CSV file has the whole text
NO_INTERVAL = "-"
METRICS_FILE = "metrics.json"
UNFINISHED_FOLDER = ".unfinished_results"

Table = Sequence[Sequence[str]]


def results_folder(
    trainer: BaseTrainer, checkpoint: Path, split: str, member_count: int = 1
) -> Path:
    """The folder of the results: other data and models do not replace the run's own results.

    Args:
        trainer: a trainer with a loader of the split.
        checkpoint: the evaluated checkpoint; of an ensemble, that of the first member.
        split: the evaluated split.
        member_count: the number of models of an ensemble.
    """
    name = split
    dataset = trainer.dataset
    is_other_data = dataset.title != dataset.trained_on
    if is_other_data and split not in trainer.settings.data.validation_sets:
        name = f"{dataset.title} {split}"
    if trainer.settings.subset:
        name += f"-{trainer.settings.subset}"
    count = averaged_checkpoints(checkpoint)
    if member_count > 1:
        name += f" ensemble of {member_count}"
    elif count is not None:
        name += f" average of {count}"
    return run_folder_of(checkpoint) / "evaluation" / name


def save_report(folder: Path, summary: Mapping[str, Any], report: Report) -> None:
    """Writes the files of a report, with the predictions as ``predictions.csv``.

    Args:
        folder: the result of `results_folder`.
        summary: the entries of metrics.json.
        report: tables, figures and predictions.
    """
    tables: dict[str, Table] = dict(report.tables)
    if report.predictions:
        tables["predictions"] = tabulate_predictions(report.names, report.predictions)
    save_results(folder, summary, tables, report.figures)


def save_results(
    folder: Path,
    summary: Mapping[str, Any],
    tables: Mapping[str, Table],
    figures: Mapping[str, Any],
) -> None:
    """Writes metrics.json, a CSV file for each table, and a PNG file for each figure.

    The other files of an earlier evaluation, which metrics.json lists, are deleted. If a file
    cannot be written, as on a full disk, those of the earlier evaluation stay.

    Raises:
        OSError: if a file cannot be written.
    """
    files: dict[str, bytes] = {}
    for name, table in tables.items():
        text = io.StringIO(newline="")
        csv.writer(text).writerows(table)
        # A name from an undecodable file name may contain bytes that UTF-8 does not have.
        files[f"{name}.csv"] = text.getvalue().encode(errors="backslashreplace")
    for name, figure in figures.items():
        image = io.BytesIO()
        save_figure(figure, image)
        files[f"{name}.png"] = image.getvalue()

    # metrics.json is the last one: until it is replaced, it describes the earlier evaluation.
    metrics = to_json({**summary, "files": list(files)})
    files[METRICS_FILE] = metrics.encode()
    earlier_files = read_metrics(folder / METRICS_FILE).get("files", [])
    with exiting_on_signals():
        _replace_all(folder, files)
        for name in earlier_files:
            if name not in files:
                (folder / Path(name).name).unlink(missing_ok=True)


def _replace_all(folder: Path, files: Mapping[str, bytes]) -> None:
    """Writes files to a folder of their own, and moves them after all of them are written."""
    unfinished = folder / UNFINISHED_FOLDER
    created = [path for path in (folder, folder.parent) if not path.exists()]
    unfinished.mkdir(parents=True, exist_ok=True)  # it may be that of a process that was killed
    try:
        for name, content in files.items():
            _write(unfinished / name, content, final_path=folder / name)
        for name in files:
            (unfinished / name).replace(folder / name)
        sync_to_disk(folder)
    finally:
        shutil.rmtree(unfinished)
        for path in created:
            with suppress(OSError):  # it contains the results
                path.rmdir()


def _write(file: Path, content: bytes, final_path: Path) -> None:
    """Writes a file; an OSError names the path that it is to have in the end."""
    try:
        replace_file(file, content)
    except OSError as error:
        error.filename = str(final_path)
        raise


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
    """Prints the tables and, at the end, the metrics; of a large table, the name of its file."""
    for name, value in summary.items():
        if isinstance(value, str | int):
            print(f"{name}: {value}")
    for name, table in tables.items():
        text = _format_small_table(table) or f"{folder / name}.csv"
        print(f"\n{text}")
    print(f"\n{format_table(tabulate_metrics(summary))}")
    print(f"\nsaved in {folder}")


def _format_small_table(table: Table) -> str:
    """A table as text; empty if it is large, or wider than the terminal."""
    largest_side = max(len(table), len(table[0]))
    if largest_side > 2 * MAX_LABELLED_CLASSES:
        return ""
    rows = []
    for row in table:
        rows.append([cell[:MAX_CELL_CHARACTERS] for cell in row])
    text = format_table(rows)
    if max(map(display_width, text.splitlines())) > output_width():
        return ""
    return text


def tabulate_metrics(summary: Mapping[str, Any]) -> list[list[str]]:
    """A table of the metrics in a summary, with their confidence intervals if there are any."""
    intervals = summary.get("intervals", {})
    rows = [["metric", "value"]]
    if intervals:
        rows[0].append("95 % interval")
    for name, value in summary.items():
        if not isinstance(value, float):
            continue
        row = [name, format_number(value)]
        if name in intervals:
            row.append(format_interval(*intervals[name]))
        elif intervals:
            row.append(NO_INTERVAL)
        rows.append(row)
    return rows


def tabulate_predictions(
    names: Sequence[str], columns: Mapping[str, Sequence[Any]]
) -> list[tuple[str, ...]]:
    """A table of samples, with a header; those with the highest loss come first.

    The losses are compared as they are written, with few digits, and samples with the same loss
    stay in order. So rounding errors, which depend on the number of processes, rarely change it.

    Args:
        names: those of the samples.
        columns: values of the samples by name, numbers or texts. Without ``loss``, the samples
            stay in order.
    """
    cells: dict[str, Sequence[str]] = {"name": names}
    for name, values in columns.items():
        cells[name] = list(map(_as_cell, values))
    rows = list(zip(*cells.values(), strict=True))
    if "loss" in columns:
        position = list(cells).index("loss")
        rows.sort(key=lambda row: _hardness(row[position]), reverse=True)
    return [tuple(cells), *rows]


def _as_cell(value: Any) -> str:
    if isinstance(value, float):
        return format_number(value)
    return str(value)


def _hardness(loss: str) -> float:
    """A loss as a sort key; NaN is higher than any number."""
    value = float(loss)
    if math.isnan(value):
        return math.inf
    return value
