"""Calibration: whether the probability of a predicted class is how often it is correct."""

from dataclasses import dataclass

from torch import Tensor

BINS = 15


@dataclass(frozen=True)
class Calibration:
    """Samples by the probability of their predicted class, in bins of equal width.

    Attributes:
        counts: the number of samples in each bin, int64, shape (B,).
        confidence: the mean probability of the predicted class; 0 in an empty bin.
        accuracy: the fraction of correct predictions; 0 in an empty bin.
    """

    counts: Tensor
    confidence: Tensor
    accuracy: Tensor

    @property
    def error(self) -> Tensor:
        """The expected calibration error (ECE) of Guo et al., arXiv:1706.04599, a scalar.

        It is the difference between accuracy and confidence, averaged over the samples.
        """
        gaps = (self.accuracy - self.confidence).abs()
        return (self.counts * gaps).sum() / self.counts.sum()


def calibrate(probability: Tensor, is_correct: Tensor, bins: int = BINS) -> Calibration:
    """Divides samples into bins, each of which excludes its lower and includes its upper limit.

    Args:
        probability: that of the predicted class, shape (N,).
        is_correct: whether the prediction is the true class, bool, shape (N,).
        bins: their number, B.
    """
    positions = (probability.double() * bins).ceil().long() - 1
    positions = positions.clamp(0, bins - 1)
    counts = positions.bincount(minlength=bins)
    divisors = counts.clamp(min=1)
    confidence = positions.bincount(probability.double(), minlength=bins) / divisors
    accuracy = positions.bincount(is_correct.double(), minlength=bins) / divisors
    return Calibration(counts, confidence, accuracy)
