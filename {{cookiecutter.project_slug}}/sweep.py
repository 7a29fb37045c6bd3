"""Searches settings by many training runs, on one or several machines: python sweep.py --help."""

import argparse
import shutil
import signal
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import filelock

from config.help import SettingsParser
from config.loading import load_settings
from config.schema import Settings
from experiments.devices import find_devices
from experiments.objective import Objective, count_validations, find_objective
from experiments.removal import locking_runs
from experiments.search_space import check_search_space, to_overrides
from experiments.sweep_plan import (
    CHANGEABLE_OPTIONS,
    SweepPlan,
    changed_ranges,
    continue_plan,
    hide_password,
    load_plan,
    make_plan,
    save_plan,
    save_trial_settings,
)
from utils.command import is_confirmed, next_command, run_command
from utils.errors import TRAINING_FAILED, UserError
from utils.paths import path_argument
from utils.ranks import world_size

if TYPE_CHECKING:
    from experiments.scheduler import Scheduler
    from experiments.study import SweepStudy

NOT_SWEEP_OPTIONS = ("settings", "clean", "yes")  # all other arguments are options of the sweep
# Settings that decide how often a run validates: trials may differ if one of them is searched.
VALIDATION_COUNTS = (
    "trainer.epochs",
    "trainer.max_steps",
    "trainer.validate_every_epochs",
    "trainer.validate_every_steps",
)


def main() -> int:
    """Runs a sweep, or continues it; returns the exit code."""
    arguments = parse_arguments()
    if world_size() > 1:
        raise UserError("sweep.py starts torchrun itself; run it without, and use --processes N")
    if find_spec("optuna") is None:
        raise UserError("sweep.py requires the package optuna; pip install -e '.[sweep]'")
    names_sweep = bool(arguments.name or arguments.config or arguments.settings)
    if arguments.clean is not None and not names_sweep:
        raise UserError("--clean needs the name of a sweep: --name NAME")
    plan = make_plan(sweep_options(arguments), arguments.settings)
    if arguments.clean is not None:
        return remove_failed_trials(plan, arguments.yes)
    settings = check_plan(plan)
    return run_sweep(open_folder(plan), settings)


def parse_arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = SettingsParser(
        description="Searches settings: each trial is a run of train.py with other values. The "
        "same command again continues a sweep, also on other machines at the same time."
    )
    parser.add_argument(
        "--config",
        type=path_argument,
        metavar="FILE",
        help="settings file of the trials, or a sweep file such as those in config/sweeps",
    )
    parser.add_argument(
        "--name", help="folder in runs/; alone: continue this sweep, or use config/sweeps/NAME.yaml"
    )
    parser.add_argument(
        "--method",
        choices=("grid", "random", "tpe"),
        help="default: grid for lists, unless --trials is smaller; otherwise tpe",
    )
    parser.add_argument("--trials", type=int, metavar="N", help="number of trials")
    parser.add_argument(
        "--minutes", type=float, metavar="M", help="stop after M minutes, with all states saved"
    )
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time; default: 1")
    parser.add_argument(
        "--processes", type=int, metavar="N", help="training processes of each run; default: 1"
    )
    parser.add_argument(
        "--halving", type=int, metavar="N", help="only the best 1/N of the trials train on"
    )
    parser.add_argument(
        "--storage", metavar="URL", help="database of the study; default: a file in runs/NAME"
    )
    parser.add_argument(
        "--max-failures", type=int, metavar="N", help="stop after N failures in a row; default: 5"
    )
    parser.add_argument(
        "--sampler-seed", type=int, metavar="N", help="seed of the chosen values; default: 0"
    )
    parser.add_argument(
        "--clean", choices=("failed",), help="remove failed trials; the next start repeats them"
    )
    parser.add_argument("--yes", action="store_true", help="remove them without a question")
    parser.add_argument(
        "settings",
        nargs="*",
        metavar="KEY=RANGE",
        help="[a, b, c], range(n), log(a, b), uniform(a, b) or int(a, b); one value is fixed",
    )
    return parser.parse_command_line()


def sweep_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """The options of the sweep that the command line contains, by name."""
    options: dict[str, Any] = {}
    for name, value in vars(arguments).items():
        if value is not None and name not in NOT_SWEEP_OPTIONS:
            options[name] = value
    return options


def check_plan(plan: SweepPlan) -> Settings:
    """Checks everything that can be checked before the first trial.

    Returns:
        The settings of one possible trial, for what is the same in all of them.
    """
    if plan.is_started:
        continue_plan(plan)
        warn_about_sweep_file(plan)
    else:
        check_folder_is_free(plan.folder)
    check_search_space(plan.space, plan.settings)
    example_values = {key: axis.checked_values[0] for key, axis in plan.space.ranges.items()}
    settings = load_settings(plan.settings, to_overrides({**plan.space.fixed, **example_values}))
    warn_about_losses(plan, find_objective(settings))
    find_devices(settings.device, plan.options.processes)
    if plan.options.storage is not None:
        from experiments.study_storage import open_database  # imports Optuna, which takes 0.3 s

        open_database(plan.options.storage).remove_session()
    return settings


def check_folder_is_free(folder: Path) -> None:
    """Raises a UserError if the folder of a new sweep contains anything but hidden files."""
    for file in folder.glob("*"):
        if not file.name.startswith("."):
            raise UserError(f"{folder} is not the folder of a sweep; use another --name")


