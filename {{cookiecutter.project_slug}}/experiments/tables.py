"""Comparisons as tables of text: for the console, Markdown, CSV and the page."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from experiments.comparison import Comparison
from experiments.rows import Row, Verdict, format_setting
from experiments.runs import Run
from logger.console import display_width, escape_invisible, format_table

MIN_P_VALUE = 0.001
MAX_CELL_CHARACTERS = 50  # of a cell on the console
MAX_DIGITS = 6  # after the decimal point
LARGE_NUMBER = 1e7
# A column is left out if all of its cells are these.
USUAL_CELLS = {"state": "finished", "n": "1"}
Table = list[list[str]]


def format_result(row: Row) -> str:
    """The mean of a row with its standard deviation, to two significant digits of the latter."""
    if row.mean is None:
        return "-"
    if row.deviation is None:
        return format_value(row.mean)
    if row.deviation == 0:
        return f"{format_value(row.mean)} ± 0"
    digits = max(0, 1 - math.floor(math.log10(row.deviation)))
    if digits > MAX_DIGITS or abs(row.mean) >= LARGE_NUMBER:
        return f"{row.mean:.4g} ± {row.deviation:.2g}"
    return f"{row.mean:.{digits}f} ± {row.deviation:.{digits}f}"


def format_number_of_values(row: Row) -> str:
    """How many runs the mean of a row is computed from, such as ``5``, or ``4 of 5``."""
    if row.values and len(row.values) < len(row.runs):
        return f"{len(row.values)} of {len(row.runs)}"
    return str(len(row.runs))


def format_value(value: float | None) -> str:
    """A number with four significant digits; - without one."""
    if value is None:
        return "-"
    return f"{value:#.4g}".rstrip(".")


def format_p_value(p_value: float | None) -> str:
    """A p value with two significant digits."""
    if p_value is None:
        return "-"
    if p_value < MIN_P_VALUE:
        return f"<{MIN_P_VALUE}"
    return f"{p_value:.2g}"


def comparison_table(comparison: Comparison) -> Table:
    """The rows of a comparison below a header, with the columns in which they differ."""
    columns: dict[str, list[str]] = {}
    for row in comparison.rows:
        for name, cell in _cells(comparison, row).items():
            columns.setdefault(name, []).append(cell)
    for name in list(columns):
        is_needed = name in ("run", comparison.metric.name)
        if not is_needed and _is_superfluous(name, columns[name]):
            del columns[name]
    return [list(columns), *map(list, zip(*columns.values(), strict=True))]


def _cells(comparison: Comparison, row: Row) -> dict[str, str]:
    """All columns of a row."""
    name = comparison.metric.name
    verdict = row.verdict or Verdict("-")
    cells = {"run": comparison.row_name(row), "state": row.state}
    for key in comparison.keys:
        cells[key] = format_setting(row.setting(key))
    return {
        **cells,
        "commit": row.newest.code or "-",
        "n": format_number_of_values(row),
        name: format_result(row),
        "p": _p_value_cell(verdict),
        "verdict": row.exclusion or verdict.text,
        "seeds to tell": str(verdict.seeds or "-"),
        f"test {name}": _test_cell(row, name),
        "minutes": format_value(mean_of(row, "minutes")),
        "tags": ", ".join(_tags(row)),
        "remark": "; ".join(remarks(row)),
    }


def _is_superfluous(name: str, cells: Sequence[str]) -> bool:
    """Whether a column says nothing: no row has a value, or all have the usual one."""
    values = set(cells)
    if name == "commit":
        return len(values) == 1
    return values <= {"-", "", USUAL_CELLS.get(name)}


def mean_of(row: Row, name: str) -> float | None:
    """The mean of a number in result.json over the runs of a row that have it."""
    values = []
    for run in row.runs:
        value = run.number(name)
        if value is not None:
            values.append(value)
    if not values:
        return None
    return fmean(values)


def values_on_test(row: Row, metric: str) -> list[float]:
    """The metric on the test set of the runs that have been evaluated."""
    values = []
    for run in row.runs:
        if "test" not in run.evaluations:
            continue
        value = run.evaluations["test"].number(metric)
        if value is not None:
            values.append(value)
    return values


def remarks(row: Row) -> list[str]:
    """What a reader must know about the runs of a row: errors, marks, problems, notes."""
    found: dict[str, None] = {}
    for run in row.runs:
        for text in remarks_of_run(run):
            found[text] = None
    return list(found)


def remarks_of_run(run: Run) -> list[str]:
    """What a reader must know about a run."""
    texts = []
    error = run.result.get("error")
    if run.state == "failed" and error:
        texts.append(str(error))
    total_steps = run.number("total_steps")
    if run.state == "stopped" and total_steps is not None:
        texts.append(f"stopped at step {run.step} of {total_steps:.0f}")
    texts += run.problems
    texts += run.evaluation_problems
    if not run.best and run.log.damaged:
        texts.append(f"metrics.csv has damaged rows: {run.log.damaged}")
    if run.mark:
        texts.append(f"trainer.{run.mark}")
    if run.note:
        texts.append(run.note)
    return texts


def _tags(row: Row) -> list[str]:
    tags: dict[str, None] = {}
    for run in row.runs:
        tags.update(dict.fromkeys(run.tags))
    return list(tags)


def _p_value_cell(verdict: Verdict) -> str:
    text = format_p_value(verdict.p_value)
    if verdict.is_pooled:
        text += "*"
    return text


def _test_cell(row: Row, metric: str) -> str:
    values = values_on_test(row, metric)
    if not values:
        return "-"
    text = format_value(fmean(values))
    if len(values) > 1:
        text += f" ({len(values)})"
    return text


def format_console(table: Table, width: int) -> str:
    """A table that fits into a terminal, as paragraphs if its columns do not.

    Args:
        table: the header and the rows.
        width: of the terminal, in characters.
    """
    text = format_table([list(map(_shortened, row)) for row in table])
    if max(map(display_width, text.splitlines())) <= width:
        return text
    header, *rows = table
    paragraphs = []
    for row in rows:
        lines = [escape_invisible(row[0])]
        for name, cell in zip(header[1:], row[1:], strict=True):
            if cell not in ("", "-"):
                lines.append(f"  {name}: {escape_invisible(cell)}")
        paragraphs.append("\n".join(lines))
    return "\n\n".join(paragraphs)


def _shortened(cell: str) -> str:
    if len(cell) <= MAX_CELL_CHARACTERS:
        return cell
    return cell[: MAX_CELL_CHARACTERS - 1] + "…"


def to_csv(comparison: Comparison) -> str:
    """All numbers of a comparison, with full precision, one line for each row."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_csv_values(comparison, comparison.rows[0]))
    for row in comparison.rows:
        writer.writerow(_csv_values(comparison, row).values())
    return text.getvalue()


def _csv_values(comparison: Comparison, row: Row) -> Mapping[str, Any]:
    verdict = row.verdict or Verdict("")
    name = comparison.metric.name
    values: dict[str, Any] = {"run": comparison.row_name(row), "state": row.state}
    for key in comparison.keys:
        values[key] = format_setting(row.setting(key))
    values |= {
        "n": len(row.values),
        f"{name} mean": row.mean,
        f"{name} deviation": row.deviation,
        "p": verdict.p_value,
        "p uses pooled spread": verdict.is_pooled,
        "verdict": row.exclusion or verdict.text,
        "seeds to tell": verdict.seeds,
        f"test {name}": None,
        "steps": row.newest.step,
        "minutes": mean_of(row, "minutes"),
        "samples per second": mean_of(row, "samples_per_second"),
        "peak memory GB": mean_of(row, "peak_memory_gb"),
        "commit": row.newest.code,
        "tags": " ".join(_tags(row)),
        "remark": "; ".join(remarks(row)),
        "folder": row.newest.folder,
    }
    test = values_on_test(row, name)
    if test:
        values[f"test {name}"] = fmean(test)
    return values
