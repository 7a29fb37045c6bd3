"""Trains a model with the given settings: python train.py --help."""

import argparse
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from config.help import SettingsParser
from config.loading import changes_that_need_force, load_settings, to_yaml
from config.reading import DEFAULT
from config.schema import Settings
from logger.console import configure_logging, format_table, log
from storage import run_folder
from utils.command import next_command, run_command
from utils.errors import UserError, first_line
from utils.imports import fast_imports
from utils.paths import folder_argument, path_argument
from utils.ranks import is_main_process, world_size

if TYPE_CHECKING:
    from base.base_dataset import BaseDataset
    from base.base_trainer import BaseTrainer


def main() -> int:
    """Starts a new run, or resumes one; returns the exit code."""
    arguments = parse_arguments()
    if arguments.resume is not None:
        if arguments.config is not None:
            raise UserError(
                "--config cannot be combined with --resume, which uses the settings of the run; "
                "change single settings by KEY=VALUE"
            )
        if arguments.run_dir is not None and str(arguments.resume) != "last":
            raise UserError("--run-dir cannot be combined with --resume RUN; leave it out")
        return resume_run(arguments.resume, arguments)
    settings = load_settings(arguments.config or DEFAULT, arguments.settings)
    interrupted = run_folder.find_interrupted_run(settings.name, arguments.run_dir)
    if interrupted is not None:  # torchrun has restarted this command
        return resume_run(interrupted, arguments)
    return train(settings, arguments.run_dir)


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
        "settings", nargs="*", metavar="KEY=VALUE", help="a setting, such as trainer.epochs=3"
    )
    return parser.parse_command_line()


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
    return train(settings, folder, state, arguments.force)


def train(
    settings: Settings,
    folder: Path | None,
    state: Mapping[str, Any] | None = None,
    force: bool = False,
) -> int:
    """Builds the components and trains, from the state of a checkpoint if there is one.

    Returns:
        0, or 128 plus the number of the signal that stopped training.
    """
    # torch takes 1.3 s to import, so most errors in settings have been reported before.
    with fast_imports():
        import builders
        from logger.run_log import find_tracker
        from run_length import describe_new_length
        from sanity_check import check_trainer
        from storage.non_finite_guard import fit_with_recovery
        from utils.device import select_device
        from utils.process_group import destroy_process_group, initialize_process_group
        from utils.randomness import seed_everything

    find_tracker(settings.logger.tracker)  # fails if its package is missing
    configure_logging()
    step = 0 if state is None else state["progress"]["step"]
    initialize_process_group(select_device(settings.device), step)
    seed_everything(settings.seed, settings.deterministic)
    if state is not None and folder is not None:
        settings = builders.find_data_root(settings, folder)
    loaders = builders.build_training_loaders(settings, state)
    dataset = loaders["train"].dataset
    if state is None:
        changes = []
        model = builders.build_new_model(settings, dataset)
    else:
        changes = check_changes(state, settings, dataset, force)
        model = builders.build_model(settings, dataset)  # the trainer loads the weights

    with open_run(settings.name, folder, resumed=state is not None) as run:
        trainer = builders.build_trainer(settings, model, loaders, run)
        check_trainer(trainer)
        if state is not None:
            restore(trainer, state)
        configure_logging(run / "train.log")
        if is_main_process():
            write_manifest(trainer)
        describe_start(trainer, changes)
        if state is not None and not changes:
            describe_new_length(trainer, state["settings"]["trainer"])
        if settings.trainer.profile is not None:
            print_profile(trainer, settings.trainer.profile)
        fit_with_recovery(trainer)
        if is_main_process():
            record_test_split(trainer)
        exit_code = describe_end(trainer)
    destroy_process_group()
    return exit_code


def restore(trainer: "BaseTrainer", state: Mapping[str, Any]) -> None:
    """Restores the state of a checkpoint, or of the file of a step with a non-finite value.

    Raises:
        UserError: if it does not fit the settings.
    """
    from optim.schedulers import check_total_steps

    trainer.load_state_dict(state)
    check_total_steps(
        trainer.schedulers, trainer.settings.scheduler, trainer.total_steps, trainer.steps_per_epoch
    )
    if "batches" in state:  # the file of a step with a non-finite value
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


