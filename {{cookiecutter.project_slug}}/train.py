"""Trains a model with the given settings: python train.py --help."""

import argparse
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from config.help import SettingsParser
from config.loading import changes_that_need_force, load_settings
from config.reading import DEFAULT
from config.schema import Settings
from logger.console import configure_logging, log
from storage import run_folder
from storage.repository import Code, read_code
from utils.command import run_command
from utils.errors import UserError
from utils.imports import fast_imports
from utils.paths import folder_argument, path_argument, tag_argument, text_argument
from utils.ranks import is_main_process

if TYPE_CHECKING:
    from base.base_dataset import BaseDataset
    from base.base_trainer import BaseTrainer


def main() -> int:
    """Starts a new run, or resumes one; returns the exit code."""
    arguments = parse_arguments()
    check_combination(arguments)
    if arguments.resume is not None:
        return resume_run(arguments.resume, arguments)
    if arguments.repeat is not None:
        arguments.repeat = find_run_to_repeat(arguments.repeat)
        arguments.config = arguments.repeat / "settings.yaml"
        settings = load_settings_of_run(arguments.config, arguments.settings)
    else:
        settings = load_settings(arguments.config or DEFAULT, arguments.settings)
    interrupted = run_folder.find_interrupted_run(settings.run_name, arguments.run_dir)
    if interrupted is not None:  # torchrun has restarted this command
        return resume_run(interrupted, arguments)
    return train(settings, arguments, arguments.run_dir)


def parse_arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = SettingsParser(
        description="Trains a model, or resumes its training. For several runs at a time on the "
        "CPU of one machine, give each its part of the cores: OMP_NUM_THREADS=1 on two cores."
    )
    parser.add_argument(
        "--config",
        type=path_argument,
        metavar="FILE",
        help=f"settings file; default: config/{DEFAULT.name}",
    )
    parser.add_argument(
        "--resume",
        type=path_argument,
        metavar="RUN|last",
        help="resume a run; last: the one that ran most recently",
    )
    parser.add_argument(
        "--force", action="store_true", help="resume even with other data or other settings"
    )
    parser.add_argument(
        "--run-dir",
        type=folder_argument,
        metavar="DIR",
        help="run folder; default: runs/<name>/<time>; with --resume last, where to look for runs",
    )
    parser.add_argument(
        "--repeat",
        type=path_argument,
        metavar="RUN|last",
        help="start a new run with the settings of another one, and report what differs",
    )
    parser.add_argument(
        "--note",
        type=text_argument,
        metavar="TEXT",
        help="what the run is about, for its manifest; with --resume, another note replaces it",
    )
    parser.add_argument(
        "--tag",
        type=tag_argument,
        action="append",
        default=[],
        metavar="TAG",
        help="a tag for the manifest; can be repeated, and adds a tag with --resume",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="a setting, such as trainer.epochs=3"
    )
    return parser.parse_command_line()


def check_combination(arguments: argparse.Namespace) -> None:
    """Raises a UserError if an option cannot be combined with ``--repeat`` or ``--resume``."""
    advice = "change single settings by KEY=VALUE"
    if arguments.repeat is not None:
        for option in ("config", "resume"):
            if getattr(arguments, option) is not None:
                raise UserError(
                    f"--{option} cannot be combined with --repeat, which starts a new run with the "
                    f"settings of another one; {advice}"
                )
    if arguments.resume is not None:
        if arguments.config is not None:
            raise UserError(
                "--config cannot be combined with --resume, which uses the settings of the run; "
                f"{advice}"
            )
        if arguments.run_dir is not None and str(arguments.resume) != "last":
            raise UserError("--run-dir cannot be combined with --resume RUN; leave it out")


def find_run_to_repeat(run: Path) -> Path:
    """The folder of a run whose settings can be used again.

    Raises:
        UserError: if there is no such run, or it has no settings file.
    """
    files = run_folder.find_checkpoints(run, best=False)
    folder = run_folder.run_folder_of(files[0]).resolve()
    settings_file = folder / "settings.yaml"
    if not settings_file.is_file():
        raise UserError(f"--repeat {run}: there is no file {settings_file}")
    return folder


def load_settings_of_run(file: Path, changes: Sequence[str]) -> Settings:
    """The settings of a run that is repeated; another version of the project may have written them.

    Raises:
        UserError: if this version cannot use them.
    """
    try:
        return load_settings(file, changes)
    except UserError as error:
        raise UserError(f"--repeat, with the settings in {file}: {error}") from error


def resume_run(run: Path, arguments: argparse.Namespace) -> int:
    """Resumes a run from its newest usable checkpoint; returns the exit code."""
    runs = arguments.run_dir or run_folder.RUNS
    files = run_folder.find_checkpoints(run, best=False, runs=runs)
    folder = run_folder.run_folder_of(files[0])
    if run_folder.is_run(folder) and is_main_process():
        run_folder.check_not_in_use(folder)

    with fast_imports():
        from storage.checkpoint_file import load_first_usable

    file, state = load_first_usable(files)
    if not run_folder.is_run(folder):
        raise UserError(
            f"--resume {file}: the file is not in a run folder; to start a new run with its "
            f"weights, use model.init_from={file}"
        )
    if "averaged_steps" in state:
        raise UserError(
            f"--resume {file}: training cannot continue from an average of checkpoints; to start a "
            f"new run with its weights, use model.init_from={file}"
        )
    settings = load_settings(state["settings"], arguments.settings)
    return train(settings, arguments, folder, state)


