"""Comparisons as text for the terminal."""

from experiments.comparison import Comparison
from experiments.conclusions import conclude, describe_comparison, footnotes
from experiments.pair import Pair, difference_table
from experiments.samples import describe_samples, sample_table
from experiments.tables import comparison_table, format_console
from logger.console import escape_invisible, output_width

MAX_SHOWN_SAMPLES = 5  # for each of two runs


def format_comparison(comparison: Comparison) -> str:
    """The table, what follows from it, and the warnings."""
    table = format_console(comparison_table(comparison), output_width())
    lines = [describe_comparison(comparison), "", table, "", *footnotes(comparison)]
    lines += map(escape_invisible, conclude(comparison))
    for warning in comparison.warnings:
        lines.append(f"warning: {escape_invisible(warning)}")
    return "\n".join(lines)


def format_pair(pair: Pair) -> str:
    """All that differs between two runs, and on which samples."""
    parts = [format_console(difference_table(pair), output_width())]
    for samples in pair.samples:
        sentences = map(escape_invisible, describe_samples(samples, pair.names))
        parts.append("\n".join(sentences))
        if samples.only_first or samples.only_second:
            table = sample_table(samples, pair.names, MAX_SHOWN_SAMPLES)
            parts.append(format_console(table, output_width()))
    return "\n\n".join(parts)