def write_manifest(trainer: "BaseTrainer") -> None:
    """Writes what the run consists of into its folder."""
    dataset = trainer.dataset
    data = {"title": dataset.title, "samples": len(dataset), "hash": dataset.fingerprint}
    manifest = run_folder.write_manifest(
        trainer.run,
        to_yaml(trainer.settings),
        device=describe_device(trainer),
        processes=world_size(),
        data=data,
    )
    log.debug("%s", manifest)


def record_test_split(trainer: "BaseTrainer") -> None:
    """Adds the fingerprint of the test split to the manifest, which evaluate.py compares.

    Of the samples, at most 64 are read. Nothing is added if the data set has no test split.
    """
    from builders import build_dataset

    try:
        dataset = build_dataset(trainer.settings, "test")
        dataset.load_state_dict(trainer.dataset.state_dict())
        if len(dataset):
            test = {"title": dataset.title, "samples": len(dataset), "hash": dataset.fingerprint}
            run_folder.add_to_manifest(trainer.run, test=test)
    except Exception as error:  # whatever the code of a data set may raise
        log.debug("the test split is not recorded: %s", first_line(error))


def describe_start(trainer: "BaseTrainer", changes: Sequence[str]) -> None:
    """Logs the model, the data, the device and the run folder."""
    settings = trainer.settings
    for change in changes:
        log.warning("--force: resuming with %s", change)
    if settings.trainer.strategy == "fsdp" and world_size() == 1:
        log.warning("trainer.strategy=fsdp has no effect: there is a single process")
    log.info("%s\n", format_table(trainer.model.summary()))
    log.info("%s on %s", trainer.dataset.title, describe_device(trainer))
    if settings.trainer.compile:
        log.info("trainer.compile: the first steps wait until the model is compiled")
    if settings.trainer.ema is not None:
        describe_average(settings.trainer.ema, trainer.total_steps)
    log.info("run folder: %s", trainer.run)
    progress = trainer.progress
    if progress.step > 0:
        log.info("resuming from step %d", progress.step)
    if progress.stop_reason:
        log.info("the trainer ended the run at step %d: %s", progress.step, progress.stop_reason)
    elif trainer.stops_early and progress.step < trainer.total_steps:
        log.info("%s; trainer.early_stop=N continues it", trainer.describe_early_stop())
    elif trainer.is_finished():
        log.info("all %d steps are done; trainer.epochs=N extends the run", progress.step)


def describe_average(decay: float, total_steps: int) -> None:
    """Logs what the moving average covers in a run that is too short for its decay."""
    from optim.moving_average import describe_short_average

    description = describe_short_average(decay, total_steps)
    if description:
        log.info("%s", description)


def describe_end(trainer: "BaseTrainer") -> int:
    """Logs the next command; returns the exit code."""
    run = trainer.run
    if trainer.stop_signal and not trainer.is_finished():
        log.info("stopped; resume: %s", next_command("train.py", "--resume", run))
        return 128 + trainer.stop_signal
    log.info("curves: %s", next_command("tensorboard", "--logdir", run))
    log.info("evaluate: %s", next_command("evaluate.py", run))
    return 0


def describe_device(trainer: "BaseTrainer") -> str:
    """The device, the autocast dtype, and the number of processes."""
    dtype = str(trainer.autocast_dtype).removeprefix("torch.")
    description = f"{trainer.device} ({dtype})"
    if world_size() > 1:
        description += f", {world_size()} processes"
    if trainer.sharded:
        description += ", sharded"
    return description


def print_profile(trainer: "BaseTrainer", steps: int) -> None:
    """Logs where the time of a step goes."""
    from profiling import profile_steps

    table = profile_steps(trainer, steps)
    trace = trainer.run / "profile/trace.json"
    log.info("%s\ntrace of the steps, for https://ui.perfetto.dev: %s\n", table, trace)


if __name__ == "__main__":
    run_command(main)
