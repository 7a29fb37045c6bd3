"""Calibration: whether the probability of a predicted class is how often it is correct.

Samples are divided by the probability of their predicted class into bins of equal width, as by Guo
et al. (arXiv:1706.04599). A bin excludes its lower and includes its upper limit.
"""

from dataclasses import dataclass

from torch import Tensor

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """The samples in each of B bins.

    Attributes:
        counts: their number, int64, shape (B,).
        confidence: the mean probability of the predicted class; 0 in an empty bin.
        accuracy: the fraction of correct predictions; 0 in an empty bin.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor


def calibrate(probability: Tensor, is_correct: Tensor, bins: int = BINS) -> Calibration:
    """Compares probabilities with correct predictions.

    Args:
        probability: that of the predicted class, shape (N,).
        is_correct: 1 if the prediction is the true class, else 0, float64, shape (N,).
        bins: their number, B.
    """
    positions = _positions(probability, bins)
    counts = positions.bincount(minlength=bins)
    confidence = positions.bincount(probability.double(), minlength=bins)
    accuracy = positions.bincount(is_correct, minlength=bins)
    divisor = counts.clamp(min=1)
    return Calibration(counts, confidence / divisor, accuracy / divisor)


def calibration_error(probability: Tensor, is_correct: Tensor, bins: int = BINS) -> Tensor:
    """The expected calibration error (ECE), a scalar; the arguments are those of `calibrate`.

    It is the difference between accuracy and mean probability in a bin, averaged over the samples.
    """
    positions = _positions(probability, bins)
    gaps = positions.bincount(is_correct - probability, minlength=bins)
    return gaps.abs().sum() / len(probability)


def _positions(probability: Tensor, bins: int) -> Tensor:
    """The number of the bin of each sample, int64, shape (N,)."""
    return (probability * bins).ceil().clamp(1, bins).long() - 1
