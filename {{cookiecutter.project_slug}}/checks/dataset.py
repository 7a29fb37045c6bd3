"""The samples: counts, classes, duplicates, broken samples and ranges."""

from collections.abc import Mapping

from base.base_dataset import BaseDataset
from base.base_trainer import BaseTrainer
from builders import build_dataset
from checks.classes import check_order, check_targets
from checks.duplicates import check_duplicates
from checks.fitted_statistics import check_fitted_statistics
from checks.ranges import check_ranges
from checks.samples import Reading, read_split
from checks.trial import copied
from checks.verdict import Verdict, list_some


def check_data(trainer: BaseTrainer) -> Verdict:
    """Reads the samples of each split for some seconds, and looks at some batches."""
    verdict = Verdict("data")
    datasets = {split: loader.dataset for split, loader in trainer.loaders.items()}
    test = _build_test_set(trainer)
    if test is not None:
        datasets["test"] = test
    readings = {}
    with copied(trainer):
        for split in reversed(datasets):  # the training set is usually the largest
            readings[split] = read_split(datasets[split], split)
    _report_readings(verdict, datasets, readings)
    check_targets(verdict, datasets["train"], readings["train"])
    check_duplicates(verdict, readings)
    with copied(trainer) as trial:
        for split in trainer.loaders:
            if not readings[split].non_finite:
                check_ranges(verdict, trial, split)
        if any(reading.broken for reading in readings.values()):
            return verdict
        check_order(verdict, trial)
        is_read = all(reading.read == reading.total for reading in readings.values())
        if is_read or trainer.dataset.in_memory:  # otherwise it would take too long
            check_fitted_statistics(verdict, datasets)
    return verdict


def _build_test_set(trainer: BaseTrainer) -> BaseDataset | None:
    """The test set, which is only searched for leaks; None if there is none."""
    try:
        test = build_dataset(trainer.settings, "test")
        test.load_state_dict(trainer.dataset.state_dict())
    except Exception:  # whatever the code of a data set may raise: it may have no test set
        return None
    if len(test) == 0:
        return None
    return test


def _report_readings(
    verdict: Verdict, datasets: Mapping[str, BaseDataset], readings: Mapping[str, Reading]
) -> None:
    """Adds the number of samples of each split, and those that cannot be used."""
    for split in datasets:
        reading = readings[split]
        count = f"{reading.total:,}"
        if reading.read < reading.total:
            count += f" ({reading.read:,} read)"
        verdict.figures[split] = count
        if reading.broken:
            verdict.failures.append(
                f"{len(reading.broken)} {split} samples cannot be read, such as {reading.broken[0]}"
            )
        if reading.non_finite:
            verdict.failures.append(
                f"{len(reading.non_finite)} {split} samples contain NaN or infinity: "
                f"{list_some(reading.non_finite)}"
            )
