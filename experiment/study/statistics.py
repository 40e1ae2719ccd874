"""The statistics of orders: differences at equal cost, and what pairs add up to.

Scores (accuracies in percent) come as arrays `[..., G, S]`, over the G strengths that both orders
of a comparison have and the S seeds. A leading axis has what was measured, then scores moved a
little, one after another: so every difference, a curve's too, is known as a weighted sum of scores,
and with that for every single image (luck.py says how sure it is).
"""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression
from scipy.sparse.csgraph import connected_components

Array = np.ndarray[Any, np.dtype[Any]]

# Costs that differ by less count as equal; latency and energy are known no better than that.
TOLERANCE = {"bitops": 0.05, "latency_ms": 0.10, "peak_memory_mb": 0.05, "joules_per_image": 0.10}


@dataclass(frozen=True)
class Points:
    """One order at its strengths and seeds."""

    score: Array  # [G, S], percent on the validation share, or what else says how good
    cost: Array  # [G, S]
    moved: Array  # [R, G, S], scores as they were with one of them moved; R may be 0

    def stacked(self) -> Array:
        """What was measured, then what was moved: [1 + R, G, S]."""
        return np.concatenate([self.score[None], self.moved])


def moved_apart(
    first: tuple[Array, Array], second: tuple[Array, Array], step: Array
) -> list[Points]:
    """Two orders' `(score, cost)`, each of `[G, S]`, moved by ±`step` `[S]`, one score a time.

    Of the 4·G rows of `moved`, the first 2·G move the first order's scores, up and down in turn.
    """
    count = len(first[0])
    shifts = np.repeat(np.eye(count), 2, axis=0)  # [2G, G]
    shifts[1::2] *= -1
    moves = shifts[:, :, None] * step  # [2G, G, S]
    still = np.zeros_like(moves)
    return [
        Points(score, cost, score + np.concatenate(rows))
        for (score, cost), rows in ((first, (moves, still)), (second, (still, moves)))
    ]


