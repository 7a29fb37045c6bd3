"""Compares runs: python compare.py --help."""

import argparse
import difflib
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from experiments.comparison import Comparison, compare_runs
from experiments.conclusions import conclude, describe_comparison, footnotes
from experiments.markdown import to_markdown
from experiments.pair import Pair, compare_pair, difference_table
from experiments.removal import failed_runs, remove_run
from experiments.runs import Run, find_runs
from experiments.samples import SampleComparison, describe_samples, sample_table
from experiments.tables import comparison_table, format_console, remarks_of_run, to_csv
from logger.console import escape_invisible
from utils.command import CommandParser, next_command, run_command
from utils.errors import USER_CODE_ERRORS, UserError, first_line
from utils.files import replace_file
from utils.paths import path_argument

RUNS = Path("runs")
FORMATS = {"html": (".html", ".htm"), "csv": (".csv",), "md": (".md",)}
MAX_SHOWN_CHARACTERS = 60  # of an option that a message quotes
MAX_DRAWN_SAMPLES = 16  # for each of two runs
DRAWN_SPLITS = ("train", "validation", "test")
MAX_SHOWN_SAMPLES = 5  # for each of two runs
UNLIMITED_WIDTH = 100_000  # of an output that is no terminal


def main() -> None:
    """Prints a table of runs or what differs between two of them, and writes reports."""
    arguments = parse_arguments()
    arguments.runs = resolve_paths(arguments.runs)
    runs = select_runs(arguments.runs, arguments.tag)
    if arguments.failed:
        list_failed(runs, arguments.remove, arguments.yes)
        return
    two_runs = find_two_runs(arguments.runs)
    if two_runs is not None:
        runs = list(two_runs)
    comparison = compare_runs(runs, arguments.by, arguments.metric, arguments.mode)
    if arguments.sort == "best":
        comparison.sort_by_value()
    pair = None
    if two_runs is not None:
        pair = compare_pair(*two_runs, comparison.metric)
        print_pair(pair)
    print_comparison(comparison)
    for warning in comparison.warnings:
        print(f"warning: {escape_invisible(warning)}")
    write_reports(arguments, comparison, pair)


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
        help="a run folder, or a folder of runs; default: runs",
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
            const=Path(),
            metavar="FILE",
            help=f"write a report; default: report{suffixes[0]} in the folder of the runs",
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
    for name, suffixes in FORMATS.items():
        file = getattr(arguments, name)
        if file is None or file == Path():
            continue
        if file.is_dir() or file.suffix.lower() not in suffixes:
            raise UserError(f"--{name} {file}: name a file that ends with {suffixes[0]}")
        is_in_run = (file.parent / "settings.yaml").exists()
        if is_in_run and file.exists() and not file.name.startswith("report"):
            raise UserError(f"--{name} {file} is a file of a run; choose another name")


def select_runs(paths: Sequence[Path], tag: str | None) -> list[Run]:
    """The runs that the command line names, the newest first.

    Raises:
        UserError: if there are none.
    """
    runs = find_runs(paths)
    if tag is None:
        return runs
    tagged = [run for run in runs if tag in run.tags]
    if not tagged:
        tags = sorted({tag for run in runs for tag in run.tags})
        message = f"--tag {tag!r}: no run has this tag"
        similar = difflib.get_close_matches(tag, tags, n=1)
        if similar:
            message += f"; did you mean {similar[0]}?"
        if tags:
            message += f" The runs have {', '.join(tags)}"
        raise UserError(message)
    return tagged


def resolve_paths(paths: Sequence[Path]) -> list[Path]:
    """The paths on the command line, with that of a run in the place of ``last``."""
    if not RUNS.exists() and (not paths or Path("last") in paths):
        raise UserError(f"there is no folder {RUNS}; start a run: {next_command('train.py')}")
    resolved = []
    for path in paths or [RUNS]:
        if path == Path("last"):
            path = find_runs([RUNS])[0].folder
        resolved.append(path)
    return resolved


def find_two_runs(paths: Sequence[Path]) -> tuple[Run, Run] | None:
    """The two runs that the command line names; None if it names others, or folders of runs."""
    if len(paths) != 2:
        return None
    first = find_runs(paths[:1])
    second = find_runs(paths[1:])
    if len(first) > 1 or len(second) > 1 or first[0].folder.samefile(second[0].folder):
        return None
    return first[0], second[0]


