"""Compares runs: python compare.py --help."""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from experiments.comparison import Comparison, compare_runs
from experiments.console_report import format_comparison, format_pair
from experiments.markdown import to_markdown
from experiments.pair import Pair, compare_pair
from experiments.removal import describe_failed, failed_runs, remove_run
from experiments.runs import Run
from experiments.selection import find_two_runs, resolve_paths, select_runs
from experiments.tables import to_csv
from logger.console import escape_invisible
from utils.command import CommandParser, is_confirmed, next_command, run_command
from utils.errors import USER_CODE_ERRORS, UserError, first_line
from utils.files import replace_file
from utils.paths import path_argument

FORMATS = {"html": (".html", ".htm"), "csv": (".csv",), "md": (".md",)}
DEFAULT_FILE = Path()  # of --html without FILE; "--html ." gives an equal, but different object
MAX_SHOWN_CHARACTERS = 60  # of an option that a message quotes


def main() -> None:
    """Prints a table of runs or what differs between two of them, and writes reports."""
    arguments = parse_arguments()
    paths = resolve_paths(arguments.runs)
    runs = select_runs(paths, arguments.tag)
    if arguments.failed:
        list_failed(runs, arguments.remove, arguments.yes)
        return
    two_runs = find_two_runs(paths, runs)
    names_runs = len(arguments.runs) > 0
    comparison = compare_runs(
        runs, arguments.by, arguments.metric, arguments.mode, same_data=not names_runs
    )
    if arguments.sort == "best":
        comparison.sort_by_value()
    pair = None
    if two_runs is not None:
        pair = compare_pair(*two_runs, comparison.metric)
        print(f"{format_pair(pair)}\n")
    print(format_comparison(comparison))
    write_reports(arguments, paths, comparison, pair)


def parse_arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = CommandParser(
        description="Compares runs. Those that differ only in their seed or fold form one row: "
        "mean ± standard deviation. With two run folders, lists everything in which they differ."
    )
    parser.add_argument(
        "runs",
        nargs="*",
        type=path_argument,
        metavar="RUN",
        help="a run folder, or a folder of runs; default: runs, and only the data set of the "
        "newest run",
    )
    parser.add_argument(
        "--by",
        type=split_keys,
        default=[],
        metavar="KEY,...",
        help="settings that make a row; other settings may differ within it",
    )
    parser.add_argument(
        "--metric", metavar="NAME", help="metric on validation; default: checkpoint.monitor"
    )
    parser.add_argument(
        "--mode", choices=("max", "min"), help="which value is best; default: as the runs record it"
    )
    parser.add_argument("--tag", metavar="TAG", help="only runs with this tag")
    parser.add_argument(
        "--sort", choices=("newest", "best"), default="newest", help="order; default: newest first"
    )
    parser.add_argument("--failed", action="store_true", help="list failed and killed runs")
    parser.add_argument(
        "--remove", action="store_true", help="with --failed: delete them, after a question"
    )
    parser.add_argument("--yes", action="store_true", help="with --remove: do not ask")
    for name, suffixes in FORMATS.items():
        parser.add_argument(
            f"--{name}",
            nargs="?",
            type=path_argument,
            const=DEFAULT_FILE,
            metavar="FILE",
            help=f"write a report; default: report{suffixes[0]} in RUN, or here for several RUNs",
        )
    arguments, unknown = parser.parse_known_intermixed_args()
    if unknown:
        raise UserError(f"unknown option {unknown[0][:MAX_SHOWN_CHARACTERS]}; see --help")
    check_arguments(arguments)
    return arguments


def split_keys(text: str) -> list[str]:
    """The keys in a text such as ``optimizer.lr,model.width``."""
    return list(map(str.strip, text.split(",")))


