"""The misclassified samples of a split that a classifier is most wrong about."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

MAX_SAMPLES = 25


@dataclass(frozen=True)
class Misclassified:
    """A misclassified sample."""

    index: int  # of the sample in its data set
    true: int
    predicted: int
    confidence: float  # probability of the predicted class
    true_probability: float  # probability of the true class


def worst_misclassified(samples: Mapping[str, Tensor]) -> list[Misclassified]:
    """The misclassified samples whose true class got the lowest probability, the worst first.

    Args:
        samples: ``index``, ``true``, ``predicted``, ``probability`` (of the predicted class) and
            ``true_log_probability``, each of shape (N,).

    Returns:
        At most `MAX_SAMPLES`; none whose probability is NaN.
    """
    scores = samples["true_log_probability"]
    is_wrong = (samples["true"] != samples["predicted"]) & ~scores.isnan()
    wrong = is_wrong.nonzero().squeeze(1)
    order = scores[wrong].argsort(stable=True)
    found = []
    for row in wrong[order[:MAX_SAMPLES]].tolist():
        found.append(
            Misclassified(
                index=int(samples["index"][row]),
                true=int(samples["true"][row]),
                predicted=int(samples["predicted"][row]),
                confidence=samples["probability"][row].item(),
                true_probability=math.exp(scores[row]),
            )
        )
    return found
