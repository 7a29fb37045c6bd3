"""The page: one HTML file about some runs that needs nothing else, ready to be sent.

It has no scripts and loads nothing: all figures are in the file itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from experiments.comparison import Comparison
from experiments.conclusions import conclude, describe_comparison, footnotes
from experiments.metric import validation_metrics
from experiments.names import common_folder
from experiments.pair import Pair, difference_table
from experiments.report_curves import MAX_CURVES, curve_of_row, curves_figure, legend
from experiments.report_evaluation import (
    MAX_MATRICES,
    evaluation_figures,
    other_tables,
    sample_comparisons,
)
from experiments.report_facts import (
    cost_table,
    costs_of,
    environment_table,
    how_to_repeat,
    settings_tables,
)
from experiments.report_html import element, html_table, paragraph, section, text
from experiments.report_rows import rows_figure
from experiments.report_style import STYLE
from experiments.rows import Row, format_setting
from experiments.runs import Evaluation, Run
from experiments.tables import comparison_table, format_result, format_value
from logger.console import format_interval
from utils.command import typed_command

MAX_PLOTTED_ROWS = 20
MAX_CURVE_FIGURES = 6
TRAINING_CURVES = {"learning rate": "lr", "gradient norm": "grad_norm"}


def make_page(
    comparison: Comparison,
    pair: Pair | None = None,
    images: Mapping[str, Sequence[bytes]] | None = None,
) -> str:
    """The whole page.

    Args:
        comparison: the runs; the page shows the best row first.
        pair: the two runs, if these are compared in detail.
        images: PNG files of samples on which they differ, by split.
    """
    comparison = replace(comparison)  # other reports keep the order of the rows
    comparison.sort_by_value()
    if len(comparison.runs) == 1:
        title = f"Run {'/'.join(comparison.runs[0].folder.absolute().parts[-2:])}"
        parts = _parts_of_run(comparison)
    else:
        title = f"Comparison: {common_folder(comparison.runs).name}"
        if pair is not None:
            title = " and ".join(pair.names)
        parts = _parts_of_comparison(comparison, pair, images or {})
    body = element("main", _header(title, comparison), *parts, _footer())
    return (
        "<!doctype html>\n"
        '<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{STYLE}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def _parts_of_comparison(
    comparison: Comparison, pair: Pair | None, images: Mapping[str, Sequence[bytes]]
) -> list[str]:
    best_row = comparison.best or comparison.rows[0]
    label = comparison.label(best_row)
    shown = comparison.rows[:MAX_CURVES]
    parts = [_verdict(comparison), _warnings(comparison), _rows(comparison)]
    if pair is not None:
        parts.append(section("What differs", html_table(difference_table(pair))))
        parts.append(section("Sample by sample", sample_comparisons(pair, images)))
    parts += [
        section("Curves", _curves_of_rows(comparison, shown)),
        *_evaluations(comparison, shown),
        section("Cost", html_table(cost_table(comparison))),
        section(f"Settings of {label}", settings_tables(best_row.typical)),
        section(f"Repeat {label}", how_to_repeat(best_row.typical)),
    ]
    return parts


def _parts_of_run(comparison: Comparison) -> list[str]:
    run = comparison.runs[0]
    parts = [_tiles(comparison), _warnings(comparison)]
    problems = [*run.problems]
    if run.result.get("error"):
        problems.insert(0, str(run.result["error"]))
    parts.append(section("Problems", *map(paragraph, problems)))
    if run.note:
        parts.append(section("Note", paragraph(run.note)))
    parts.append(section("Curves", _curves_of_run(run)))
    for split, evaluation in run.evaluations.items():
        parts.append(
            section(
                f"Evaluation: {split}",
                _evaluation_tiles(evaluation),
                evaluation_figures([("", evaluation)]),
                other_tables(evaluation),
            )
        )
    parts.append(section("Settings", settings_tables(run)))
    parts.append(section("Environment", html_table(environment_table(run))))
    parts.append(section("Repeat it", how_to_repeat(run)))
    return parts


def _header(title: str, comparison: Comparison) -> str:
    facts = []
    run = comparison.runs[0]
    data = run.fact("data", "title")
    if data is not None:
        facts.append(f"{data}: {run.fact('data', 'samples')} training samples")
    validation = run.fact("validation", "samples")
    if validation is not None:
        facts.append(f"{validation} validation samples")
    days = sorted({run.started[:10] for run in comparison.runs})
    facts.append(" to ".join(dict.fromkeys([days[0], days[-1]])))
    return element(
        "header",
        element("h1", text(title)),
        paragraph(describe_comparison(comparison), "muted"),
        paragraph(", ".join(filter(None, facts)), "muted"),
    )


def _verdict(comparison: Comparison) -> str:
    first, *others = conclude(comparison)
    return element("div", paragraph(first, "first"), *map(paragraph, others), class_="verdict")


def _warnings(comparison: Comparison) -> str:
    if not comparison.warnings:
        return ""
    heading = element("h2", text("Before you rely on this"))
    items = []
    for warning in comparison.warnings:
        items.append(element("li", text(warning)))
    return element("div", heading, element("ul", *items), class_="warnings")


def _rows(comparison: Comparison) -> str:
    with_values = [row for row in comparison.rows if row.values]
    plotted = with_values[:MAX_PLOTTED_ROWS]
    labels = list(map(comparison.label, plotted))
    highlighted = None
    if comparison.best is not None:
        highlighted = comparison.rows.index(comparison.best)
    notes = footnotes(comparison)
    if len(comparison.runs) > len(comparison.rows):
        notes.insert(0, "dots: seeds; line: mean; bar: ± standard deviation")
    if len(with_values) > len(plotted):
        notes.insert(0, f"the figure shows the first {len(plotted)} of {len(with_values)} rows")
    return section(
        f"Results: {comparison.metric.name} on validation",
        rows_figure(labels, plotted, comparison.metric.name),
        html_table(comparison_table(comparison), highlighted),
        paragraph("; ".join(notes), "note"),
    )


def _curves_of_rows(comparison: Comparison, rows: Sequence[Row]) -> str:
    metric = comparison.metric.name
    labels = list(map(comparison.label, rows))
    panels = [(metric, "validation"), ("loss", "validation"), ("loss", "train")]
    parts = []
    for name, split in dict.fromkeys(panels):
        curves = []
        for label, row in zip(labels, rows, strict=True):
            curves.append(curve_of_row(label, row, name, split))
        parts.append(curves_figure(f"{name}, {split}", curves))
    if not any(parts):
        return ""
    notes = []
    if any(len(row.runs) > 1 for row in rows):
        notes.append("the mean over the seeds; the band is ± standard deviation")
    if len(comparison.rows) > len(rows):
        notes.append(f"the best {len(rows)} of {len(comparison.rows)} rows")
    figures_part = element("div", *parts, class_="grid")
    return legend(labels) + figures_part + paragraph("; ".join(notes), "note")


def _curves_of_run(run: Run) -> str:
    row = Row([run], [])
    parts = []
    for name in validation_metrics(run)[:MAX_CURVE_FIGURES]:
        of_training = curve_of_row("train", row, name, "train")
        of_validation = curve_of_row("validation", row, name, "validation")
        parts.append(curves_figure(name, [of_training, of_validation]))
    for title, name in TRAINING_CURVES.items():
        parts.append(curves_figure(title, [curve_of_row(title, row, name, "train")]))
    if not any(parts):
        return ""
    return legend(["train", "validation"]) + element("div", *parts, class_="grid")


def _evaluations(comparison: Comparison, rows: Sequence[Row]) -> list[str]:
    """A section for each split on which a run of the rows was evaluated."""
    by_split: dict[str, list[tuple[str, Evaluation]]] = {}
    for row in rows:
        splits = set()
        for run in [row.typical, *row.runs]:
            for split, evaluation in run.evaluations.items():
                if split not in splits:
                    splits.add(split)
                    label = f"{comparison.label(row)} ({comparison.names[run.folder]})"
                    by_split.setdefault(split, []).append((label, evaluation))
    note = ""
    if any(len(row.runs) > 1 for row in rows):
        note = paragraph(
            "of one run in each row, named in brackets: if evaluated, the closest to the mean",
            "note",
        )
    sections = []
    for split, evaluations in by_split.items():
        shown = evaluations[:MAX_MATRICES]
        sections.append(section(f"Evaluation: {split}", note, evaluation_figures(shown)))
    if not sections:
        advice = "evaluate.py RUN adds confusion matrices, figures and results on the test set"
        sections.append(section("Evaluation", paragraph(advice, "note")))
    return sections


def _tiles(comparison: Comparison) -> str:
    row = comparison.rows[0]
    run = row.runs[0]
    name = comparison.metric.name
    facts = [(f"{name}, validation", format_result(row))]
    for split, evaluation in run.evaluations.items():
        value = evaluation.number(name)
        if value is not None:
            facts.append((f"{name}, {split}", format_value(value)))
    facts.append(("state", run.state))
    if run.step is not None:
        facts.append(("steps", str(run.step)))
    facts += costs_of(row)
    return element("section", _as_tiles(facts))


def _as_tiles(facts: Sequence[tuple[str, str]]) -> str:
    tiles = []
    for label, value in facts:
        tile = element("b", text(value)) + element("span", text(label))
        tiles.append(element("div", tile, class_="tile"))
    return element("div", *tiles, class_="tiles")


def _evaluation_tiles(evaluation: Evaluation) -> str:
    """The metrics of an evaluation, with their confidence intervals if it has some."""
    facts = []
    for name in evaluation.metrics:
        value = evaluation.number(name)
        if value is None or name == "step":
            continue
        label = name
        interval = evaluation.interval(name)
        if interval is not None:
            label += f" (95 %: {format_interval(*interval)})"
        facts.append((label, format_setting(evaluation.metrics[name])))
    return _as_tiles(facts)


def _footer() -> str:
    return element(
        "footer", text(f"Written {datetime.now():%Y-%m-%d %H:%M} by: python {typed_command()}")
    )
