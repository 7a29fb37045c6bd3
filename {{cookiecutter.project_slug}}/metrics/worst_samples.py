"""The misclassified samples of a split that a classifier is most wrong about."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.process_group import all_gather_object

MAX_SAMPLES = 25


@dataclass(frozen=True, order=True)
class Misclassified:
    """A misclassified sample; the worst is the smallest."""

    log_probability: float  # of the true class
    index: int  # of the sample in its data set
    true: int
    predicted: int
    confidence: float  # probability of the predicted class


class WorstSamples:
    """Keeps the misclassified samples whose true class got the lowest probability.

    They stay on the device until `compute` is called. At most `MAX_SAMPLES` are kept.
    """

    def __init__(self) -> None:
        # Correct samples are kept until there are enough others, with a log-probability of
        # infinity: the host would have to wait to find out how many there are.
        self.samples = torch.empty(0, 3, dtype=torch.int64)  # index, true, predicted
        self.scores = torch.empty(0, 2)  # log-probability of the true class, confidence

    def update(self, logits: Tensor, target: Tensor, indices: Tensor) -> None:
        """Adds a batch.

        Args:
            logits: shape (N, C).
            target: class indices, int64, shape (N,).
            indices: indices of the samples in their data set, int64, shape (N,).
        """
        log_probabilities = logits.detach().float().log_softmax(1)
        highest, predicted = log_probabilities.max(1)
        of_target = log_probabilities.gather(1, target.unsqueeze(1)).squeeze(1)
        of_target = of_target.masked_fill(predicted == target, torch.inf)

        batch_samples = torch.stack([indices, target, predicted], dim=1)
        batch_scores = torch.stack([of_target, highest.exp()], dim=1)
        samples = torch.cat([self.samples.to(logits.device), batch_samples])
        scores = torch.cat([self.scores.to(logits.device), batch_scores])
        kept = min(MAX_SAMPLES, len(samples))
        worst = scores[:, 0].topk(kept, largest=False).indices
        self.samples = samples[worst]
        self.scores = scores[worst]

    def compute(self) -> list[Misclassified]:
        """The worst samples of all processes, the worst first."""
        local_rows = (self.samples.tolist(), self.scores.tolist())
        found = []
        for samples, scores in all_gather_object(local_rows):
            for sample, sample_scores in zip(samples, scores, strict=True):
                index, true, predicted = sample
                score, confidence = sample_scores
                if score < math.inf:  # which is false for NaN, too
                    found.append(Misclassified(score, index, true, predicted, confidence))
        return sorted(found)[:MAX_SAMPLES]
