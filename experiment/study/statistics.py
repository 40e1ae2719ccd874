"""The statistics of orders: differences at equal cost, their intervals, and what they add up to.

Accuracies come as arrays `[..., G, S]`: percent, over the G strengths that both orders of a
comparison have and the S seeds. Leading axes are bootstrap resamples.
"""

from __future__ import annotations

import graphlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from scipy.interpolate import PchipInterpolator
from scipy.optimize import isotonic_regression
from scipy.sparse.csgraph import connected_components

Array = np.ndarray[Any, np.dtype[Any]]
RESAMPLES = 2000

# Costs that differ by less count as equal; latency and energy are known no better than that.
TOLERANCE = {"bitops": 0.05, "latency_ms": 0.10, "peak_memory_mb": 0.05, "joules_per_image": 0.10}


@dataclass(frozen=True)
class Points:
    """One order at its strengths and seeds."""

    accuracy: Array  # [G, S], percent on the validation share
    resampled: Array  # [R, G, S], the same on bootstrap samples of the images
    cost: Array  # [G, S]

    def stacked(self) -> Array:
        """What was measured, then the resamples: [1 + R, G, S]."""
        return np.concatenate([self.accuracy[None], self.resampled])


@dataclass(frozen=True)
class Estimate:
    """A difference in points of accuracy, first order minus second, and how sure it is."""

    difference: float
    interval: tuple[float, float]
    win_probability: float  # that the first order is better: share of the resamples above 0
    decided: bool  # the interval leaves out 0

    def turned(self) -> Estimate:
        """The same as second order minus first."""
        low, high = self.interval
        win = 1 - self.win_probability
        return Estimate(-self.difference, (-high, -low), win, self.decided)


class Resampling:
    """Bootstrap weights over images and seeds, the same for every comparison of a study.

    Images are resampled with replacement, all networks seeing the same sample, so what chains have
    in common cancels; independently of them seeds are, paired between orders (the bootstrap for
    crossed effects, doi:10.1214/07-AOAS122). Plain resampling of S seeds shows only (S - 1) / S of
    their variance, which Rao and Wu's factor (doi:10.1080/01621459.1988.10478591) makes good.
    One seed is not resampled: then the interval is that of the images alone.
    """

    def __init__(self, images: int, seeds: int, count: int = RESAMPLES, seed: int = 0):
        random = np.random.default_rng(seed)
        self.images, self.count = images, count
        self.random_images = np.random.default_rng(random.integers(2**63))
        drawn = random.multinomial(seeds, np.full(seeds, 1 / seeds), size=count)
        stretch = np.sqrt(seeds / (seeds - 1)) if seeds > 1 else 0.0
        self.seed_weights = 1 / seeds + stretch * (drawn / seeds - 1 / seeds)  # [R, S]

    def accuracies(self, correct: Array) -> Array:
        """Correctness `[chains, S, N]` → accuracies `[R, chains, S]` in percent."""
        chains, seeds, images = correct.shape
        flat = correct.reshape(-1, images).T.astype(np.float32)
        parts = []
        for start in range(0, self.count, 250):  # in parts, for a large split's sake
            size = min(250, self.count - start)
            even = np.full(images, 1 / images)
            weights = self.random_images.multinomial(images, even, size).astype(np.float32)
            parts.append(weights @ flat * np.float32(100 / images))
        return np.concatenate(parts).reshape(self.count, chains, seeds)

    def estimate(self, differences: Array, confidence: float) -> Estimate:
        """From the differences a seed, measured and resampled: `[1 + R, S]`."""
        resampled = (differences[1:] * self.seed_weights).sum(axis=1)
        tail = (1 - confidence) / 2
        low, high = (float(q) for q in np.quantile(resampled, [tail, 1 - tail]))
        win = float(np.mean(resampled > 0) + np.mean(resampled == 0) / 2)
        return Estimate(float(differences[0].mean()), (low, high), win, low > 0 or high < 0)


@dataclass(frozen=True)
class OrderComparison:
    """Two orders at equal cost."""

    method: str  # 'matched', 'interpolated', 'dominance', 'none'
    cost_ratio: float  # of the first order to the second, geometric mean
    cost_range: tuple[float, float] | None  # over which curves were compared
    differences: Array | None  # [1 + R, S]; dominance: a bound, see `compare`


def compare_orders(first: Points, second: Points, tolerance: float) -> OrderComparison:
    """Accuracy of `first` minus that of `second` at equal cost, a seed.

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
    """[1 + R, S]. The accuracy at the dearest of `cheap` less that at the cheapest of `dear`."""
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


def hypervolume(points: Points, reference_accuracy: float, reference_cost: float) -> Array:
    """Area that the order's points dominate, a seed: `[1 + R, S]`, points × decades of cost.

    Bounded by the reference: that accuracy, that cost; what is no better in both adds nothing.
    """
    height = np.clip(points.stacked() - reference_accuracy, 0, None)  # [1 + R, G, S]
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


def predicted_score(order: str, before: Mapping[tuple[str, str], float]) -> float:
    """What pairs say of a longer order: the sum of the differences of those that it has."""
    return sum(before.get(pair, 0.0) for pair in itertools.combinations(order, 2))


def kendall(predicted: Sequence[float], measured: Sequence[float]) -> tuple[float, float]:
    """Kendall's tau-b and its p value."""
    found = stats.kendalltau(predicted, measured)
    return float(found.statistic), float(found.pvalue)
