"""The record of a run in its folder: settings, code, data, versions, and what it repeats."""

import signal
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from base.base_trainer import BaseTrainer
from base.batch_loader import BatchLoader
from builders import build_dataset
from config.loading import to_yaml
from logger.console import log
from logger.curves import BestValue, curves_figure, read_panels
from logger.figures import save_figure
from run_description import describe_device
from storage import run_folder
from storage.environment import describe_hardware, installed_versions
from storage.repetition import compare_ends, compare_origins
from storage.repository import Code, describe_difference
from utils.errors import describe_error, first_line
from utils.ranks import is_main_process, world_size


def record_start(trainer: BaseTrainer, code: Code, arguments: Namespace, resumed: bool) -> None:
    """Writes what the run consists of into its folder; warns if a resumed run has other code.

    Args:
        trainer: the trainer of the run.
        code: the commit, and what differs from it.
        arguments: those of the command line, with `note` and `tag`.
        resumed: whether the run continues.
    """
    run = trainer.run
    code_before = run_folder.read_manifest(run).get("git")
    manifest = run_folder.write_manifest(
        run,
        to_yaml(trainer.settings),
        resumed,
        git=code.description,
        device=describe_device(trainer),
        processes=world_size(),
        data=_describe_data(trainer.loaders["train"]),
        validation=_describe_data(trainer.loaders[trainer.monitored_set]),
        hardware=describe_hardware(trainer.device),
        versions=installed_versions(),
    )
    log.debug("%s", manifest)
    run_folder.add_note(run, arguments.note, arguments.tag)
    if not resumed:
        run_folder.write_patch(run, code.patch)
    elif isinstance(code_before, dict):
        difference = describe_difference(code_before, code.description)
        if difference:
            log.warning("the code differs from that at the start of the run: %s", difference)


@contextmanager
def drawing_curves(trainer: BaseTrainer) -> Iterator[None]:
    """Draws curves.png when the block ends, also after an error.

    A failure to draw it is a warning.

    Args:
        trainer: the trainer of the run.
    """
    has_failed = True
    try:
        yield
        has_failed = False
    finally:
        if trainer.settings.logger.curves and is_main_process():
            _draw_curves(trainer, has_failed)


def _draw_curves(trainer: BaseTrainer, has_failed: bool) -> None:
    file = trainer.run / "curves.png"
    try:
        if has_failed and world_size() > 1:
            # torchrun ends this process as well if another one has failed. SIGTERM stays ignored,
            # because the error of this process is printed after the curves.
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        panels = read_panels(trainer.run / "metrics.csv")
        if not panels:
            return
        progress = trainer.progress
        best = None
        if progress.best_step > 0:
            best = BestValue(
                trainer.monitored_metric, trainer.monitored_set, progress.best_step, progress.best
            )
        heading = f"{trainer.dataset.title}: step {progress.step:,} of {trainer.total_steps:,}"
        figure = curves_figure(panels, heading, trainer.steps_per_epoch, best)
        save_figure(figure, file)
    except Exception as error:  # whatever Matplotlib may raise must not hide what ended the run
        log.warning("%s was not drawn: %s", file, describe_error(error))


def record_repetition(run: Path, original: Path) -> None:
    """Records which run a new run repeats, and logs what differs from it."""
    run_folder.add_to_manifest(run, repeats=str(original))
    log.info("%s", "\n  ".join(compare_origins(run, original)))


def compare_with_original(run: Path) -> None:
    """Logs whether a finished run has the same weights and metrics as the one that it repeats."""
    original = run_folder.read_manifest(run).get("repeats")
    if original is None:
        return
    try:
        lines = compare_ends(run, Path(original))
    except Exception as error:  # its files may be damaged, or have been deleted by now
        log.warning("%s: the final weights are not compared: %s", original, describe_error(error))
        return
    log.info("%s", "\n".join([f"compared with {original}", *lines]))


def record_test_split(trainer: BaseTrainer) -> None:
    """Adds the fingerprint of the test split to the manifest, which evaluate.py compares.

    Of the samples, at most 64 are read. Nothing is added if the data set has no test split.
    """
    try:
        dataset = build_dataset(trainer.settings, "test")
        dataset.load_state_dict(trainer.dataset.state_dict())
        if len(dataset):
            test = {"title": dataset.title, "samples": len(dataset), "hash": dataset.fingerprint}
            run_folder.add_to_manifest(trainer.run, test=test)
    except Exception as error:  # whatever the code of a data set may raise
        log.debug("the test split is not recorded: %s", first_line(error))


def _describe_data(loader: BatchLoader) -> dict[str, Any]:
    """The entry about the samples of a loader; the hash is that of the whole data set."""
    dataset = loader.dataset
    samples = loader.sample_count
    return {"title": dataset.title, "samples": samples, "hash": dataset.fingerprint}
