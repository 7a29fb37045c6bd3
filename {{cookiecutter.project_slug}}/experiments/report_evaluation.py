"""What evaluate.py has saved about runs, on the page: confusion matrices, figures, samples."""

import base64
import csv
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from experiments.pair import Pair
from experiments.report_html import element, html_table, paragraph, text
from experiments.runs import Evaluation
from experiments.samples import describe_samples, sample_table

MAX_CLASSES = 20  # of a confusion matrix on the page
MAX_MATRICES = 4
MAX_TABLE_ROWS = 200
MAX_OPEN_ROWS = 15  # of a table that is not folded
MAX_TABLE_COLUMNS = 8
MAX_IMAGE_BYTES = 3_000_000
MAX_SHOWN_SAMPLES = 10
STRONG_COLOR = 0.7
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
CONFUSION = "confusion_matrix"


def evaluation_figures(evaluations: Sequence[tuple[str, Evaluation]]) -> str:
    """Confusion matrices side by side, and the other figures.

    Args:
        evaluations: what the runs are called, or an empty text, and the results on the same split.
    """
    parts = []
    for label, evaluation in evaluations:
        matrix = _confusion_matrix(evaluation)
        if matrix:
            heading = element("h3", text(_heading("confusion matrix", label)))
            caption = element("figcaption", "rows: true classes; columns: predicted ones")
            parts.append(element("figure", heading, matrix, caption))
    for label, evaluation in evaluations:
        parts += _saved_figures(label, evaluation)
    if not parts:
        return ""
    return element("div", *parts, class_="grid wide")


def _heading(name: str, label: str) -> str:
    if label:
        return f"{name}: {label}"
    return name


def _confusion_matrix(evaluation: Evaluation) -> str:
    rows = read_table(evaluation.folder / f"{CONFUSION}.csv")
    is_square = set(map(len, rows)) == {len(rows)}
    if not is_square or not 1 < len(rows) <= MAX_CLASSES + 1:
        return embed_png(evaluation.folder / f"{CONFUSION}.png")
    header = [element("th")]
    for name in rows[0][1:]:
        header.append(_class_header(name, "col"))
    lines = []
    for name, *counts in rows[1:]:
        cells = [_confusion_cell(count, counts) for count in counts]
        lines.append(element("tr", _class_header(name, "row"), *cells))
    head = element("thead", element("tr", *header))
    table = element("table", head, element("tbody", *lines))
    return element("div", table, class_="scroll confusion")


def _class_header(name: str, scope: str) -> str:
    """The name of a class, which may be too long to be shown as a whole."""
    return element("th", element("span", text(name), title=name), scope=scope)


def _confusion_cell(cell: str, row: Sequence[str]) -> str:
    total = sum(map(int, filter(str.isdecimal, row)))
    share = 0.0
    if cell.isdecimal() and total > 0:
        share = math.sqrt(int(cell) / total)  # few errors are visible, too
    class_ = ""
    if share > STRONG_COLOR:
        class_ = "strong"
    if cell == "0":
        return element("td")
    return element(
        "td", text(cell), class_=class_, style=f"background:rgba(var(--heat),{share:.2f})"
    )


def other_tables(evaluation: Evaluation) -> str:
    """The small tables of an evaluation, except for the confusion matrix."""
    parts = []
    for name in _files(evaluation, ".csv"):
        rows = read_table(evaluation.folder / name)
        if name.startswith(CONFUSION) or not 1 < len(rows) <= MAX_TABLE_ROWS:
            continue
        if len(rows[0]) <= MAX_TABLE_COLUMNS and len(set(map(len, rows))) == 1:
            if len(rows) > MAX_OPEN_ROWS:
                summary = element("summary", text(f"Table: {_title(name)}"))
                parts.append(element("details", summary, html_table(rows)))
            else:
                parts += [element("h3", text(_title(name))), html_table(rows)]
    return "".join(parts)


def _saved_figures(label: str, evaluation: Evaluation) -> list[str]:
    """The figures of evaluate.py, except for the confusion matrix."""
    parts = []
    for name in _files(evaluation, ".png"):
        image = embed_png(evaluation.folder / name)
        if image and not name.startswith(CONFUSION):
            heading = element("h3", text(_heading(_title(name), label)))
            parts.append(element("figure", heading, image))
    return parts


def sample_comparisons(pair: Pair, images: Mapping[str, Sequence[bytes]]) -> str:
    """The samples on which two runs differ.

    Args:
        pair: the runs.
        images: PNG files of such samples, by split.
    """
    parts: list[str] = []
    for samples in pair.samples:
        parts += map(paragraph, describe_samples(samples, pair.names))
        drawn = []
        for image in images.get(samples.split, ()):
            drawn.append(element("figure", png_image(image)))
        if drawn:
            parts.append(element("div", *drawn, class_="grid wide"))
        if samples.only_first or samples.only_second:
            table = html_table(sample_table(samples, pair.names, MAX_SHOWN_SAMPLES))
            summary = element("summary", text(f"Table: samples of {samples.split}"))
            parts.append(element("details", summary, table))
    return "".join(parts)


def png_image(content: bytes, description: str = "") -> str:
    """An image in the page itself."""
    data = base64.b64encode(content).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{text(description)}">'


def embed_png(file: Path) -> str:
    """A PNG file as an image in the page itself; empty if it is missing, damaged or large."""
    with suppress(OSError):
        if file.stat().st_size <= MAX_IMAGE_BYTES:
            content = file.read_bytes()
            if content.startswith(PNG_SIGNATURE):
                return png_image(content, _title(file.name))
    return ""


def read_table(file: Path) -> list[list[str]]:
    """The rows of a CSV file; none if it is missing or damaged."""
    try:
        with file.open(encoding="utf-8", errors="replace", newline="") as stream:
            return list(filter(None, csv.reader(stream)))
    except (OSError, csv.Error):
        return []


def _files(evaluation: Evaluation, suffix: str) -> list[str]:
    """The files that metrics.json lists, without paths that lead out of the folder."""
    listed = evaluation.metrics.get("files")
    if not isinstance(listed, list):
        return []
    names = []
    for path in map(str, listed):
        name = Path(path).name
        if name.endswith(suffix) and name != "predictions.csv":
            names.append(name)
    return names


def _title(name: str) -> str:
    return Path(name).stem.replace("_", " ")