def check_arguments(arguments: argparse.Namespace) -> None:
    """Raises a UserError if options contradict each other."""
    if arguments.remove and not arguments.failed:
        raise UserError("--remove deletes failed runs only; add --failed")
    if arguments.yes and not arguments.remove:
        raise UserError("--yes answers the question of --failed --remove; add these options")
    if arguments.failed:
        for name in ("by", "metric", "mode", *FORMATS):
            if getattr(arguments, name):
                raise UserError(f"--{name} has no effect with --failed; leave it out")
    for name, suffixes in FORMATS.items():
        file = getattr(arguments, name)
        if file is not None and file is not DEFAULT_FILE:
            check_report_file(name, file, suffixes)


def check_report_file(name: str, file: Path, suffixes: Sequence[str]) -> None:
    """Raises a UserError, which begins with the option, if a report cannot be this file."""
    argument = f"--{name} {file}"
    if file.is_dir():
        command = next_command("compare.py", file, f"--{name}")
        raise UserError(
            f"{argument} is a folder; name a file that ends with {suffixes[0]}, or for a report "
            f"about the runs in the folder: {command}"
        )
    if file.suffix.lower() not in suffixes:
        raise UserError(f"{argument}: name a file that ends with {suffixes[0]}")
    for folder in file.parents:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{argument}: {folder} is not a folder")
    is_in_run = any((folder / "settings.yaml").exists() for folder in file.parents)
    if is_in_run and file.exists() and not file.name.startswith("report"):
        raise UserError(f"{argument} is a file of a run; choose another name")


def list_failed(runs: Sequence[Run], remove: bool, yes: bool) -> None:
    """Prints the runs that have failed or were killed; deletes them after a question."""
    failed = failed_runs(runs)
    if not failed:
        print(f"no failed or killed run among {len(runs)}")
        return
    for run in failed:
        print(escape_invisible(describe_failed(run)))
    if not remove:
        return
    if not yes and not is_confirmed(f"Delete {len(failed)} of {len(runs)} runs? [y/N] "):
        print("nothing was deleted")
        return
    kept = 0
    for run in failed:
        try:
            remove_run(run)
        except (OSError, UserError) as error:
            kept += 1
            print(f"warning: {escape_invisible(str(error))}", file=sys.stderr)
        else:
            print(f"deleted {escape_invisible(str(run.folder))}")
    if kept > 0:
        raise UserError(f"{kept} of {len(failed)} runs were not deleted; the warnings say why")


def write_reports(
    arguments: argparse.Namespace, paths: Sequence[Path], comparison: Comparison, pair: Pair | None
) -> None:
    """Writes the reports that the command line asks for."""
    default_folder = Path()
    if len(paths) == 1:
        default_folder = paths[0]
    for name, suffixes in FORMATS.items():
        file = getattr(arguments, name)
        if file is None:
            continue
        if file is DEFAULT_FILE:
            file = default_folder / f"report{suffixes[0]}"
        content = make_report(name, comparison, pair)
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, content.encode(errors="backslashreplace"))
        print(f"saved in {file}")


def make_report(name: str, comparison: Comparison, pair: Pair | None) -> str:
    """The content of a report: html, csv or md."""
    if name == "csv":
        return to_csv(comparison)
    if name == "md":
        return to_markdown(comparison)
    from experiments.report import make_page

    return make_page(comparison, pair, draw_differing_samples(pair))


def draw_differing_samples(pair: Pair | None) -> Mapping[str, Sequence[bytes]]:
    """PNG files of the samples on which only one of two runs is correct, by split.

    If the data are unavailable, that is a warning, and the page has no images.
    """
    if pair is None or not pair.has_disputed_samples:
        return {}
    from evaluation.sample_figures import draw_differences  # imports torch, which takes 1.3 s

    try:
        return draw_differences(pair)
    except (UserError, *USER_CODE_ERRORS) as error:
        print(f"warning: no images of samples: {first_line(error)}", file=sys.stderr)
        return {}


if __name__ == "__main__":
    run_command(main)