def print_comparison(comparison: Comparison) -> None:
    """Prints the table, and what follows from it."""
    print(f"{describe_comparison(comparison)}\n")
    print(format_console(comparison_table(comparison), output_width()))
    print()
    for note in footnotes(comparison):
        print(note)
    for sentence in conclude(comparison):
        print(escape_invisible(sentence))


def print_pair(pair: Pair) -> None:
    """Prints all that differs between two runs, and on which samples."""
    print(format_console(difference_table(pair), output_width()))
    for samples in pair.samples:
        print()
        for line in describe_samples(samples, pair.names):
            print(escape_invisible(line))
        if samples.only_first or samples.only_second:
            table = sample_table(samples, pair.names, MAX_SHOWN_SAMPLES)
            print(f"\n{format_console(table, output_width())}")
    print()


def output_width() -> int:
    """The width of the terminal in characters; unlimited for a file or a pipe."""
    if sys.stdout.isatty():
        return shutil.get_terminal_size().columns
    return UNLIMITED_WIDTH


def list_failed(runs: Sequence[Run], remove: bool, yes: bool) -> None:
    """Prints the runs that have failed or were killed; deletes them after a question."""
    failed = failed_runs(runs)
    if not failed:
        print(f"no failed or killed run among {len(runs)}")
        return
    for run in failed:
        remark = "; ".join(remarks_of_run(run))
        line = f"{run.folder}  {run.state}"
        if run.step is not None:
            line += f" at step {run.step}"
        if remark:
            line += f": {remark}"
        print(escape_invisible(line))
    if not remove:
        return
    if not yes and not is_confirmed(f"Delete {len(failed)} of {len(runs)} runs? [y/N] "):
        print("nothing was deleted")
        return
    for run in failed:
        remove_run(run)
        print(f"deleted {escape_invisible(str(run.folder))}")


def is_confirmed(question: str) -> bool:
    """Asks a question on the terminal; only y and yes confirm it.

    Raises:
        UserError: if nobody can answer.
    """
    try:
        answer = input(question)
    except EOFError as error:
        print()
        raise UserError("nobody answered the question; add --yes to delete the runs") from error
    return answer.strip().lower() in ("y", "yes")


def write_reports(arguments: argparse.Namespace, comparison: Comparison, pair: Pair | None) -> None:
    """Writes the reports that the command line asks for."""
    default_folder = Path()
    if len(arguments.runs) == 1:
        default_folder = arguments.runs[0]
    for name, suffixes in FORMATS.items():
        file = getattr(arguments, name)
        if file is None:
            continue
        if file == Path():
            file = default_folder / f"report{suffixes[0]}"
        content = make_report(name, comparison, pair)
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, content.encode(errors="backslashreplace"))
        print(f"saved in {file}")


def make_report(name: str, comparison: Comparison, pair: Pair | None) -> str:
    """The content of a report: html, csv or md."""
    if name == "html":
        from experiments.report import make_page

        images = {}
        if pair is not None:
            images = draw_differing_samples(pair)
        return make_page(comparison, pair, images)
    if name == "csv":
        return to_csv(comparison)
    return to_markdown(comparison)


def draw_differing_samples(pair: Pair) -> dict[str, list[bytes]]:
    """PNG files of the samples on which one of two runs is better, by split.

    If the data are unavailable, that is a warning, and the page has no images.
    """
    images: dict[str, list[bytes]] = {}
    try:
        for samples in pair.samples:
            if samples.is_class and samples.split in DRAWN_SPLITS:
                images[samples.split] = draw_split(pair, samples)
    except (UserError, *USER_CODE_ERRORS) as error:
        print(f"warning: no images of samples: {first_line(error)}")
    return images


def draw_split(pair: Pair, samples: SampleComparison) -> list[bytes]:
    """A figure of those on which only the first run is correct, and one for the second."""
    from sample_figures import draw_samples  # imports torch, which takes 1.3 s

    folder = pair.runs[0].folder
    drawn = []
    for name, names in zip(pair.names, (samples.only_first, samples.only_second), strict=True):
        titles = {}
        for sample in names[:MAX_DRAWN_SAMPLES]:
            titles[sample] = samples.describe(sample)
        if titles:
            image = draw_samples(folder, samples.split, titles, f"correct only in {name}")
            if image is not None:
                drawn.append(image)
    return drawn


if __name__ == "__main__":
    run_command(main)
