"""The tests of compare.py, against SciPy where it is installed."""
# ruff: noqa: D103  the names of the tests say what they test

import math
import random
from typing import Any

import pytest

from experiments import statistics

SAMPLES = [
    ([0.91, 0.92, 0.93], [0.90, 0.95]),
    ([1.0, 2.0, 4.0, 8.0], [3.0, 3.1, 3.2, 3.3, 3.4]),
    ([1e-9, 2e-9, 3e-9], [5e-9, 6e-9, 9e-9]),
    ([0.5, 0.5, 0.500001], [0.6, 0.7]),
    ([1e6, 1e6 + 1], [0.0, 1.0]),
]


@pytest.fixture(scope="module")
def scipy_stats() -> Any:
    return pytest.importorskip("scipy.stats", reason="needs SciPy")


@pytest.mark.parametrize(("first", "second"), SAMPLES)
def test_welch_agrees_with_scipy(scipy_stats: Any, first: list[float], second: list[float]) -> None:
    expected = scipy_stats.ttest_ind(first, second, equal_var=False).pvalue
    assert statistics.welch_test(first, second) == pytest.approx(expected, rel=1e-9)


def test_samples_of_many_sizes_agree_with_scipy(scipy_stats: Any) -> None:
    rng = random.Random(0)
    for _ in range(100):
        first = [rng.gauss(0, 1) for _ in range(rng.randint(2, 40))]
        second = [rng.gauss(1, 3) for _ in range(rng.randint(2, 40))]
        expected = scipy_stats.ttest_ind(first, second, equal_var=False).pvalue
        assert statistics.welch_test(first, second) == pytest.approx(expected, rel=1e-8)


def test_the_pooled_test_of_two_samples_is_that_of_student(scipy_stats: Any) -> None:
    first = [0.91, 0.92, 0.94]
    second = [0.90, 0.91]
    pooled = statistics.pooled_deviation([first, second, [0.5]])
    assert pooled is not None
    expected = scipy_stats.ttest_ind(first, second).pvalue
    assert statistics.pooled_test(first, second, *pooled) == pytest.approx(expected)


def test_without_spread_there_is_no_answer() -> None:
    assert statistics.welch_test([1.0, 1.0], [2.0, 2.0]) is None
    assert statistics.pooled_deviation([[1.0], [2.0]]) is None
    assert statistics.pooled_test([1.0], [2.0], spread=0.0, degrees=3) is None


def test_holm_multiplies_by_the_number_of_hypotheses_that_remain() -> None:
    assert statistics.holm([0.04, 0.01, 0.03], 3) == pytest.approx([0.06, 0.03, 0.06])
    assert statistics.holm([0.04, 0.01, 0.03], 6) == pytest.approx([0.16, 0.06, 0.15])
    assert statistics.holm([0.7, 0.6], 2) == [1.0, 1.0]
    assert statistics.holm([], 0) == []


@pytest.mark.parametrize(
    "counts", [(0, 0), (1, 0), (0, 9), (5, 15), (7, 7), (7, 8), (480, 520), (40_000, 40_500)]
)
def test_mcnemar_agrees_with_scipy(scipy_stats: Any, counts: tuple[int, int]) -> None:
    expected = 1.0
    if sum(counts):
        expected = scipy_stats.binomtest(counts[0], sum(counts), 0.5).pvalue
    assert statistics.mcnemar_exact(*counts) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("effect", [0.15, 0.4, 0.5, 1.0, 1.7, 2.5, 4.0, 8.0, 30.0])
def test_the_needed_seeds_are_the_fewest_with_enough_power(scipy_stats: Any, effect: float) -> None:
    seeds = statistics.seeds_needed(difference=-0.02 * effect, spread=0.02)
    assert seeds is not None

    def power(count: int) -> float:
        degrees = 2 * (count - 1)
        limit = scipy_stats.t.isf(statistics.ALPHA / 2, degrees)
        shift = effect * math.sqrt(count / 2)
        distribution = scipy_stats.nct(degrees, shift)
        return float(distribution.sf(limit) + distribution.cdf(-limit))

    assert power(seeds) >= statistics.POWER
    if seeds > 2:
        assert power(seeds - 1) < statistics.POWER


def test_a_difference_that_no_experiment_finds_needs_no_number_of_seeds() -> None:
    assert statistics.seeds_needed(difference=0.0, spread=1.0) is None
    assert statistics.seeds_needed(difference=0.1, spread=0.0) is None
    assert statistics.seeds_needed(difference=1e-6, spread=1.0) is None
