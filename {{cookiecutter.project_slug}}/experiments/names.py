"""Names of runs for tables: their folders without what all of them have in common."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.runs import Run

MAX_NAMED_RUNS = 2


def common_folder(runs: Sequence[Run]) -> Path:
    """The folder that contains all runs."""
    parents = []
    for run in runs:
        parents.append(run.folder.absolute().parent)
    return Path(os.path.commonpath(parents))


def short_names(runs: Sequence[Run]) -> dict[Path, str]:
    """The path of each run below their common folder, by the run folder."""
    if not runs:
        return {}
    common = common_folder(runs)
    names = {}
    for run in runs:
        names[run.folder] = run.folder.absolute().relative_to(common).as_posix()
    return names


def list_runs(runs: Sequence[Run], names: Mapping[Path, str]) -> str:
    """The names of the first runs, and how many there are besides."""
    text = ", ".join(names[run.folder] for run in runs[:MAX_NAMED_RUNS])
    if len(runs) > MAX_NAMED_RUNS:
        text += f" and {len(runs) - MAX_NAMED_RUNS} more"
    return text
