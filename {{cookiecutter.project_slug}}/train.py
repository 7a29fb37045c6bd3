"""Trains a model with the given settings: python train.py --help."""

import argparse
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if __name__ == "__main__":  # Ctrl-C during the imports below ends the process without a traceback
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from config.differences import describe_settings
from config.help import SettingsParser
from config.loading import changes_that_need_force, load_settings, to_yaml
from config.reading import DEFAULT, read_file
from config.schema import Settings
from logger.console import configure_logging, format_table, log
from storage import run_folder
from storage.repository import Code, describe_difference, read_code
from utils.command import next_command, run_command
from utils.errors import UserError, first_line
from utils.imports import fast_imports
from utils.paths import folder_argument, path_argument, text_argument
from utils.ranks import is_main_process, world_size

if TYPE_CHECKING:
    from base.base_dataset import BaseDataset
    from base.base_trainer import BaseTrainer
    from base.batch_loader import BatchLoader


def main() -> int:
    """Starts a new run, or resumes one; returns the exit code."""
    arguments = parse_arguments()
    if arguments.repeat is not None:
        prepare_repetition(arguments)
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
        type=text_argument,
        action="append",
        default=[],
        metavar="TAG",
        help="a tag for the manifest; can be repeated, and adds a tag with --resume",
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="a setting, such as trainer.epochs=3"
    )
    return parser.parse_command_line()


def prepare_repetition(arguments: argparse.Namespace) -> None:
    """Takes the settings file of the run that is to be repeated; ``repeat`` becomes its folder.

    Raises:
        UserError: if there is no such run, or another option names other settings.
    """
    for option in ("config", "resume"):
        if getattr(arguments, option) is not None:
            raise UserError(
                f"--{option} cannot be combined with --repeat, which starts a new run with the "
                "settings of another one; change single settings by KEY=VALUE"
            )
    files = run_folder.find_checkpoints(arguments.repeat, best=False)
    folder = run_folder.run_folder_of(files[0])
    arguments.config = folder / "settings.yaml"
    if not arguments.config.is_file():
        raise UserError(f"--repeat {arguments.repeat}: there is no file {arguments.config}")
    arguments.repeat = folder.resolve()


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
        from logger.run_log import find_tracker
        from sanity_check import check_trainer
        from utils.device import select_device
        from utils.process_group import (
            all_gather_object,
            destroy_process_group,
            initialize_process_group,
        )
        from utils.randomness import seed_everything

    find_tracker(settings.logger.tracker)  # fails if its package is missing
    configure_logging()
    step = 0 if state is None else state["progress"]["step"]
    initialize_process_group(select_device(settings.device), step)
    seed_everything(settings.seed, settings.deterministic)
    earlier_run = arguments.repeat if state is None else folder
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

    with open_run(settings.run_name, folder, resumed=state is not None) as run:
        trainer = builders.build_trainer(settings, model, loaders, run)
        check_trainer(trainer)
        if state is not None:
            restore(trainer, state)
        configure_logging(run / "train.log")
        run_training(trainer, arguments, state, changes)
        exit_code = describe_end(trainer)
    # After a stop, torchrun ends the other processes as soon as the first one has exited.
    all_gather_object(None)
    destroy_process_group()
    return exit_code


def run_training(
    trainer: "BaseTrainer",
    arguments: argparse.Namespace,
    state: Mapping[str, Any] | None,
    changes: Sequence[str],
) -> None:
    """Trains, and records what the run consists of and how it has ended."""
    from run_length import describe_new_length
    from storage.non_finite_guard import fit_with_recovery
    from storage.run_result import recording_result

    code = Code({})
    if is_main_process():
        code = read_code(run_folder.PROJECT, trainer.run)
    with recording_result(trainer, code.description):
        if is_main_process():
            write_manifest(trainer, code, arguments, resumed=state is not None)
            log.info("%s", describe_origin(trainer.settings, arguments, state))
            if arguments.repeat is not None and state is None:
                record_repetition(trainer.run, arguments.repeat)
        describe_start(trainer, changes)
        if state is not None and not changes:
            describe_new_length(trainer, state["settings"]["trainer"])
        if trainer.options.profile is not None:
            print_profile(trainer, trainer.options.profile)
        fit_with_recovery(trainer)
    if is_main_process():
        record_test_split(trainer)
        if trainer.is_finished():
            compare_with_original(trainer.run)