def train(
    settings: Settings,
    arguments: argparse.Namespace,
    folder: Path | None,
    state: Mapping[str, Any] | None = None,
) -> int:
    """Builds the components and trains, from the state of a checkpoint if there is one.

    Returns:
        0, or 128 plus the number of the signal that stopped training.
    """
    # torch takes 1.3 s to import, so most errors in settings have been reported before.
    with fast_imports():
        import builders
        from run_description import log_end
        from sanity_check import check_trainer
        from storage.run_result import posting_failure
        from utils.process_group import all_gather_object, destroy_process_group

    earlier_run = arguments.repeat
    resumed_run = None
    if state is not None:
        earlier_run = folder
        resumed_run = folder
    with ExitStack() as opened:
        with posting_failure(settings, resumed_run):
            start_processes(settings, state)
            if earlier_run is not None:
                settings = builders.find_data_root(settings, earlier_run)
            loaders = builders.build_training_loaders(settings, state)
            dataset = loaders["train"].dataset
            if state is None:
                changes = []
                model = builders.build_new_model(settings, dataset)
            else:
                changes = check_changes(state, settings, dataset, arguments.force)
                model = builders.build_model(settings, dataset)  # the trainer loads the weights

            run = opened.enter_context(open_run(settings.run_name, folder, state is not None))
            trainer = builders.build_trainer(settings, model, loaders, run)
            check_trainer(trainer)
            if state is not None:
                restore(trainer, state)
            configure_logging(run / "train.log")
            code = read_code_of(trainer)
        run_training(trainer, arguments, code, state, changes)
        log_end(trainer)
    # After a stop, torchrun ends the other processes as soon as the first one has exited.
    all_gather_object(None)
    destroy_process_group()
    if trainer.was_stopped():
        return 128 + trainer.stop_signal
    return 0


def start_processes(settings: Settings, state: Mapping[str, Any] | None) -> None:
    """Sets up logging, the process group and the random generators.

    Raises:
        UserError: if the package of the tracker is missing, or the device is not available.
    """
    from logger.run_log import find_tracker
    from utils.device import select_device
    from utils.process_group import initialize_process_group
    from utils.randomness import seed_everything

    find_tracker(settings.logger.tracker)
    configure_logging()
    step = 0 if state is None else state["progress"]["step"]
    initialize_process_group(select_device(settings.device), step)
    seed_everything(settings.seed, settings.deterministic)


def read_code_of(trainer: "BaseTrainer") -> Code:
    """The commit of the project, and what differs from it; empty except in the main process."""
    if not is_main_process():
        return Code({})
    return read_code(run_folder.PROJECT, trainer.run)


def run_training(
    trainer: "BaseTrainer",
    arguments: argparse.Namespace,
    code: Code,
    state: Mapping[str, Any] | None,
    changes: Sequence[str],
) -> None:
    """Trains, and records what the run consists of and how it has ended."""
    import run_record
    from profiling import log_profile
    from run_description import describe_origin, log_start
    from run_length import log_new_length
    from storage.non_finite_guard import fit_with_recovery
    from storage.run_result import recording_result

    saved_settings = None if state is None else state["settings"]
    with run_record.drawing_curves(trainer), recording_result(trainer, code.description):
        if is_main_process():
            run_record.record_start(trainer, code, arguments, resumed=state is not None)
            log.info("%s", describe_origin(trainer.settings, arguments, saved_settings))
            if arguments.repeat is not None and state is None:
                run_record.record_repetition(trainer.run, arguments.repeat)
        log_start(trainer, changes)
        if saved_settings is not None and not changes:
            log_new_length(trainer, saved_settings["trainer"])
        if trainer.options.profile is not None:
            log_profile(trainer, trainer.options.profile)
        fit_with_recovery(trainer)
    # A signal leaves little time, and the run may be resumed.
    if is_main_process() and not trainer.was_stopped():
        run_record.record_test_split(trainer)
        if trainer.is_finished():
            run_record.compare_with_original(trainer.run)


def restore(trainer: "BaseTrainer", state: Mapping[str, Any]) -> None:
    """Restores the state of a checkpoint, or of the file of a step with a non-finite value.

    Raises:
        UserError: if it does not fit the settings.
    """
    from optim.schedulers import check_total_steps

    trainer.load_state_dict(state)
    step = trainer.progress.step
    abandoned_step = trainer.checkpointer.abandoned_best_step(step)
    if abandoned_step > 0:
        log.warning(
            "the run returns to step %d; the next validation replaces best.pt, which is of step %d",
            step,
            abandoned_step,
        )
        trainer.progress.forget_best()
    trainer.training_time.continue_from(step)
    check_total_steps(
        trainer.schedulers, trainer.settings.scheduler, trainer.total_steps, trainer.steps_per_epoch
    )
    if "batches" in state:  # the file of a step with a non-finite value, which is checked again
        trainer.guard.checked_until = trainer.progress.step + 1


@contextmanager
def open_run(name: str, folder: Path | None, resumed: bool) -> Iterator[Path]:
    """Opens the run folder in the main process; all processes get its path."""
    from utils.process_group import broadcast_object

    if is_main_process():
        with run_folder.open_run(name, folder, resumed) as run:
            yield broadcast_object(run)
    else:
        yield broadcast_object(Path())


def check_changes(
    state: Mapping[str, Any], settings: Settings, dataset: "BaseDataset", force: bool
) -> list[str]:
    """What resuming with these settings and data would change of the run.

    Raises:
        UserError: if there are changes, and `force` does not allow them.
    """
    changes = changes_that_need_force(state, settings, dataset.fingerprint)
    if changes and not force:
        lines = "\n  ".join(["resuming would change the meaning of this run:", *changes])
        raise UserError(f"{lines}\nStart a new run, or add --force")
    return changes


if __name__ == "__main__":
    run_command(main)
