"""What a comparison says, in sentences."""

from collections import Counter
from collections.abc import Sequence

from experiments.comparison import Comparison
from experiments.rows import EQUAL, NO_SPREAD, SINGLE_SEED, WITHIN_NOISE, WORSE, Row
from experiments.tables import (
    MIN_P_VALUE,
    format_number_of_values,
    format_p_value,
    format_result,
    values_on_test,
)
from utils.command import next_command

MAX_LISTED_ROWS = 3


def describe_comparison(comparison: Comparison) -> str:
    """What the table shows: how many runs, which metric, and which value of it is best."""
    metric = comparison.metric
    text = _count(len(comparison.runs), "run")
    if len(comparison.rows) < len(comparison.runs):
        text += f" in {_count(len(comparison.rows), 'row')}"
    text += f"; {metric.name} on validation"
    if metric.direction is not None:
        text += f" at the best step, {metric.direction} is best"
    return text


def conclude(comparison: Comparison) -> list[str]:
    """Which row is best, and how certain that is: one sentence for each group of rows."""
    sentences = _describe_best(comparison)
    by_verdict: dict[str, list[Row]] = {}
    for row in comparison.compared:
        if row.verdict is not None:
            by_verdict.setdefault(row.verdict.text, []).append(row)
    for verdict in (WORSE, WITHIN_NOISE, SINGLE_SEED, NO_SPREAD, EQUAL):
        if verdict in by_verdict:
            sentences.append(_describe(comparison, verdict, by_verdict[verdict]))
    sentences += _describe_excluded(comparison)
    return sentences


def _describe_best(comparison: Comparison) -> list[str]:
    """A sentence about the best row, or about there being none."""
    best = comparison.best
    name = comparison.metric.name
    if best is None:
        if comparison.metric.direction is None:
            return [f"Whether higher or lower {name} is better is unknown."]
        if comparison.data_title is None:
            return ["There is no run to compare."]
        return [
            f"No run on {comparison.data_title}, the data set of the newest run, has finished with "
            f"a finite {name}. Name the runs to compare others."
        ]
    noun = "seed"
    if len(best.newest.repetition) > 1:  # a seed and a fold
        noun = "repetition"
    seeds = f"{format_number_of_values(best)} {noun}"
    if len(best.runs) > 1:
        seeds += "s"
    sentence = f"{comparison.label(best)}: {name} {format_result(best)} ({seeds})."
    if len(comparison.compared) > 1:
        noun = "value"
        if any(len(row.values) > 1 for row in comparison.compared):
            noun = "mean"
        sentence = f"The {comparison.metric.direction} {noun}: {sentence}"
    return [sentence]


def _describe_excluded(comparison: Comparison) -> list[str]:
    """A sentence about the runs that are not compared, with the reasons."""
    counts: Counter[str] = Counter()
    for row in comparison.rows:
        if row.exclusion:
            counts[row.exclusion] += len(row.runs)
    if not counts:
        return []
    parts = [f"{_count(number, 'run')} ({reason})" for reason, number in counts.items()]
    return [f"Not compared: {', '.join(parts)}."]


def _describe(comparison: Comparison, verdict: str, rows: Sequence[Row]) -> str:
    """One sentence about the rows that have a verdict."""
    labels = _list_labels(comparison, rows)
    if verdict == WORSE:
        return f"It is better than {labels}{_distance(comparison, rows)}: {_certainty(rows)}."
    if verdict == WITHIN_NOISE:
        return f"Within noise: {labels}.{_advice(rows)}"
    if verdict == SINGLE_SEED:
        return (
            f"A single seed shows no noise, so nothing can be said about {labels}. "
            f"Repeat with other seeds: {_repeat_command(comparison)}"
        )
    if verdict == NO_SPREAD:
        return (
            f"The repetitions of the best row and of {labels} show no spread, so nothing can be "
            "said about the difference."
        )
    return f"Equal: {labels}."


def _repeat_command(comparison: Comparison) -> str:
    """The command that repeats a compared run with a seed that no run has."""
    seeds = [0]
    for run in comparison.runs:
        seed = run.settings.get("seed")
        if isinstance(seed, int):
            seeds.append(seed)
    settings = comparison.compared[0].newest.folder / "settings.yaml"
    return next_command("train.py", "--config", settings, f"seed={max(seeds) + 1}")


def footnotes(comparison: Comparison) -> list[str]:
    """How the columns of the table were computed."""
    verdicts = [row.verdict for row in comparison.compared if row.verdict is not None]
    notes = []
    if any(len(row.values) < len(row.runs) for row in comparison.compared):
        notes.append("n: how many of the runs have a finite value; only these count")
    if any(verdict.p_value is not None for verdict in verdicts):
        notes.append(
            "p: probability that chance alone makes a row differ so much from the best one "
            "(Welch's t-test, Holm's correction for all pairs of rows)"
        )
    if any(verdict.is_pooled for verdict in verdicts):
        notes.append(
            "*: this row or the best one has a single seed; the test uses the pooled spread of the "
            "rows with several"
        )
    if any(verdict.seeds is not None for verdict in verdicts):
        notes.append(
            "seeds to tell: the seeds that each row needs, so that a difference of this size is "
            "found (power 80 %, alpha 5 % for all rows together)"
        )
    if any(values_on_test(row, comparison.metric.name) for row in comparison.compared):
        notes.append("results on the test set are shown, but do not decide which row is best")
    return notes


def _list_labels(comparison: Comparison, rows: Sequence[Row]) -> str:
    labels = map(comparison.label, rows[:MAX_LISTED_ROWS])
    text = "; ".join(labels)
    if len(rows) > MAX_LISTED_ROWS:
        text += f"; and {len(rows) - MAX_LISTED_ROWS} more"
    return text


def _distance(comparison: Comparison, rows: Sequence[Row]) -> str:
    """How far the best mean is from that of another row, if this is about one row."""
    best = comparison.best
    if len(rows) > 1 or best is None or best.mean is None or rows[0].mean is None:
        return ""
    return f" by {abs(best.mean - rows[0].mean):.2g}"


def _certainty(rows: Sequence[Row]) -> str:
    """The largest p value of some rows, and the tests: ``p = 0.012 (Welch's t-test)``."""
    p_values = []
    tests = []
    for row in rows:
        if row.verdict is not None and row.verdict.p_value is not None:
            p_values.append(row.verdict.p_value)
            test = "Welch's t-test"
            if row.verdict.is_pooled:
                test = "t-test with a pooled spread"
            if test not in tests:
                tests.append(test)
    largest = max(p_values)
    sign = "= "
    if len(rows) > 1:
        sign = "≤ "
    if largest < MIN_P_VALUE:
        sign = ""  # format_p_value has its own
    return f"p {sign}{format_p_value(largest)} ({' and '.join(tests)})"


def _advice(rows: Sequence[Row]) -> str:
    """How many seeds would tell, if this is about one row."""
    verdict = rows[0].verdict
    if len(rows) > 1 or verdict is None:
        return ""
    if verdict.seeds is None:
        return " More seeds would hardly tell."
    return f" About {verdict.seeds} seeds in each row would tell."


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun}s"
