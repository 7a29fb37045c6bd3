"""Evaluates a trained model: the only command that uses the test set."""

import argparse
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from config.help import SettingsParser
from logger.console import log
from storage.results import METRICS_FILE, Table, print_results, read_metrics, save_results
from storage.run_folder import (
    averaged_checkpoints,
    find_checkpoints,
    locking,
    read_manifest,
    run_folder_of,
)
from utils.command import next_command, run_command
from utils.errors import UserError
from utils.imports import fast_imports
from utils.paths import path_argument
from utils.ranks import is_main_process, world_size

if TYPE_CHECKING:
    from base.base_dataset import BaseDataset
    from base.base_trainer import BaseTrainer
    from base.report import Report

SIGNIFICANT_DIGITS = 6


def main() -> None:
    """Prints metrics and tables, and saves them with figures in the run folder."""
    arguments = parse_arguments()
    runs: list[Path] = arguments.runs
    settings: list[str] = arguments.settings
    if arguments.average is not None:
        runs = [average_best(runs[0], arguments.average, settings)]
    if len(runs) == 1:
        evaluate_run(runs[0], arguments.split, settings)
    else:
        evaluate_runs(runs, arguments.split, settings)


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
    arguments.runs = [arguments.run]
    arguments.settings = []
    for other in arguments.others:
        if isinstance(other, Path):
            arguments.runs.append(other)
        else:
            arguments.settings.append(other)
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


def evaluate_run(run: Path, split: str, settings: Sequence[str]) -> None:
    """Evaluates a model, prints the results and saves them."""
    # These import torch, which takes 1.3 s: not needed for --help.
    with fast_imports():
        from base.report import make_report
        from builders import restore_trainer
        from utils.process_group import destroy_process_group

    trainer, checkpoint = restore_trainer(find_checkpoints(run), split, settings)
    folder = results_folder(trainer, checkpoint, split)
    report_changes(trainer, checkpoint, split, folder)
    report = make_report(trainer, split, trainer.evaluate(split))
    destroy_process_group()
    if is_main_process():
        about = {**about_model(trainer, checkpoint), **rounded(report.metrics)}
        save_report(folder, {**about_data(trainer, split), **about}, report)
        print(f"export: {next_command('export.py', run)}")


def evaluate_runs(runs: Sequence[Path], split: str, settings: Sequence[str]) -> None:
    """Evaluates several models, and the ensemble of all of them."""
    with fast_imports():
        from base.ensemble import build_ensemble, check_same_targets, evaluate_ensemble
        from base.report import all_metrics, make_report
        from builders import restore_trainer
        from utils.process_group import destroy_process_group

    checkpoints: list[Path] = []
    trainers: list[BaseTrainer] = []
    for run in runs:
        same_batches = []
        if trainers:  # each step has the same samples for all
            same_batches = [f"data.batch_size={trainers[0].settings.data.batch_size}"]
        trainer, checkpoint = restore_trainer(
            find_checkpoints(run), split, [*settings, *same_batches]
        )
        if checkpoint in checkpoints:
            raise UserError(f"{checkpoint} is given twice; an ensemble needs different models")
        checkpoints.append(checkpoint)
        trainers.append(trainer)
    ensemble = build_ensemble(trainers, split)
    folder = results_folder(trainers[0], checkpoints[0], split, f"ensemble of {len(runs)}")
    report_changes(trainers[0], checkpoints[0], split, folder)
    members = []
    for trainer, checkpoint in zip(trainers, checkpoints, strict=True):
        metrics = all_metrics(trainer, split, trainer.evaluate(split))
        members.append({**about_model(trainer, checkpoint), **rounded(metrics)})
    check_same_targets(trainers, split)
    report = make_report(ensemble, split, evaluate_ensemble(ensemble, trainers, split))
    destroy_process_group()
    if is_main_process():
        metrics = rounded(report.metrics)
        report.tables = {"members": table_of_members(members, metrics), **report.tables}
        about = {"ensemble": len(members), "members": members, **metrics}
        save_report(folder, {**about_data(ensemble, split), **about}, report)