def warn_about_sweep_file(plan: SweepPlan) -> None:
    """Warns if a sweep continues with other ranges than those in the sweep file of its name.

    That is no error: the command line may have replaced them when the sweep was started.
    """
    file, keys = changed_ranges(plan)
    if keys:
        print(
            f"warning: {plan.folder} continues with its own ranges; {file} has other ranges of "
            f"{', '.join(keys)}: to use these, start a new sweep: --config {file} --name NAME",
            file=sys.stderr,
        )


def warn_about_losses(plan: SweepPlan, objective: Objective) -> None:
    """Warns if the sweep compares losses that are different functions."""
    keys = [key for key in plan.space.ranges if key.startswith("loss.")]
    if keys and objective.metric.rpartition("/")[2] == "loss":
        print(
            f"warning: checkpoint.monitor = {objective.metric}: losses with other values of "
            f"{', '.join(keys)} cannot be compared; monitor another metric",
            file=sys.stderr,
        )


def open_folder(plan: SweepPlan) -> SweepPlan:
    """Creates the folder of a new sweep, or opens that of a sweep to continue.

    Other workers may do it at the same time.

    Returns:
        The plan in the folder, with the options of this worker.
    """
    is_new = not plan.folder.exists()
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(plan.folder / ".lock"):
            if not plan.is_started:
                save_plan(plan)
            opened = continue_plan(plan)
            save_trial_settings(opened)
            return opened
    except OSError:
        if is_new and not plan.is_started:
            shutil.rmtree(plan.folder, ignore_errors=True)
        raise


def run_sweep(plan: SweepPlan, settings: Settings) -> int:
    """Runs the trials until the sweep ends, and prints the results; returns the exit code."""
    from experiments.scheduler import Scheduler
    from experiments.study_storage import explaining_lost_database

    print(f"sweep: {plan.folder}", flush=True)
    factor = plan.options.halving
    if factor is not None:
        print(
            f"after 1, {factor}, {factor**2} ... validations, the best 1/{factor} of the trials "
            "train on; learning rate schedules span the whole run",
            flush=True,
        )
    devices = find_devices(settings.device, plan.options.processes)
    with explaining_lost_database():
        study = open_study(plan, settings)
        scheduler = Scheduler(plan, study, devices)
        scheduler.run()
        return describe_end(plan, study, scheduler)


def open_study(plan: SweepPlan, settings: Settings) -> "SweepStudy":
    """Opens the study of a sweep, or creates it."""
    from experiments.study import SweepStudy

    validations = count_validations(settings)
    if not plan.space.ranges.keys().isdisjoint(VALIDATION_COUNTS):
        validations = None  # it is not the same in all trials
    return SweepStudy(plan, find_objective(settings), validations)


def describe_end(plan: SweepPlan, study: "SweepStudy", scheduler: "Scheduler") -> int:
    """Prints the results and the next command; returns the exit code."""
    from experiments.sweep_report import describe_sweep

    paragraphs = [describe_sweep(plan, study)]
    if scheduler.stop_reason and not study.is_complete():
        paragraphs.append(f"{scheduler.stop_reason}; continue: {continue_command(plan)}")
    print("\n\n".join(filter(None, paragraphs)))
    if scheduler.stop_signal:
        return 128 + scheduler.stop_signal
    has_no_result = study.is_complete() and study.best_trial() is None
    if scheduler.has_too_many_failures() or has_no_result:
        return TRAINING_FAILED
    return 0


def continue_command(plan: SweepPlan) -> str:
    """The command that continues a sweep with the same options."""
    saved = load_plan(plan.folder).options
    arguments = ["--name", plan.folder.name]
    for name in CHANGEABLE_OPTIONS:
        value = getattr(plan.options, name)
        if value is not None and value != getattr(saved, name):
            arguments += [f"--{name.replace('_', '-')}", str(value)]
    storage = plan.options.storage
    hidden = hide_password(storage)
    if storage is not None and hidden != storage:  # the user must add the password again
        arguments += ["--storage", str(hidden)]
    return next_command("sweep.py", *arguments)


def remove_failed_trials(plan: SweepPlan, yes: bool) -> int:
    """Removes the failed trials of a sweep, after a question; returns the exit code."""
    from experiments.sweep_report import describe_failures

    if not plan.is_started:
        raise UserError(f"--clean: {plan.folder} is not the folder of a sweep")
    settings = check_plan(plan)
    study = open_study(continue_plan(plan), settings)
    failed = study.failed_trials()
    if not failed:
        print("no trial has failed")
        return 0
    print(describe_failures(study))
    if not yes and not is_confirmed("Remove these trials? [y/N] "):
        print("nothing was removed")
        return 0
    removed = 0
    with study.lock:  # so that no other worker removes or repeats them at the same time
        for index, trial in study.failed_trials().items():
            if index not in failed or trial.number != failed[index].number:
                continue  # it has failed, or was repeated, while the question waited
            remove_trial_files(plan, index)
            study.remove({index: trial})
            removed += 1
    print(f"removed: {removed}; run them again: {continue_command(plan)}")
    return 0


def remove_trial_files(plan: SweepPlan, index: int) -> None:
    """Deletes the run folders and the output of a trial.

    Raises:
        OSError: if one of them cannot be deleted.
        UserError: if another process uses one of them.
    """
    folder = plan.trial_folder(index)
    if folder.exists():
        locked_folders = [lock.parent for lock in folder.rglob(".lock")]
        with locking_runs(locked_folders):
            shutil.rmtree(folder)
    for pattern in (f"{folder.name}.log", f"{folder.name}_*.log"):
        for output in plan.output_folder.glob(pattern):
            output.unlink()


if __name__ == "__main__":
    run_command(main)
