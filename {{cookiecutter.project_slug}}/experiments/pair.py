"""Lists everything in which two runs differ."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.metric import Metric, validation_metrics, value_at
from experiments.names import short_names
from experiments.rows import format_setting
from experiments.run_files import as_mapping
from experiments.runs import Run
from experiments.samples import SampleComparison, compare_samples
from experiments.tables import format_value

COSTS = {
    "minutes": "minutes",
    "samples_per_second": "samples per second",
    "peak_memory_gb": "peak memory (GB)",
}
# Entries of the metrics.json of an evaluation that are no results.
NO_RESULTS = frozenset({"data", "split", "samples", "checkpoint", "step", "intervals", "files"})
MAX_CELL_CHARACTERS = 70
MAX_COMMON_CHARACTERS = 20  # at the beginning of long texts


@dataclass(frozen=True)
class Difference:
    """Something that differs between two runs.

    Attributes:
        section: run, settings, code, versions, data, validation, cost, or ``evaluation: SPLIT``.
        name: of the value.
        first: the value of the first run; - if it has none.
        second: likewise.
    """

    section: str
    name: str
    first: str
    second: str


@dataclass(frozen=True)
class Pair:
    """Two runs in detail.

    Attributes:
        runs: the two.
        names: what they are called.
        differences: every setting, version, commit and metric that differs.
        samples: one comparison for each split on which both were evaluated.
    """

    runs: tuple[Run, Run]
    names: tuple[str, str]
    differences: Sequence[Difference]
    samples: Sequence[SampleComparison]

    @property
    def has_disputed_samples(self) -> bool:
        """Whether only one of the runs classifies some of the samples correctly."""
        return any(samples.is_class and samples.has_differences for samples in self.samples)


def compare_pair(first: Run, second: Run, metric: Metric) -> Pair:
    """Compares two runs in detail.

    Args:
        first: a run.
        second: another one.
        metric: what decides which step of a run is best.
    """
    names = short_names([first, second])
    return Pair(
        runs=(first, second),
        names=(names[first.folder], names[second.folder]),
        differences=_find_differences(first, second, metric),
        samples=compare_samples(first, second),
    )


def _find_differences(first: Run, second: Run, metric: Metric) -> list[Difference]:
    sections: list[tuple[str, Mapping[str, Any], Mapping[str, Any]]] = [
        ("run", _facts_of_run(first), _facts_of_run(second)),
        ("settings", first.settings, second.settings),
        ("code", _code(first), _code(second)),
        ("versions", _versions(first), _versions(second)),
        ("data", _data(first), _data(second)),
        ("validation", _metrics(first, metric), _metrics(second, metric)),
        ("cost", _costs(first), _costs(second)),
    ]
    for split in dict.fromkeys([*first.evaluations, *second.evaluations]):
        label = f"evaluation: {split}"
        sections.append((label, _evaluation(first, split), _evaluation(second, split)))
    differences: list[Difference] = []
    for section, first_values, second_values in sections:
        differences += _differences(section, first_values, second_values)
    return differences


def difference_table(pair: Pair) -> list[list[str]]:
    """Differences as rows below a header that names the two runs."""
    table = [["", *pair.names]]
    for difference in pair.differences:
        label = f"{difference.section}: {difference.name}"
        if difference.section == "settings":
            label = difference.name
        table.append([label, difference.first, difference.second])
    return table


def _differences(
    section: str, first: Mapping[str, Any], second: Mapping[str, Any]
) -> Iterator[Difference]:
    for name in dict.fromkeys([*first, *second]):
        values = (first.get(name), second.get(name))
        exact = (_format(values[0]), _format(values[1]))
        if exact[0] == exact[1]:
            continue
        texts = exact
        if section != "settings":
            texts = (_round(values[0]), _round(values[1]))
        if texts[0] == texts[1]:  # they differ in further digits
            texts = exact
        yield Difference(section, name, *_shortened(*texts))


def _format(value: Any) -> str:
    if value is None:
        return "-"
    return format_setting(value)


def _round(value: Any) -> str:
    if isinstance(value, float):
        return format_value(value)
    return _format(value)


def _shortened(first: str, second: str) -> tuple[str, str]:
    """Two different texts from shortly before the point where they differ, if they are long."""
    start = 0
    if max(len(first), len(second)) > MAX_CELL_CHARACTERS:
        start = max(0, _common_length(first, second) - MAX_COMMON_CHARACTERS)
    return _cut(first, start), _cut(second, start)


def _common_length(first: str, second: str) -> int:
    """The number of characters before the first one that differs."""
    length = 0
    for character, other in zip(first, second, strict=False):
        if character != other:
            break
        length += 1
    return length


def _cut(text: str, start: int) -> str:
    shown = text[start : start + MAX_CELL_CHARACTERS]
    if start > 0:
        shown = f"…{shown}"
    if start + MAX_CELL_CHARACTERS < len(text):
        shown += "…"
    return shown


def _facts_of_run(run: Run) -> dict[str, Any]:
    return {
        "state": run.state,
        "error": run.result.get("error"),
        "started": run.started[:19].replace("T", " ") or None,
        "step": run.step,
        "mark": run.mark or None,
        "tags": ", ".join(run.tags) or None,
        "note": run.note or None,
        "problems": "; ".join(run.problems) or None,
    }


def _code(run: Run) -> dict[str, Any]:
    return {
        "commit": run.git.get("commit"),
        "dirty": run.git.get("dirty"),
        "uncommitted changes": run.patch_hash or None,
        "template": run.manifest.get("template"),
    }


def _versions(run: Run) -> dict[str, Any]:
    facts = dict(as_mapping(run.manifest.get("versions")))
    for name in ("machine", "device", "processes"):
        facts[name] = run.manifest.get(name)
    for name, value in as_mapping(run.manifest.get("hardware")).items():
        facts[f"hardware: {name}"] = value
    return facts


def _data(run: Run) -> dict[str, Any]:
    facts = {}
    for split in ("data", "validation", "test"):
        for name, value in as_mapping(run.manifest.get(split)).items():
            facts[f"{split}: {name}"] = value
    return facts


def _metrics(run: Run, metric: Metric) -> dict[str, Any]:
    step = metric.best_step(run)
    values: dict[str, Any] = {"best step": step}
    for name in validation_metrics(run):
        values[name] = value_at(run, name, step)
    return values


def _costs(run: Run) -> dict[str, Any]:
    costs = {}
    for name, label in COSTS.items():
        costs[label] = run.number(name)
    return costs


def _evaluation(run: Run, split: str) -> dict[str, Any]:
    values = {}
    if split in run.evaluations:
        for name, value in run.evaluations[split].metrics.items():
            if name not in NO_RESULTS:
                values[name] = value
    return values
