"""Curves, intervals and rank correlations by hand, and intervals that cover what is true."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from experiment.study.statistics import (
    Points,
    Resampling,
    compare_orders,
    hypervolume,
    kendall,
    rank,
)

# --- by hand -------------------------------------------------------------------------------------


def points(cost: list[float], accuracy: list[float]) -> Points:
    column = np.array(accuracy, dtype=float)[:, None]
    return Points(column, np.repeat(column[None], 3, axis=0), np.array(cost)[:, None])


def test_curves_are_compared_where_both_have_costs() -> None:
    """Two knots make a line over log cost: 80 → 90 from 1 to 100, 70 → 90 from 10 to 1000.

    Both have 10 to 100; there the first rises from 85 to 90, the second from 70 to 80.
    """
    found = compare_orders(points([1, 100], [80, 90]), points([10, 1000], [70, 90]), 0.05)
    assert found.method == "interpolated" and found.cost_range == pytest.approx((10, 100))
    assert found.differences is not None
    assert found.differences[:, 0] == pytest.approx([87.5 - 75] * 4)


def test_curves_are_made_monotone() -> None:
    """84 then 82 fall; isotonic regression makes them 83 and 83, so the second decade is flat."""
    found = compare_orders(
        points([1, 10, 100], [80, 84, 82]), points([10, 100, 1000], [70] * 3), 0.05
    )
    assert found.differences is not None
    assert found.differences[0, 0] == pytest.approx(83 - 70)


def test_one_point_is_compared_with_the_curve_at_its_cost() -> None:
    found = compare_orders(points([10], [80]), points([1, 100], [70, 80]), 0.05)
    assert found.method == "interpolated" and found.differences is not None
    assert found.differences[0, 0] == pytest.approx(80 - 75)


def test_nearly_equal_costs_count_as_equal() -> None:
    one, other = points([100, 10], [90, 80]), points([104, 9.7], [89, 78])
    found = compare_orders(one, other, 0.05)
    assert found.method == "matched" and found.differences is not None
    assert found.differences[0, 0] == pytest.approx((1 + 2) / 2)
    assert compare_orders(one, points([110, 10], [89, 78]), 0.05).method == "interpolated"
    alone = compare_orders(points([100], [90]), points([120], [80]), 0.05)
    assert alone.method == "dominance"


def test_hypervolume_by_hand() -> None:
    """From 10 to 100 it is 60 - 50 high, from 100 to 1000 it is 80 - 50."""
    assert hypervolume(points([100, 10], [80, 60]), 50, 1000)[0, 0] == pytest.approx(10 + 30)
    dominated = points([100, 10, 300], [80, 60, 70])
    assert hypervolume(dominated, 50, 1000)[0, 0] == pytest.approx(40)
    beyond = points([100, 10, 5000, 1], [80, 60, 99, 40])
    assert hypervolume(beyond, 50, 1000)[:, 0] == pytest.approx([40] * 4)


def test_kendalls_tau_by_hand() -> None:
    predicted, measured = [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 4.0, 3.0]
    tau, p = kendall(predicted, measured)
    pairs = list(itertools.combinations(range(4), 2))
    signs = [np.sign((predicted[i] - predicted[j]) * (measured[i] - measured[j])) for i, j in pairs]
    assert tau == pytest.approx(sum(signs) / len(pairs)) == pytest.approx(4 / 6)
    assert p == pytest.approx(8 / 24)  # 8 of the 24 rankings of 4 agree or differ at least as much


def test_undecided_pairs_are_put_by_their_estimates() -> None:
    before = {("A", "B"): 1.0, ("B", "A"): -1.0, ("B", "C"): 2.0, ("C", "B"): -2.0}
    found = rank("CBA", before, set())
    assert found.order[-1] == "C" and not found.certain
    chained = rank("CBA", before, {("A", "B"), ("B", "C")})
    assert chained.order == ["A", "B", "C"] and chained.certain


# --- intervals -----------------------------------------------------------------------------------


def test_with_one_seed_the_interval_is_that_of_paired_images() -> None:
    random = np.random.default_rng(1)
    one = random.random(2000) < 0.9
    other = np.where(random.random(2000) < 0.05, ~one, one)
    sampling = Resampling(2000, 1)
    found = sampling.accuracies(np.stack([one, other])[:, None])  # [R, 2, 1]
    differences = np.concatenate([[[100 * (one.mean() - other.mean())]], found[:, 0] - found[:, 1]])
    estimate = sampling.estimate(differences, 0.95)
    each = 100 * (one.astype(float) - other)
    half = stats.norm.ppf(0.975) * each.std() / math.sqrt(2000)
    low, high = estimate.interval
    assert (high - low) / 2 == pytest.approx(half, rel=0.07)
    assert estimate.difference == pytest.approx(each.mean())


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seeds_count_with_their_unbiased_variance(seeds: int) -> None:
    sampling = Resampling(10, seeds, count=30_000)
    values = np.random.default_rng(2).normal(size=seeds)
    spread = (sampling.seed_weights @ values).var()
    assert spread == pytest.approx(values.var(ddof=1) / seeds, rel=0.05)
    assert sampling.seed_weights.sum(axis=1) == pytest.approx(np.ones(30_000))


@pytest.mark.parametrize(
    ("seeds", "luck", "least", "most"),
    [
        (3, 0.0, 0.93, 1.0),
        (3, 0.01, 0.93, 1.0),
        (2, 0.08, 0.7, 0.97),
    ],  # docs/order-studies.md says so
)
def test_intervals_cover_what_is_true(seeds: int, luck: float, least: float, most: float) -> None:
    """95 % intervals of no difference, over new images and new networks each time."""
    random = np.random.default_rng(3)
    covered, runs, images = 0, 100, 200
    for run in range(runs):
        difficulty = random.random(images)
        shares = 0.85 + random.normal(0, luck, (2, seeds, 1))
        correct = 0.7 * difficulty + 0.3 * random.random((2, seeds, images)) < shares
        sampling = Resampling(images, seeds, count=300, seed=run)
        found = sampling.accuracies(correct)
        measured = 100 * correct.mean(axis=2)[None]
        both = np.concatenate([measured, found])
        estimate = sampling.estimate(both[:, 0] - both[:, 1], 0.95)
        covered += estimate.interval[0] <= 0 <= estimate.interval[1]
    assert least <= covered / runs <= most
