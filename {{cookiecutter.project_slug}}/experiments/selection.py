"""Which runs the arguments of compare.py name."""

import difflib
from collections.abc import Sequence
from pathlib import Path

from experiments.runs import Run, find_runs, run_folders
from utils.command import next_command
from utils.errors import UserError

RUNS = Path("runs")


def resolve_paths(paths: Sequence[Path]) -> list[Path]:
    """The paths on the command line, with that of a run in the place of ``last``.

    Raises:
        UserError: if there is no folder of runs, but it is needed.
    """
    if not paths:
        paths = [RUNS]
    resolved = []
    for path in paths:
        needs_runs = path in (RUNS, Path("last"))
        if needs_runs and not RUNS.exists():
            raise UserError(f"there is no folder {RUNS}; start a run: {next_command('train.py')}")
        if path == Path("last"):
            path = find_runs([RUNS])[0].folder
        resolved.append(path)
    return resolved


def select_runs(paths: Sequence[Path], tag: str | None) -> list[Run]:
    """The runs that the command line names, the newest first.

    Args:
        paths: run folders, or folders of runs.
        tag: only runs with this tag; None for all.

    Raises:
        UserError: if there are none.
    """
    runs = find_runs(paths)
    if tag is None:
        return runs
    tagged = [run for run in runs if tag in run.tags]
    if not tagged:
        raise UserError(_describe_unknown_tag(tag, runs))
    return tagged


def _describe_unknown_tag(tag: str, runs: Sequence[Run]) -> str:
    tags = sorted({tag for run in runs for tag in run.tags})
    message = f"--tag {tag!r}: no run has this tag"
    similar = difflib.get_close_matches(tag, tags, n=1)
    if similar:
        message += f"; did you mean {similar[0]}?"
    if tags:
        message += f" The runs have {', '.join(tags)}"
    return message


def find_two_runs(paths: Sequence[Path], runs: Sequence[Run]) -> tuple[Run, Run] | None:
    """The two runs that the command line names, in its order; None if it names anything else.

    Args:
        paths: those on the command line.
        runs: what was found there.
    """
    if len(paths) != 2 or len(runs) != 2:
        return None
    by_folder = {run.folder.resolve(): run for run in runs}
    named = []
    for path in paths:
        folders = list(run_folders(path))
        if len(folders) != 1 or folders[0].resolve() not in by_folder:
            return None
        named.append(by_folder[folders[0].resolve()])
    return named[0], named[1]