def average_best(run: Path, count: int, settings: Sequence[str]) -> Path:
    """Saves the mean of the weights of the best checkpoints of a run; returns the file."""
    with fast_imports():
        from base.batch_norm_statistics import recompute_statistics
        from builders import build_loader, restore_trainer
        from storage.averaging import average_checkpoints, average_file, select_best
        from storage.checkpoint_file import save_checkpoint
        from storage.state import load_weights

    if world_size() > 1:
        raise UserError(
            f"--average {count} needs a single process; afterwards, several can evaluate "
            f"checkpoints/average_{count}.pt"
        )
    files = select_best(run, count)
    state, differing = average_checkpoints(files)
    trainer, _ = restore_trainer(files[:1], "train", settings)
    load_weights(trainer.model, state["model"])
    loader = build_loader(trainer.settings, trainer.dataset, training=True)
    state["model"] = recompute_statistics(trainer, loader, differing)
    folder = run_folder_of(files[0])
    file = average_file(folder, count)
    with locking(folder):
        save_checkpoint(file, state)
    steps = ", ".join(map(str, state["averaged_steps"]))
    print(f"{file}: the mean of the checkpoints of steps {steps}")
    return file


def about_data(trainer: "BaseTrainer", split: str) -> dict[str, Any]:
    """The entries of metrics.json about the samples."""
    dataset = trainer.dataset
    return {
        "data": dataset.title,
        "split": split,
        "samples": len(dataset),
        "fingerprint": dataset.fingerprint,
    }


def about_model(trainer: "BaseTrainer", checkpoint: Path) -> dict[str, Any]:
    """The entries of metrics.json about a model."""
    return {"checkpoint": str(checkpoint), "step": trainer.progress.step}


def rounded(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics with the digits that are saved."""
    return {name: round_digits(value) for name, value in metrics.items()}


def round_digits(value: float) -> float:
    """A number with six significant digits."""
    return float(f"{value:.{SIGNIFICANT_DIGITS}g}")


def table_of_members(
    members: Sequence[Mapping[str, Any]], metrics: Mapping[str, float]
) -> list[list[str]]:
    """The metrics of each model of an ensemble and, in the last row, of the ensemble."""
    table = [["checkpoint", *metrics]]
    for member in members:
        row = [member["checkpoint"]]
        for name in metrics:
            row.append(str(member.get(name, "-")))
        table.append(row)
    table.append(["ensemble", *map(str, metrics.values())])
    return table


def save_report(folder: Path, summary: dict[str, Any], report: "Report") -> None:
    """Saves and prints the results."""
    from storage.results import tabulate_predictions

    if report.intervals:
        intervals = {}
        for name, limits in report.intervals.items():
            intervals[name] = [round_digits(limit) for limit in limits]
        summary["intervals"] = intervals
    tables: dict[str, Table] = dict(report.tables)
    if report.predictions:
        tables["predictions"] = tabulate_predictions(report.names, report.predictions)
    save_results(folder, summary, tables, report.figures)
    print_results(folder, summary, report.tables)


def results_folder(
    trainer: "BaseTrainer", checkpoint: Path, split: str, ensemble: str = ""
) -> Path:
    """The folder for the results; other data and models do not replace the run's own results."""
    name = split
    dataset = trainer.dataset
    is_other_data = dataset.title != dataset.trained_on
    if is_other_data and split not in trainer.settings.data.validation_sets:
        name = f"{dataset.title} {split}"
    if trainer.settings.subset:
        name += f"-{trainer.settings.subset}"
    count = averaged_checkpoints(checkpoint)
    if ensemble:
        name += f" {ensemble}"
    elif count is not None:
        name += f" average of {count}"
    return run_folder_of(checkpoint) / "evaluation" / name


def report_changes(trainer: "BaseTrainer", checkpoint: Path, split: str, folder: Path) -> None:
    """Warns if the samples have changed since the last evaluation, or since training."""
    if not is_main_process():
        return
    report_changed_samples(folder / METRICS_FILE, trainer.dataset)
    if split == "test":
        report_changed_test_split(run_folder_of(checkpoint), trainer.dataset)


def report_changed_samples(metrics_file: Path, dataset: "BaseDataset") -> None:
    """Warns if the samples differ from those of the last evaluation of this split.

    A file whose rows are divided into splits is compared with the training data, too: by
    `BaseDataset.load_state_dict`.
    """
    earlier = read_metrics(metrics_file).get("fingerprint")
    if earlier is not None and earlier != dataset.fingerprint:
        log.warning(
            "%s: the samples have changed since the last evaluation, whose results are in %s",
            dataset.title,
            metrics_file,
        )


def report_changed_test_split(run: Path, dataset: "BaseDataset") -> None:
    """Warns if the test split differs from that at the end of training, which train.py records."""
    recorded = read_manifest(run).get("test")
    if not isinstance(recorded, dict) or recorded.get("title") != dataset.title:
        return
    if recorded.get("hash") != dataset.fingerprint:
        log.warning(
            "%s: the test split has changed since training: %s samples then, %d now",
            dataset.title,
            recorded.get("samples"),
            len(dataset),
        )


if __name__ == "__main__":
    run_command(main)
