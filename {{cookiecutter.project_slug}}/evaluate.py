"""Evaluates a trained model: the only command that uses the test set."""

import argparse
import signal
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from config.help import SettingsParser
from storage.run_folder import find_checkpoints
from utils.command import next_command, run_command
from utils.imports import fast_imports
from utils.paths import path_argument
from utils.ranks import is_main_process


def main() -> None:
    """Prints metrics and tables, and saves them with figures in the run folder."""
    arguments = parse_arguments()
    runs: list[Path] = arguments.runs
    if arguments.average is not None:
        runs = [average_run(runs[0], arguments.average, arguments.settings)]
    if len(runs) == 1:
        evaluate_run(runs[0], arguments.split, arguments.settings)
    else:
        evaluate_runs(runs, arguments.split, arguments.settings)


def parse_arguments() -> argparse.Namespace:
    """The arguments of the command line, with the RUNs in `runs` and KEY=VALUE in `settings`."""
    parser = SettingsParser(
        description="Evaluates a trained model, and saves the results in its run folder. Several "
        "RUNs are evaluated one by one and as an ensemble."
    )
    parser.add_argument(
        "run", type=path_argument, metavar="RUN", help="run folder, checkpoint file, or last"
    )
    parser.add_argument(
        "others",
        type=run_or_setting,
        nargs="*",
        default=[],
        metavar="RUN|KEY=VALUE",
        help="further runs of an ensemble, and settings, such as device=cpu",
    )
    parser.add_argument(
        "--split",
        default="test",
        help="train, validation, test, or one of data.validation_sets; default: test",
    )
    parser.add_argument(
        "--average",
        type=int,
        metavar="N",
        help="evaluate the mean of the weights of the N best checkpoints that "
        "checkpoint.keep_best has kept, and save it as checkpoints/average_N.pt",
    )
    arguments = parser.parse_command_line()
    others: list[Path | str] = arguments.others
    arguments.runs = [arguments.run, *(other for other in others if isinstance(other, Path))]
    arguments.settings = [other for other in others if isinstance(other, str)]
    if arguments.average is not None:
        if arguments.average < 2:
            parser.error(f"--average {arguments.average}: give the number of checkpoints, from 2")
        if len(arguments.runs) > 1:
            parser.error("--average needs a single RUN; average each, then name the files")
    return arguments


def run_or_setting(text: str) -> Path | str:
    """The type of an argument that is a further RUN, or else KEY=VALUE."""
    # The name of a run folder may look like a setting, as seed=1 does.
    if "=" in text and "/" not in text.partition("=")[0] and not Path(text).exists():
        return text
    return path_argument(text)


def average_run(run: Path, count: int, settings: Sequence[str]) -> Path:
    """Averages the best checkpoints of a run; returns the file with the average."""
    with fast_imports():  # torch takes 1.3 s to import: not needed for --help
        from evaluation.averaging import save_average

    file, steps = save_average(run, count, settings)
    print(f"{file}: the mean of the checkpoints of steps {', '.join(map(str, steps))}")
    return file


def evaluate_run(run: Path, split: str, settings: Sequence[str]) -> None:
    """Evaluates a model, prints the results and saves them."""
    with fast_imports():
        from builders import restore_trainer
        from evaluation.changed_samples import warn_about_changes
        from evaluation.report import make_report
        from evaluation.results import print_results, results_folder, save_report
        from evaluation.summary import describe_model, summarize
        from utils.process_group import destroy_process_group

    trainer, checkpoint = restore_trainer(find_checkpoints(run), split, settings)
    folder = results_folder(trainer, checkpoint, split)
    warn_about_changes(folder, trainer, checkpoint, split)
    report = make_report(trainer, split, trainer.evaluate(split))
    destroy_process_group()
    if is_main_process():
        summary = summarize(trainer, split, describe_model(trainer, checkpoint), report)
        save_report(folder, summary, report)
        print_results(folder, summary, report.tables)
        print(f"export: {next_command('export.py', run)}")


def evaluate_runs(runs: Sequence[Path], split: str, settings: Sequence[str]) -> None:
    """Evaluates several models and their ensemble, prints the results and saves them."""
    with fast_imports():
        from evaluation.changed_samples import warn_about_changes
        from evaluation.ensemble import (
            build_ensemble,
            check_same_targets,
            evaluate_ensemble,
            restore_members,
        )
        from evaluation.report import all_metrics, make_report
        from evaluation.results import print_results, results_folder, save_report
        from evaluation.summary import describe_model, summarize, tabulate_members
        from utils.process_group import destroy_process_group

    trainers, checkpoints = restore_members(runs, split, settings)
    ensemble = build_ensemble(trainers, split)
    folder = results_folder(trainers[0], checkpoints[0], split, member_count=len(trainers))
    warn_about_changes(folder, trainers[0], checkpoints[0], split)
    members = []
    for trainer, checkpoint in zip(trainers, checkpoints, strict=True):
        metrics = all_metrics(trainer, split, trainer.evaluate(split))
        members.append(describe_model(trainer, checkpoint, metrics))
    check_same_targets(trainers, split)
    report = make_report(ensemble, split, evaluate_ensemble(ensemble, trainers, split))
    destroy_process_group()
    if is_main_process():
        models = {"ensemble": len(members), "members": members}
        summary = summarize(ensemble, split, models, report)
        report.tables = {"members": tabulate_members(members, report.metrics), **report.tables}
        save_report(folder, summary, report)
        print_results(folder, summary, report.tables)


if __name__ == "__main__":
    run_command(main)
