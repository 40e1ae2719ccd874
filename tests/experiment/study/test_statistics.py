"""Curves, hypervolumes, rank correlations and what a difference owes to each score, by hand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.differentiate import jacobian

from experiment.study.statistics import (
    Array,
    Points,
    compare_orders,
    hypervolume,
    kendall,
    moved_apart,
    predicted_score,
    rank,
    weights,
)

Given = tuple[Any, Any]  # scores and costs, as nested lists or arrays

# --- by hand -------------------------------------------------------------------------------------


def points(cost: list[float], score: list[float]) -> Points:
    column = np.array(score, dtype=float)[:, None]
    return Points(column, np.array(cost)[:, None], np.repeat(column[None], 3, axis=0))


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


def test_a_longer_order_is_predicted_by_all_its_pairs() -> None:
    before = {("A", "B"): 1.0, ("A", "C"): 0.5, ("B", "C"): -2.0}
    assert predicted_score("ABC", before) == 1.0 + 0.5 - 2.0
    assert predicted_score("CA", before) == 0  # a pair that nobody compared


# --- what a difference owes to each score --------------------------------------------------------


def owed(first: Given, second: Given, step: list[float]) -> tuple[str, Array, Array]:
    """The method, and the weights of both orders' scores, `[G, S]` each."""
    one, other = moved_apart(arrays(first), arrays(second), np.array(step))
    found = compare_orders(one, other, 0.05)
    assert found.differences is not None
    return found.method, *weights(found.differences, np.array(step))


def arrays(given: Given) -> tuple[Array, Array]:
    """`(scores, costs)`, `[G, S]` each, from rows of strengths."""
    return np.array(given[0], dtype=float), np.array(given[1], dtype=float)


def test_one_score_moves_at_a_time() -> None:
    step = np.array([0.5, 2.0])
    one, other = moved_apart(
        arrays(([[80, 81], [90, 91]], [[1, 1], [9, 9]])),
        arrays(([[70, 71], [60, 61]], [[1, 1], [9, 9]])),
        step,
    )
    assert one.moved.shape == other.moved.shape == (8, 2, 2)
    moves = np.stack([one.moved - one.score, other.moved - other.score])  # [2, 8, G, S]
    for row in range(8):
        order, strength, sign = row // 4, row % 4 // 2, 1 - 2 * (row % 2)
        expected = np.zeros((2, 2, 2))
        expected[order, strength] = sign * step
        assert moves[:, row] == pytest.approx(expected)


def test_matched_strengths_count_alike() -> None:
    scores, costs = [[80, 81], [90, 91], [95, 90]], [[1, 1], [10, 10], [100, 100]]
    method, first, second = owed((scores, costs), (scores, costs), [0.3, 0.5])
    assert method == "matched"
    assert first == pytest.approx(np.full((3, 2), 1 / 3))
    assert second == pytest.approx(np.full((3, 2), -1 / 3))


def test_a_line_between_two_knots_counts_each_by_its_distance() -> None:
    """Over log cost the first has knots at 0 and 2, the second at 1 and 3, so both have 1 to 2.

    There the mean of the first is at 1.5, a quarter of the way back from its end: 1/4 and 3/4; the
    second's at 1.5 too, a quarter of the way from its beginning: 3/4 and 1/4.
    """
    method, first, second = owed(
        ([[80], [90]], [[1], [100]]), ([[70], [90]], [[10], [1000]]), [0.4]
    )
    assert method == "interpolated"
    assert first[:, 0] == pytest.approx([1 / 4, 3 / 4])
    assert second[:, 0] == pytest.approx([-3 / 4, -1 / 4])


def test_scores_that_were_made_monotone_count_together() -> None:
    """84 and 82 become their mean, so the flat part from 1 to 2 owes half to each."""
    one = ([[70], [84], [82]], [[1], [10], [100]])
    _, first, _ = owed(one, ([[60], [61], [62]], [[10], [30], [100]]), [0.1])
    assert first[:, 0] == pytest.approx([0, 1 / 2, 1 / 2], abs=1e-9)


def test_dominance_rests_on_one_strength_of_each() -> None:
    """The cheap order's dearest and the dear one's cheapest, which differ from seed to seed."""
    cheap = ([[80, 82], [85, 86]], [[1, 2], [2, 1]])
    dear = ([[70, 71], [60, 61]], [[90, 90], [50, 99]])
    chosen_first, chosen_second = [[0, 1], [1, 0]], [[0, 1], [1, 0]]
    method, first, second = owed(cheap, dear, [0.3, 0.3])
    assert method == "dominance"
    assert first == pytest.approx(np.array(chosen_first, dtype=float))
    assert second == pytest.approx(-np.array(chosen_second, dtype=float))
    _, turned, other = owed(dear, cheap, [0.3, 0.3])
    assert turned == pytest.approx(np.array(chosen_second, dtype=float))
    assert other == pytest.approx(-np.array(chosen_first, dtype=float))


@pytest.mark.parametrize("seed", range(5))
def test_weights_are_the_derivatives_of_the_difference(seed: int) -> None:
    """Of rising curves at costs of their own, by scipy's derivative along each score."""
    random = np.random.default_rng(seed)
    score = np.sort(random.uniform(60, 90, (2, 4, 1)), axis=1)
    cost = 10.0 ** (np.arange(4)[:, None] + random.uniform(0, 0.8, (2, 4, 1)))

    def difference(changed: Array) -> Array:
        """[8, ...] → [...]: of scores of both orders, one after another."""
        rows = np.moveaxis(changed, 0, -1).reshape(-1, 2, 4)
        values = []
        for row in rows:
            none = np.zeros((0, 4, 1))
            one, other = (Points(row[i][:, None], cost[i], none) for i in (0, 1))
            found = compare_orders(one, other, 0.05).differences
            assert found is not None
            values.append(found[0, 0])
        return np.array(values).reshape(changed.shape[1:])

    slopes = jacobian(difference, score.ravel(), step_direction=0, initial_step=0.02).df
    method, first, second = owed((score[0], cost[0]), (score[1], cost[1]), [0.01])
    assert method == "interpolated"
    assert np.concatenate([first, second])[:, 0] == pytest.approx(slopes.ravel(), abs=2e-3)
    assert first.sum() == pytest.approx(1, abs=1e-3) and second.sum() == pytest.approx(-1, abs=1e-3)
