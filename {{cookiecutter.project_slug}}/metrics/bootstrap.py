"""Confidence intervals of metrics: how much they would vary with other samples."""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from utils.randomness import make_generator

RESAMPLES = 1000
CONFIDENCE = 0.95

Samples = Mapping[str, Tensor]


def confidence_intervals(
    metrics: Callable[[Samples], Mapping[str, Tensor]], samples: Samples
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of the bootstrap (Efron and Tibshirani, 1993, chapter 13).

    The samples are drawn with replacement, as many as there are, and the metrics computed anew. The
    limits are percentiles of the results. The same samples always get the same intervals.

    Args:
        metrics: computes scalars by name from the values of samples.
        samples: values by name, each of shape (N, ...), on the CPU.

    Returns:
        The lower and the upper limit by the name of the metric; empty for fewer than two samples.
        It lacks the metrics that are not finite for some of the draws, and those that are the same
        for all of them: if all samples are classified correctly, the draws say nothing about the
        errors on other samples.
    """
    count = len(next(iter(samples.values())))
    if count < 2:  # all draws would be the same
        return {}
    rng = make_generator(0)
    results: dict[str, list[float]] = {}
    for _ in range(RESAMPLES):
        rows = torch.randint(count, (count,), generator=rng)
        drawn = {name: value.index_select(0, rows) for name, value in samples.items()}
        for name, result in metrics(drawn).items():
            results.setdefault(name, []).append(float(result))
    tail = (1 - CONFIDENCE) / 2
    intervals = {}
    for name, values in results.items():
        if all(map(math.isfinite, values)):
            limits = torch.tensor([tail, 1 - tail], dtype=torch.float64)
            low, high = torch.tensor(values, dtype=torch.float64).quantile(limits).tolist()
            if low < high:
                intervals[name] = (low, high)
    return intervals
