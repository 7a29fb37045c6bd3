"""Writes a comparison in Markdown."""

import re

from experiments.comparison import Comparison
from experiments.conclusions import conclude, describe_comparison, footnotes
from experiments.tables import comparison_table
from logger.console import escape_invisible


def to_markdown(comparison: Comparison) -> str:
    """A comparison in Markdown."""
    lines = [describe_comparison(comparison), ""]
    table = comparison_table(comparison)
    rule = ["---"] * len(table[0])
    for row in table:
        cells = map(_escape_markdown, row)
        lines.append(f"| {' | '.join(cells)} |")
    lines.insert(3, f"| {' | '.join(rule)} |")
    lines.append("")
    for note in footnotes(comparison):
        lines.append(f"{_escape_markdown(note)}\n")
    lines.append(_escape_markdown(" ".join(conclude(comparison))))
    for warning in comparison.warnings:
        lines.append(f"- Warning: {_escape_markdown(warning)}")
    return "\n".join(lines) + "\n"


def _escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|~])", r"\\\1", escape_invisible(text))
