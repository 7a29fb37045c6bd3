"""Trains a model as the settings say: python train.py --help."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from config.help import command_parser
from config.loading import DEFAULT, changes_that_need_force, load_settings, to_yaml
from config.schema import Settings
from storage import run_folder
from utils.errors import RANK, UV, WORLD, UserError, run_command
from utils.imports import importing

if TYPE_CHECKING:
    from base.base_trainer import BaseTrainer


def main() -> int:
    """Reads the settings, or those of the run to go on with, and trains."""
    parser = command_parser("Trains a model, or goes on training it.")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help=f"default: config/{DEFAULT.name}"
    )
    parser.add_argument("--resume", metavar="RUN|last", help="go on with a run, or the newest one")
    parser.add_argument("--force", action="store_true", help="resume even if that changes the run")
    parser.add_argument("--run-dir", type=Path, metavar="DIR", help="default: runs/<name>/<time>")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="as in trainer.epochs=3")
    arguments = parser.parse_intermixed_args()
    if not arguments.resume:
        settings = load_settings(arguments.config or DEFAULT, arguments.settings)
        if not (begun := run_folder.find_interrupted_run(settings.name, arguments.run_dir)):
            return train(settings, arguments.run_dir)
        arguments.resume, arguments.config = begun, None  # torchrun has started it again
    if arguments.config:
        raise UserError("--resume takes the run's own settings; change single ones by KEY=VALUE")
    runs = arguments.run_dir or run_folder.RUNS
    files = run_folder.find_checkpoints(Path(arguments.resume), best=False, runs=runs)
    if run_folder.is_run(folder := run_folder.run_folder_of(files[0])) and not RANK:
        with run_folder.open_run("", folder, resumed=True):
            pass  # nobody writes there, or files would come and go while they are read

    with importing():
        from storage.checkpoint_file import load_first_usable
    file, state = load_first_usable(files)
    if not run_folder.is_run(folder := run_folder.run_folder_of(file)):
        raise UserError(f"{file} is in no run folder; model.init_from={file} takes its weights")
    settings = load_settings(state["settings"], arguments.settings)
    return train(settings, folder, state, arguments.force)


def train(settings: Settings, folder: Path | None, state: Any = None, force: bool = False) -> int:
    """Builds the parts and trains, from a checkpoint's `state` on if there is one.

    Returns:
        0, or 128 and the signal that stopped training.

    Raises:
        UserError: if settings or data would make it another run, and `force` does not allow that.
    """
    with importing():  # torch takes seconds, so it waits until the settings are known
        from builders import build_model, build_trainer, build_training_loaders, rehearse
        from logger.console import configure_logging, log
        from logger.run_log import find_tracker
        from storage.non_finite import fit_guarded
        from utils import parallel as distributed
        from utils.device import select_device
        from utils.randomness import seed_everything

        find_tracker(settings.logger.tracker)
    configure_logging()
    distributed.start(select_device(settings.device), state["step"] if state else 0)
    seed_everything(settings.seed, settings.deterministic)
    loaders = build_training_loaders(settings)
    dataset = loaders["train"].dataset
    changes = changes_that_need_force(state, settings, dataset.fingerprint) if state else []
    if changes and not force:
        lines = ["going on would change what this run is:", *changes]
        raise UserError("\n  ".join(lines) + "\nStart a new run, or insist with --force")
    model = build_model(settings, dataset, state)
    opened = run_folder.open_run(settings.name, folder, resumed=bool(state))
    with nullcontext(Path()) if RANK else opened as run:
        run = distributed.gather(run)[0]
        trainer = build_trainer(settings, model, loaders, run)
        rehearse(trainer)
        if state:
            trainer.load_state_dict(state)
            trainer.guarded_until = trainer.step + ("batches" in state)  # a step that failed
        _tell(trainer, changes)
        fit_guarded(trainer)
        stopped = trainer.stop_signal and not trainer.finished
        if stopped:
            log.info("stopped and saved; go on with: %spython train.py --resume %s", UV, run)
        else:
            log.info("evaluate: %spython evaluate.py %s", UV, run)
            log.info("curves: %stensorboard --logdir %s", UV, run)
    distributed.stop()
    return 128 + trainer.stop_signal if stopped else 0


def _tell(trainer: "BaseTrainer", changes: Sequence[str]) -> None:
    """Says in the run folder and on the console what the run is and, if asked to, does."""
    from logger.console import configure_logging, format_table, log

    run, dataset, settings = trainer.run, trainer.dataset, trainer.settings
    configure_logging(run / "train.log")
    if not RANK:
        data = {"title": dataset.title, "samples": len(dataset), "hash": dataset.fingerprint}
        about: dict[str, Any] = {"device": trainer.compute, "processes": WORLD, "data": data}
        log.debug(run_folder.write_manifest(run, to_yaml(settings), **about))
    for change in changes:
        log.warning("--force: goes on with %s", change)
    if settings.trainer.strategy == "fsdp" and WORLD == 1:
        log.warning("trainer.strategy=fsdp: there is one process, which has the whole model")
    summary = format_table(trainer.model.summary())
    waits = ", compiled, which the first steps wait for" * settings.trainer.compile
    log.info("%s\n\n%s on %s%s", summary, dataset.title, trainer.compute, waits)
    log.info("run folder: %s%s", run, f", from step {trainer.step} on" * (trainer.step > 0))
    if trainer.finished:
        log.info("all is done at step %d; trainer.epochs=N makes it longer", trainer.step)
    if settings.trainer.profile:
        from profiling import profile_steps

        table = profile_steps(trainer, settings.trainer.profile)
        log.info("%s\nhttps://ui.perfetto.dev shows %s\n", table, run / "profile/trace.json")


if __name__ == "__main__":
    run_command(main)
