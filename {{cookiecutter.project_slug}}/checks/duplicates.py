"""Samples with the same content, in the training set and between the splits."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from checks.samples import Reading
from checks.verdict import Verdict

MAX_LEAK = 0.01  # fraction of a split that may also be in the training set, by chance
MAX_COPIES = 0.2  # fraction of the training samples, above which they can be no coincidence


def check_duplicates(verdict: Verdict, readings: Mapping[str, Reading]) -> None:
    """Reports copies in the training set, and copies of training samples in other splits."""
    training = readings["train"]
    counts = Counter(training.hashes)
    _check_copies(verdict, training, counts)
    # Samples of a few discrete values have equal ones by chance, in all splits alike.
    repeated = sum(count for count in counts.values() if count > 1)
    repeated_fraction = repeated / max(len(training.hashes), 1)
    for split, reading in readings.items():
        if split == "train":
            continue
        shared = sum(1 for content in reading.hashes if content in counts)
        if shared == 0:
            continue
        message = f"{shared} of {len(reading.hashes)} {split} samples are also in the training set"
        # Of a training set that is read in part, only some copies are found.
        fraction = shared / len(reading.hashes) * training.total / training.read
        if fraction > MAX_LEAK and fraction > 2 * repeated_fraction:
            verdict.failures.append(f"{message}: a leak between the splits")
        else:
            verdict.warnings.append(message)


def _check_copies(verdict: Verdict, training: Reading, counts: Mapping[str, int]) -> None:
    copies = len(training.hashes) - len(counts)
    if copies == 0:
        return
    message = f"{copies} of {len(training.hashes)} training samples are copies of others"
    contradictory = _count_contradictions(training)
    if contradictory:
        message += f", {contradictory} inputs with different targets"
    # Short texts, or rows of a few categories, are often equal by chance.
    if copies > MAX_COPIES * len(training.hashes) and not training.discrete:
        verdict.failures.append(f"{message}; remove duplicated rows before the data are split")
    else:
        verdict.warnings.append(message)


def _count_contradictions(reading: Reading) -> int:
    """The number of inputs that occur with different targets."""
    targets: dict[str, Any] = {}
    contradictory = set()
    for content, target in zip(reading.hashes, reading.targets, strict=True):
        if targets.setdefault(content, target) != target:
            contradictory.add(content)
    return len(contradictory)
