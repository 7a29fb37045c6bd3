"""Warnings about samples that have changed since the last evaluation, or since training."""

from pathlib import Path

from base.base_dataset import BaseDataset
from base.base_trainer import BaseTrainer
from evaluation.results import METRICS_FILE, read_metrics
from logger.console import log
from storage.run_folder import read_manifest, run_folder_of
from utils.ranks import is_main_process


def warn_about_changes(folder: Path, trainer: BaseTrainer, checkpoint: Path, split: str) -> None:
    """Warns if the samples have changed since the last evaluation, or since training.

    Of the splits, only the test split is compared with that at the time of training: a file whose
    rows are divided into splits is compared by `BaseDataset.load_state_dict`.

    Args:
        folder: the folder of the results.
        trainer: a trainer with a loader of the split.
        checkpoint: the evaluated checkpoint.
        split: the evaluated split.
    """
    if not is_main_process():
        return
    _compare_with_last_evaluation(trainer.dataset, folder / METRICS_FILE)
    if split == "test":
        _compare_with_training(trainer.dataset, run_folder_of(checkpoint))


def _compare_with_last_evaluation(dataset: BaseDataset, metrics_file: Path) -> None:
    earlier = read_metrics(metrics_file).get("fingerprint")
    if earlier is not None and earlier != dataset.fingerprint:
        log.warning(
            "%s: the samples have changed since the last evaluation, whose results are in %s",
            dataset.title,
            metrics_file,
        )


def _compare_with_training(dataset: BaseDataset, run: Path) -> None:
    """Compares the test split with the one that train.py has recorded at the end of training."""
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
