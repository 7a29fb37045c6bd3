"""The files of an evaluation: metrics, tables, figures, and the predictions of all samples."""

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from logger.console import format_number
from utils.files import replace_file, to_json
from utils.signals import exiting_on_signals

MAX_CELL_CHARACTERS = 80  # of a printed cell; the CSV file has the whole text
METRICS_FILE = "metrics.json"

Table = Sequence[Sequence[str]]


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
        # A name from an undecodable file name may contain bytes that UTF-8 does not have.
        files[f"{name}.csv"] = text.getvalue().encode(errors="backslashreplace")
    for name, figure in figures.items():
        image = io.BytesIO()
        save_figure(figure, image)
        files[f"{name}.png"] = image.getvalue()

    # metrics.json is replaced last. Until then, it describes the earlier evaluation.
    folder.mkdir(parents=True, exist_ok=True)
    metrics_file = folder / METRICS_FILE
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

    intervals = summary.get("intervals", {})
    for name, value in summary.items():
        if name in intervals:
            print(f"{name}: {value} ({format_interval(*intervals[name])})")
        elif isinstance(value, str | int | float):
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


def format_interval(low: float, high: float) -> str:
    """An interval with as many decimals as two digits of its width: ``0.927 to 0.937``."""
    width = high - low
    if width == 0:
        return f"{low:.6g} to {high:.6g}"
    decimals = max(1 - math.floor(math.log10(width)), 0)
    return f"{low:.{decimals}f} to {high:.{decimals}f}"


def tabulate_predictions(
    names: Sequence[str], columns: Mapping[str, Sequence[Any]]
) -> list[tuple[str, ...]]:
    """A table of samples, with a header; those with the highest loss come first.

    Of equal losses, as written, the order stays that of the samples: rounding errors, which depend
    on the number of processes, hardly change it.

    Args:
        names: those of the samples.
        columns: values of the samples by name: numbers or texts; ``loss``, if there is one,
            decides on the order.
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