def restore(trainer: "BaseTrainer", state: Mapping[str, Any]) -> None:
    """Restores the state of a checkpoint, or of the file of a step with a non-finite value.

    Raises:
        UserError: if it does not fit the settings.
    """
    from optim.schedulers import check_total_steps

    trainer.load_state_dict(state)
    trainer.training_time.continue_from(trainer.progress.step)
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


def write_manifest(
    trainer: "BaseTrainer", code: Code, arguments: argparse.Namespace, resumed: bool
) -> None:
    """Writes what the run consists of into its folder."""
    from storage.environment import describe_hardware, installed_versions

    run = trainer.run
    code_at_start = run_folder.read_manifest(run).get("git")
    manifest = run_folder.write_manifest(
        run,
        to_yaml(trainer.settings),
        resumed,
        git=code.description,
        device=describe_device(trainer),
        processes=world_size(),
        data=describe_data(trainer.loaders["train"]),
        validation=describe_data(trainer.loaders[trainer.monitored_set]),
        hardware=describe_hardware(trainer.device),
        versions=installed_versions(),
    )
    run_folder.add_note(run, arguments.note, arguments.tag)
    log.debug("%s", manifest)
    if not resumed:
        run_folder.write_patch(run, code.patch)
    elif isinstance(code_at_start, dict):
        difference = describe_difference(code_at_start, code.description)
        if difference:
            log.warning("the code differs from that at the start of the run: %s", difference)


def record_repetition(run: Path, original: Path) -> None:
    """Records which run this one repeats, and logs what differs from it."""
    from storage.repetition import compare_origins

    run_folder.add_to_manifest(run, repeats=str(original))
    log.info("%s", "\n  ".join(compare_origins(run, original)))


def compare_with_original(run: Path) -> None:
    """Logs whether a run has the same weights and metrics as the one that it repeats, if any."""
    from storage.repetition import compare_ends

    original = run_folder.read_manifest(run).get("repeats")
    if original is None:
        return
    try:
        lines = compare_ends(run, Path(original))
    except (OSError, UserError) as error:  # it may have been deleted by now
        log.warning("%s: the final weights are not compared: %s", original, error)
        return
    log.info("%s", "\n".join([f"compared with {original}", *lines]))


def describe_data(loader: "BatchLoader") -> dict[str, Any]:
    """The samples of a loader in a manifest; the hash is that of the whole data set."""
    dataset = loader.dataset
    samples = loader.sample_count
    return {"title": dataset.title, "samples": samples, "hash": dataset.fingerprint}


def describe_origin(
    settings: Settings, arguments: argparse.Namespace, state: Mapping[str, Any] | None
) -> str:
    """Which settings the run has: those of a file or of the resumed run, and changes."""
    if state is not None:
        values = state["settings"]
        origin = "those of the run"
    else:
        file = arguments.config or DEFAULT
        values = read_file(file)
        origin = str(file)
    return describe_settings(settings, values, origin, arguments.settings)


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
    if settings.subset:
        log.warning("%s: the results are not those of all samples", settings.subset)
    log.info("run folder: %s", trainer.run)
    describe_progress(trainer)


def describe_progress(trainer: "BaseTrainer") -> None:
    """Logs how far a resumed run has come."""
    progress = trainer.progress
    if progress.step > 0:
        log.info("resuming from step %d", progress.step)
    if progress.stop_reason:
        log.info("the trainer ended the run at step %d: %s", progress.step, progress.stop_reason)
    elif trainer.stops_early and progress.step < trainer.total_steps:
        log.info("%s; trainer.early_stop=N continues it", trainer.describe_early_stop())
    elif trainer.training_time.is_up and progress.step < trainer.total_steps:
        end = trainer.training_time.describe_end(progress.step)
        log.info("%s; trainer.max_minutes=N continues it", end)
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
