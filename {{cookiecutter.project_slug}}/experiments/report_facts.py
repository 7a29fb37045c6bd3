"""What the page says about runs besides their results: cost, settings, environment, repetition."""

from statistics import fmean, median

from experiments.comparison import Comparison
from experiments.report_html import code_block, element, html_table, paragraph, text
from experiments.rows import Row, format_setting
from experiments.runs import Run
from experiments.tables import mean_of
from utils.command import next_command


def costs_of(row: Row) -> list[tuple[str, str]]:
    """What a run of a row costs on average, as far as it is known."""
    facts = []
    minutes = mean_of(row, "minutes")
    if minutes is not None:
        facts.append(("minutes", f"{minutes:.1f}"))
    speed = mean_of(row, "samples_per_second") or _logged_speed(row)
    if speed is not None:
        facts.append(("samples per second", f"{speed:.0f}"))
    memory = mean_of(row, "peak_memory_gb")
    if memory is not None:
        facts.append(("peak memory, GB", f"{memory:.2f}"))
    return facts


def _logged_speed(row: Row) -> float | None:
    """The median of the logged speeds, of runs that are older than result.json."""
    speeds = []
    for run in row.runs:
        values = dict(run.logged("samples_per_second", "train")).values()
        if values:
            speeds.append(median(values))
    if not speeds:
        return None
    return fmean(speeds)


def cost_table(comparison: Comparison) -> list[list[str]]:
    """The mean cost of the runs of each row, below a header."""
    labels = ["minutes", "samples per second", "peak memory, GB"]
    table = [["row", "runs", "steps", *labels]]
    for row in comparison.rows:
        costs = dict(costs_of(row))
        cells = [costs.get(label, "-") for label in labels]
        table.append([comparison.label(row), str(len(row.runs)), _steps(row), *cells])
    return table


def _steps(row: Row) -> str:
    """The number of steps, or the range of those of several runs."""
    steps = []
    for run in row.runs:
        if run.step is not None:
            steps.append(run.step)
    if not steps:
        return "-"
    if min(steps) < max(steps):
        return f"{min(steps)}–{max(steps)}"
    return str(steps[0])


def settings_tables(run: Run) -> str:
    """All settings; first those that were set on the command line."""
    command = str(run.manifest.get("command") or "")
    changed = [["set on the command line", "value"]]
    rows = [["setting", "value"]]
    for key, value in run.settings.items():
        row = [key, format_setting(value)]
        rows.append(row)
        if f" {key}=" in command.replace("'", ""):
            changed.append(row)
    summary = element("summary", text(f"All {len(run.settings)} settings"))
    settings = element("details", summary, html_table(rows))
    if len(changed) == 1:
        return settings
    return html_table(changed) + settings


def environment_table(run: Run) -> list[list[str]]:
    """When, where and with which versions a run was started, below a header."""
    rows = [["what", "value"]]
    for name in ("started", "resumed", "machine", "device", "processes", "template"):
        value = run.manifest.get(name)
        if value is not None:
            rows.append([name, str(value)])
    for package in ("torch", "numpy"):
        version = run.fact("versions", package)
        if version is not None:
            rows.append([package, str(version)])
    commit = run.git.get("commit")
    if commit is not None:
        changes = ""
        if run.git.get("dirty"):
            changes = " with uncommitted changes"
        rows.append(["commit", f"{commit}{changes}"])
    return rows


def how_to_repeat(run: Run) -> str:
    """The commands that repeat a run, and how it was started."""
    lines = []
    commit = run.git.get("commit")
    if commit:
        lines.append(f"git checkout {str(commit)[:12]}")
    lines.append(next_command("train.py", "--repeat", run.folder))
    parts = [code_block(lines)]
    command = run.manifest.get("command")
    if command:
        parts.append(paragraph(f"It was started with: {command}", "note"))
    if run.patch_hash:
        parts.append(
            paragraph("Its code had uncommitted changes: code.patch in the run folder.", "note")
        )
    elif run.git.get("dirty"):
        parts.append(
            paragraph("Its code had uncommitted changes, which were not recorded.", "note")
        )
    return "".join(parts)
