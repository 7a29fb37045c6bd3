"""Trains a model with the given settings: python train.py --help."""

import argparse
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.help import command_parser
from config.loading import DEFAULT, changes_that_need_force, load_settings, to_yaml
from config.schema import Settings
from storage import run_folder
from utils.command import run_command
from utils.errors import COMMAND_PREFIX, UserError
from utils.imports import fast_imports
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
        return resume_run(Path(arguments.resume), arguments)
    settings = load_settings(arguments.config or DEFAULT, arguments.settings)
    interrupted = run_folder.find_interrupted_run(settings.name, arguments.run_dir)
    if interrupted is not None:  # torchrun has restarted this command
        return resume_run(interrupted, arguments)
    return train(settings, arguments.run_dir)


def parse_arguments() -> argparse.Namespace:
    """The arguments of the command line."""
    parser = command_parser("Trains a model, or resumes its training.")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"settings file; default: config/{DEFAULT.name}"
    )
    parser.add_argument(
        "--resume", metavar="RUN|last", help="resume a run, or the run that saved most recently"
    )
    parser.add_argument(
        "--force", action="store_true", help="resume even with other data or other settings"
    )
    parser.add_argument(
        "--run-dir", type=Path, metavar="DIR", help="run folder; default: runs/<name>/<time>"
    )
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="a setting, such as trainer.epochs=3"
    )
    return parser.parse_intermixed_args()


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
    folder = run_folder.run_folder_of(file)
    if not run_folder.is_run(folder):
        raise UserError(
            f"--resume {file}: the file is not in a run folder; to start a new run with its "
            f"weights, use model.init_from={file}"
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
    # torch takes 1.3 s to import, so it is imported after the settings have been checked.
    with fast_imports():
        import builders
        from logger.console import configure_logging, log
        from logger.run_log import find_tracker
        from sanity_check import check_trainer
        from storage.non_finite_guard import fit_with_recovery
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
    loaders = builders.build_training_loaders(settings)
    dataset = loaders["train"].dataset
    if state is None:
        changes = []
        model = builders.build_new_model(settings, dataset)
    else:
        changes = check_changes(state, settings, dataset, force)
        model = builders.build_model(settings, dataset)  # the trainer loads the weights

    opened: AbstractContextManager[Path] = nullcontext(Path())
    if is_main_process():
        opened = run_folder.open_run(settings.name, folder, resumed=state is not None)
    with opened as run:
        run = all_gather_object(run)[0]
        trainer = builders.build_trainer(settings, model, loaders, run)
        check_trainer(trainer)
        if state is not None:
            trainer.load_state_dict(state)
            if "batches" in state:  # the file of a step with a non-finite value
                trainer.guard.checked_until = trainer.progress.step + 1
        configure_logging(run / "train.log")
        describe_start(trainer, changes)
        if settings.trainer.profile is not None:
            print_profile(trainer, settings.trainer.profile)
        fit_with_recovery(trainer)
        was_stopped = bool(trainer.stop_signal) and not trainer.is_finished()
        if was_stopped:
            log.info(
                "stopped and saved; resume: %spython train.py --resume %s", COMMAND_PREFIX, run
            )
        else:
            log.info("evaluate: %spython evaluate.py %s", COMMAND_PREFIX, run)
            log.info("curves: %stensorboard --logdir %s", COMMAND_PREFIX, run)
    destroy_process_group()
    if was_stopped:
        return 128 + trainer.stop_signal
    return 0


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


def describe_start(trainer: "BaseTrainer", changes: Sequence[str]) -> None:
    """Writes the manifest, and logs the model, the data, the device and the run folder."""
    from logger.console import format_table, log

    settings = trainer.settings
    dataset = trainer.dataset
    device = describe_device(trainer)
    if is_main_process():
        data = {"title": dataset.title, "samples": len(dataset), "hash": dataset.fingerprint}
        manifest = run_folder.write_manifest(
            trainer.run, to_yaml(settings), device=device, processes=world_size(), data=data
        )
        log.debug("%s", manifest)
    for change in changes:
        log.warning("--force: resuming with %s", change)
    if settings.trainer.strategy == "fsdp" and world_size() == 1:
        log.warning("trainer.strategy=fsdp has no effect: there is a single process")
    log.info("%s\n", format_table(trainer.model.summary()))
    log.info("%s on %s", dataset.title, device)
    if settings.trainer.compile:
        log.info("trainer.compile: the first steps wait until the model is compiled")
    log.info("run folder: %s", trainer.run)
    if trainer.progress.step > 0:
        log.info("resuming from step %d", trainer.progress.step)
    if trainer.is_finished():
        log.info("all %d steps are done; trainer.epochs=N extends the run", trainer.progress.step)


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
    from logger.console import log
    from profiling import profile_steps

    table = profile_steps(trainer, steps)
    trace = trainer.run / "profile/trace.json"
    log.info("%s\ntrace of the steps, for https://ui.perfetto.dev: %s\n", table, trace)


if __name__ == "__main__":
    run_command(main)