def weights(differences: Array, step: Array) -> tuple[Array, Array]:
    """How a difference a seed, `[1 + 4G, S]` of what `moved_apart` gave, goes with each score.

    Two arrays `[G, S]`, of the first and of the second order: central differences, over a step that
    is a standard error, since curves have kinks.
    """
    slopes = (differences[1::2] - differences[2::2]) / (2 * step)
    return slopes[: len(slopes) // 2], slopes[len(slopes) // 2 :]


@dataclass(frozen=True)
class OrderComparison:
    """Two orders at equal cost."""

    method: str  # 'matched', 'interpolated', 'dominance', 'none'
    cost_ratio: float  # of the first order to the second, geometric mean
    cost_range: tuple[float, float] | None  # over which curves were compared
    differences: Array | None  # [1 + R, S]; dominance: a bound, see `compare_orders`


def compare_orders(first: Points, second: Points, tolerance: float) -> OrderComparison:
    """Score of `first` less that of `second` at equal cost, a seed.

    'matched': at every strength both cost the same within `tolerance`, so strengths are compared
    one by one. 'interpolated': the mean distance of the two curves over the costs that both reach;
    a curve is monotone, by isotonic regression and PCHIP over the logarithm of the cost (as
    Bjøntegaard's delta, VCEG-M33, made monotone). 'dominance': there are no common costs; the best
    of the cheaper order less the worst of the dearer, a lower bound of the cheaper one's lead where
    it is positive, and no statement where it is not. 'none': seeds disagree on who is cheaper.
    """
    log_first, log_second = np.log10(first.cost), np.log10(second.cost)
    ratio = float(10 ** (log_first - log_second).mean())
    near = np.log10(1 + tolerance)
    a, b = first.stacked(), second.stacked()
    if np.all(np.abs(log_first - log_second) <= near):
        return OrderComparison("matched", ratio, None, (a - b).mean(axis=1))
    low = np.maximum(log_first.min(axis=0), log_second.min(axis=0))  # [S]
    high = np.minimum(log_first.max(axis=0), log_second.max(axis=0))
    if np.all(high >= low - near):
        seeds = range(a.shape[2])
        columns = [
            _mean_over(log_first[:, s], a[:, :, s], low[s], high[s])
            - _mean_over(log_second[:, s], b[:, :, s], low[s], high[s])
            for s in seeds
        ]
        span = float(10 ** low.mean()), float(10 ** high.mean())
        return OrderComparison("interpolated", ratio, span, np.stack(columns, axis=1))
    if np.all(log_first.max(axis=0) < log_second.min(axis=0)):
        return OrderComparison("dominance", ratio, None, _lead(first, second))
    if np.all(log_second.max(axis=0) < log_first.min(axis=0)):
        return OrderComparison("dominance", ratio, None, -_lead(second, first))
    return OrderComparison("none", ratio, None, None)


def _lead(cheap: Points, dear: Points) -> Array:
    """[1 + R, S]. The score at the dearest of `cheap` less that at the cheapest of `dear`."""
    seeds = np.arange(cheap.cost.shape[1])
    last, first = cheap.cost.argmax(axis=0), dear.cost.argmin(axis=0)
    return cheap.stacked()[:, last, seeds] - dear.stacked()[:, first, seeds]


def _mean_over(x: Array, rows: Array, low: float, high: float) -> Array:
    """Mean of each row's monotone curve through `x` `[G]`, `rows` `[R, G]`, from low to high."""
    knots, place, count = np.unique(np.round(x, 9), return_inverse=True, return_counts=True)
    values = rows @ np.eye(len(knots))[place] / count  # equal costs: their mean
    if len(knots) == 1:
        return values[:, 0]
    falls = np.any(np.diff(values, axis=1) < 0, axis=1)
    for index in np.flatnonzero(falls):
        values[index] = isotonic_regression(values[index], weights=count).x
    curve = PchipInterpolator(knots, values, axis=1)
    if high - low < 1e-6:
        return curve(np.clip((low + high) / 2, knots[0], knots[-1]))
    return curve.integrate(low, high) / (high - low)


def hypervolume(points: Points, reference_score: float, reference_cost: float) -> Array:
    """Area that the order's points dominate, a seed: `[1 + R, S]`, points × decades of cost.

    Bounded by the reference: that score, that cost; what is no better in both adds nothing.
    """
    height = np.clip(points.stacked() - reference_score, 0, None)  # [1 + R, G, S]
    width = np.clip(np.log10(reference_cost) - np.log10(points.cost), 0, None)  # [G, S]
    by_width = np.argsort(-width, axis=0)  # the cheapest first
    width = np.take_along_axis(width, by_width, axis=0)
    height = np.take_along_axis(height, by_width[None], axis=1)
    reached = np.maximum.accumulate(height, axis=1)  # at this cost or below
    steps = width - np.concatenate([width[1:], np.zeros_like(width[:1])])
    return (reached * steps).sum(axis=1)


# --- from pairs to an order -----------------------------------------------------------------------


@dataclass(frozen=True)
class Ranking:
    """What pairs add up to."""

    order: list[str]  # first to last
    cycles: list[list[str]]  # each stage before the next, the last before the first
    certain: bool  # the decided pairs leave no other order


def rank(
    letters: Sequence[str], before: Mapping[tuple[str, str], float], decided: set[tuple[str, str]]
) -> Ranking:
    """Topological sort of the decided pairs.

    `before` maps (a, b) to the difference in favour of a before b, `decided` has the pairs that
    count, the better order first. Stages that lie on cycles stand together. Where the decided pairs
    leave a choice, the stage with the larger sum of differences goes first.
    """
    lead = dict.fromkeys(letters, 0.0)
    for (a, b), difference in before.items():
        lead[a] += difference
        lead[b] -= difference
    adjacency = np.array([[(a, b) in decided for b in letters] for a in letters], dtype=int)
    _, labels = connected_components(adjacency, connection="strong")
    groups = [[x for x, own in zip(letters, labels, strict=True) if own == n] for n in set(labels)]
    of = {letter: number for number, group in enumerate(groups) for letter in group}
    sorter: graphlib.TopologicalSorter[int] = graphlib.TopologicalSorter(
        {number: set() for number in range(len(groups))}
    )
    for a, b in decided:
        if of[a] != of[b]:
            sorter.add(of[b], of[a])
    sorter.prepare()
    order: list[str] = []
    waiting: list[int] = []
    certain = all(len(group) == 1 for group in groups)
    while sorter.is_active():
        waiting += sorter.get_ready()
        certain = certain and len(waiting) == 1
        waiting.sort(key=lambda n: -np.mean([lead[letter] for letter in groups[n]]))
        chosen = waiting.pop(0)
        order += sorted(groups[chosen], key=lambda letter: -lead[letter])
        sorter.done(chosen)
    cycles = [_cycle(group, decided) for group in groups if len(group) > 1]
    return Ranking(order, cycles, certain)


def _cycle(group: list[str], decided: set[tuple[str, str]]) -> list[str]:
    """One round through stages that precede each other, starting at the first by name."""
    inside = {b: [a for a in group if (a, b) in decided] for b in group}
    try:
        graphlib.TopologicalSorter(inside).prepare()
    except graphlib.CycleError as error:
        round_trip = error.args[1][:-1]
        start = round_trip.index(min(round_trip))
        return round_trip[start:] + round_trip[:start]
    raise AssertionError(f"{group} is no cycle")


def exchanges(order: str) -> Iterator[tuple[str, str, str]]:
    """Each two neighbours of an order, and the order with these two exchanged."""
    for a, b in itertools.pairwise(order):
        yield a, b, order.replace(a + b, b + a)


def predicted_score(order: str, before: Mapping[tuple[str, str], float]) -> float:
    """What pairs say of a longer order: the sum of the differences of those that it has."""
    return sum(before.get(pair, 0.0) for pair in itertools.combinations(order, 2))


def kendall(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau-b and its p value."""
    found = stats.kendalltau(predicted, measured)
    return float(found.statistic), float(found.pvalue)
