"""Statistical tests on the results of runs, computed without SciPy.

All tests are two-sided. A result of None means that there is no answer: without any spread, no
difference can be judged.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist, fmean, stdev

ALPHA = 0.05  # the probability of reporting a difference that does not exist
POWER = 0.8  # the probability of finding a difference that exists
MAX_SEEDS = 1000
FRACTION_TERMS = 10_000
PRECISION = 1e-15
INTEGRATION_INTERVALS = 400  # an even number


def deviation(values: Sequence[float]) -> float | None:
    """The standard deviation of a sample (n - 1); None for a single value."""
    if len(values) < 2:
        return None
    return stdev(values)


def welch_test(first: Sequence[float], second: Sequence[float]) -> float | None:
    """The p value of Welch's t-test: do two samples have different means?

    Args:
        first: at least two values.
        second: at least two values. Its variance may differ from that of `first`.

    Returns:
        The p value; None if neither sample has any spread.
    """
    first_error = stdev(first) / math.sqrt(len(first))
    second_error = stdev(second) / math.sqrt(len(second))
    error = math.hypot(first_error, second_error)  # squares of tiny numbers would vanish
    if error == 0:
        return None
    t = (fmean(first) - fmean(second)) / error
    # The formula of Welch and Satterthwaite, with the parts of the variance as fractions of it.
    first_part = (first_error / error) ** 2
    second_part = (second_error / error) ** 2
    inverse = first_part**2 / (len(first) - 1) + second_part**2 / (len(second) - 1)
    return student_p_value(t, 1 / inverse)


def pooled_deviation(samples: Sequence[Sequence[float]]) -> tuple[float, int] | None:
    """The common standard deviation of several samples, and its degrees of freedom.

    Samples of a single value have no spread of their own, and do not count. None without others.
    """
    weighted = []
    degrees = 0
    for values in samples:
        if len(values) > 1:
            weighted.append(stdev(values) * math.sqrt(len(values) - 1))
            degrees += len(values) - 1
    if degrees == 0:
        return None
    return math.hypot(*weighted) / math.sqrt(degrees), degrees


def pooled_test(
    first: Sequence[float], second: Sequence[float], spread: float, degrees: int
) -> float | None:
    """The p value of a t-test with a spread that was estimated from other samples, too.

    Args:
        first: one or more values.
        second: one or more values.
        spread: the standard deviation, see `pooled_deviation`.
        degrees: its degrees of freedom.
    """
    if spread == 0:
        return None
    error = spread * math.sqrt(1 / len(first) + 1 / len(second))
    return student_p_value((fmean(first) - fmean(second)) / error, degrees)


def holm(p_values: Sequence[float], hypotheses: int) -> list[float]:
    """Corrects p values for multiple comparisons by Holm's method; the order stays the same.

    Args:
        p_values: those of the comparisons that are reported.
        hypotheses: the number of comparisons from which they were selected. If a row is compared
            with the best one, these are all pairs of rows: any row might have been the best.
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for position, index in enumerate(order):
        scaled = p_values[index] * (hypotheses - position)
        largest = max(largest, min(1.0, scaled))
        corrected[index] = largest
    return corrected


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The p value of McNemar's exact test: is one of two models correct more often?

    Samples on which both are correct, or both wrong, do not count. The others are compared with
    fair coin flips. For numeric targets, the same test is known as the sign test.

    Args:
        only_first: number of samples on which only the first model is correct.
        only_second: number of samples on which only the second one is.
    """
    total = only_first + only_second
    fewer = min(only_first, only_second)
    if 2 * fewer == total:
        return 1.0
    return min(1.0, 2 * incomplete_beta(total - fewer, fewer + 1, 0.5))


def seeds_needed(difference: float, spread: float, alpha: float = ALPHA) -> int | None:
    """How many seeds each of two rows needs for a t-test to find a difference, with POWER.

    Args:
        difference: between the means.
        spread: standard deviation over seeds.
        alpha: level of the test.

    Returns:
        The number; None if it is larger than MAX_SEEDS, or without a difference or spread.
    """
    if difference == 0 or spread == 0:
        return None
    effect = abs(difference) / spread
    normal = NormalDist()
    quantiles = normal.inv_cdf(1 - alpha / 2) + normal.inv_cdf(POWER)
    estimate = 2 * (quantiles / effect) ** 2  # of the normal distribution: slightly too low
    if estimate > MAX_SEEDS:
        return None
    seeds = max(2, math.floor(estimate))
    while _power(effect, seeds, alpha) < POWER:
        seeds += 1
    if seeds > MAX_SEEDS:
        return None
    return seeds


def _power(effect: float, seeds: int, alpha: float) -> float:
    """The probability that a t-test finds a difference of `effect` standard deviations.

    It is an integral over the estimate of the standard deviation, relative to the true one, whose
    square has a chi-squared distribution. It is computed by Simpson's rule.
    """
    degrees = 2 * (seeds - 1)
    shift = effect * math.sqrt(seeds / 2)
    limit = _critical_value(degrees, alpha)
    lowest = max(0.0, 1 - 9 / math.sqrt(2 * degrees))
    highest = 1 + 9 / math.sqrt(degrees)
    width = (highest - lowest) / INTEGRATION_INTERVALS
    log_factor = math.log(2) + degrees / 2 * math.log(degrees / 2) - math.lgamma(degrees / 2)
    normal = NormalDist()
    missed = 0.0
    for index in range(INTEGRATION_INTERVALS + 1):
        ratio = lowest + index * width
        if ratio == 0:
            continue  # its density is zero
        density = math.exp(log_factor + (degrees - 1) * math.log(ratio) - degrees * ratio**2 / 2)
        not_found = normal.cdf(limit * ratio - shift) - normal.cdf(-limit * ratio - shift)
        missed += _simpson_weight(index) * density * not_found
    return 1 - missed * width / 3


def _simpson_weight(index: int) -> int:
    if index in (0, INTEGRATION_INTERVALS):
        return 1
    if index % 2 == 1:
        return 4
    return 2


@lru_cache
def _critical_value(degrees: int, alpha: float) -> float:
    """The t value whose p value is `alpha`, by bisection."""
    low = 1.0
    high = 1.0
    while student_p_value(high, degrees) > alpha:
        high *= 2
    while high - low > 1e-9:
        middle = (low + high) / 2
        if student_p_value(middle, degrees) > alpha:
            low = middle
        else:
            high = middle
    return high


def student_p_value(t: float, degrees: float) -> float:
    """The probability of a t value at least this far from zero, in Student's distribution."""
    return incomplete_beta(degrees / 2, 0.5, degrees / (degrees + t * t))


def incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function I_x(a, b)."""
    if x <= 0:
        return 0.0
    if x >= 1:
        return 1.0
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    factor = math.exp(a * math.log(x) + b * math.log1p(-x) - log_beta)
    # The continued fraction converges quickly below the mean of the distribution only.
    if x < (a + 1) / (a + b + 2):
        return factor / a * _beta_fraction(a, b, x)
    return 1 - factor / b * _beta_fraction(b, a, 1 - x)


def _beta_fraction(a: float, b: float, x: float) -> float:
    """The continued fraction of the incomplete beta function, by the method of Lentz."""
    tiny = 1e-300  # in the place of a denominator of zero
    numerator = 1.0
    denominator = 1 / _not_zero(1 - (a + b) * x / (a + 1), tiny)
    value = denominator
    for term in range(1, FRACTION_TERMS):
        even = term * (b - term) * x / ((a + 2 * term - 1) * (a + 2 * term))
        odd = -(a + term) * (a + b + term) * x / ((a + 2 * term) * (a + 2 * term + 1))
        for coefficient in (even, odd):
            denominator = 1 / _not_zero(1 + coefficient * denominator, tiny)
            numerator = _not_zero(1 + coefficient / numerator, tiny)
            change = numerator * denominator
            value *= change
        if abs(change - 1) < PRECISION:
            break
    return value


def _not_zero(value: float, tiny: float) -> float:
    if abs(value) < tiny:
        return tiny
    return value
