"""Chains of a study compared: two orders at equal cost, by images and seeds, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiment.study.luck import Array, Certainty, Sample, sample
from experiment.study.rounds import Verdict, judged, step_down
from experiment.study.statistics import (
    TOLERANCE,
    OrderComparison,
    Points,
    compare_orders,
    hypervolume,
    moved_apart,
    weights,
)

Strengths = tuple[tuple[str, int], ...]  # (letter, number of its strength), by letter


@dataclass(frozen=True)
class Evidence:
    """What one finished chain did on the validation share, at the seeds that it has."""

    name: str
    order: str
    strengths: Strengths
    seeds: tuple[int, ...]
    score: Array  # [S, N]: 100 for a right answer, or less the loss of each image
    costs: dict[str, Array]  # 'bitops', 'latency_ms', ... → [S]; those that every seed has

    def at(self, seeds: Sequence[int]) -> list[int]:
        """Where these seeds stand in the arrays."""
        return [self.seeds.index(seed) for seed in seeds]


@dataclass(frozen=True)
class ScoreScale:
    """What hypervolumes are bounded by: guessing, and the largest cost of any chain or baseline."""

    score: float  # percent, or less the loss
    costs: dict[str, float]


@dataclass(frozen=True)
class Compared:
    """Two orders at equal cost: a sample of their difference, or why there is none."""

    entry: dict[str, Any]  # method, cost_ratio, cost_range
    sample: Sample | None = None
    reason: str | None = None


class Comparisons:
    """What a study's chains say of one another, two orders at a time, computed when asked for."""

    def __init__(
        self,
        letters: Sequence[str],
        orders: Sequence[str],
        evidence: Sequence[Evidence],
        reference: ScoreScale,
        *,
        cost: str = "bitops",
        confidence: float = 0.95,
        margin: float = 0.5,
        left_out: Mapping[str, str] | None = None,
    ):
        """`left_out` says why of costs that not every chain has."""
        self.letters, self.evidence, self.reference = list(letters), list(evidence), reference
        self.cost, self.confidence, self.margin = cost, confidence, margin
        self.left_out = left_out or {}
        self.costs = [c for c in TOLERANCE if all(c in chain.costs for chain in evidence)]
        self.by_order: dict[str, dict[Strengths, Evidence]] = {order: {} for order in orders}
        for chain in evidence:
            self.by_order[chain.order][chain.strengths] = chain
        self.images = evidence[0].score.shape[1] if evidence else 0
        self._compared: dict[tuple[str, str, str], Compared] = {}

    def common(self, first: str, second: str) -> tuple[list[Strengths], list[int]]:
        """The strengths and seeds at which both orders came to their end."""
        one, other = self.by_order[first], self.by_order[second]
        strengths = [s for s in one if s in other]
        chains = [order[s] for order in (one, other) for s in strengths]
        seeds = set.intersection(*(set(chain.seeds) for chain in chains)) if chains else set()
        return strengths, sorted(seeds)

    def points(self, first: str, second: str, cost: str) -> tuple[Points, Points, Array, Array]:
        """Both orders' points with their moves; the moves' step `[S]`; scores `[2, G, S, N]`."""
        strengths, seeds = self.common(first, second)
        chains = [[self.by_order[order][s] for s in strengths] for order in (first, second)]
        scores = np.stack([[c.score[c.at(seeds)] for c in row] for row in chains])
        costs = np.stack([[c.costs[cost][c.at(seeds)] for c in row] for row in chains])
        means = scores.mean(axis=-1, dtype=np.float64)
        step = np.maximum(scores.std(axis=-1).max(axis=(0, 1)) / self.images**0.5, 1e-9)  # [S]
        one, other = moved_apart((means[0], costs[0]), (means[1], costs[1]), step)
        return one, other, step, scores

    def compared(self, first: str, second: str, cost: str) -> Compared:
        """The score of `first` less that of `second` at equal `cost`."""
        key = first, second, cost
        if key not in self._compared:
            self._compared[key] = self._compare(*key)
        return self._compared[key]

    def _compare(self, first: str, second: str, cost: str) -> Compared:
        strengths, seeds = self.common(first, second)
        if not strengths or not seeds:
            return Compared({"method": "none"}, reason="chains of these orders failed")
        if cost not in self.costs:
            why = self.left_out.get(cost, f"not every chain has {cost}")
            return Compared({"method": "none"}, reason=why)
        one, other, step, scores = self.points(first, second, cost)
        found = compare_orders(one, other, TOLERANCE[cost])
        entry = {"cost_ratio": found.cost_ratio, "cost_range": found.cost_range}
        reason = _not_comparable(found)
        if reason is not None or found.differences is None:
            return Compared({"method": "none", **entry}, reason=reason)
        values = _by_image(found.differences, step, scores)
        return Compared({"method": found.method, **entry}, sample(values))

    def volumes(self, orders: Sequence[tuple[str, str]], cost: str) -> list[dict[str, Any] | None]:
        """Hypervolumes of two orders each, and their differences."""
        there = [both for both in orders if all(self.common(*both))]
        known, samples = [], []
        for first, second in there:
            one, other, step, scores = self.points(first, second, cost)
            limits = self.reference.score, self.reference.costs[cost]
            a, b = (hypervolume(points, *limits) for points in (one, other))
            known.append((float(a[0].mean()), float(b[0].mean())))
            samples.append(sample(_by_image(a - b, step, scores)))
        certainty, found = Certainty(samples), {}
        for index, (both, (a_mean, b_mean)) in enumerate(zip(there, known, strict=True)):
            sure = judged(certainty, index, 1 - self.confidence, 0.0, 1.0)
            found[both] = {
                "first": a_mean,
                "second": b_mean,
                "difference": a_mean - b_mean,
                "interval": list(sure.interval),
                "win_probability": certainty.above(index, 0.0),
                "decided": sure.name in ("first", "second"),
            }
        return [found.get(both) for both in orders]

    def entry(
        self,
        compared: Compared,
        certainty: Certainty,
        index: int | None,
        verdict: Verdict | None = None,
    ) -> dict[str, Any]:
        """A comparison as plain data; without a `verdict` by its own interval alone."""
        nothing = {"difference": None, "interval": None, "win_probability": None}
        if index is None or compared.sample is None:
            return {**nothing, **plain(None), **compared.entry, "reason": compared.reason}
        alone = judged(certainty, index, 1 - self.confidence, self.margin, 1.0)
        verdict = verdict or alone
        reason = None
        if not verdict.settled:
            reason = f"the interval has 0 inside and reaches beyond ±{self.margin:g}"
        if not compared.sample.difference and not compared.sample.rest:
            reason = "both orders answer every image alike"
        return {
            **compared.entry,
            "difference": compared.sample.difference,
            "interval": list(alone.interval),
            "win_probability": certainty.above(index, 0.0),
            **plain(verdict),
            "reason": reason,
        }

    def entries(
        self, orders: Sequence[tuple[str, str]], cost: str, *, together: bool
    ) -> list[dict[str, Any]]:
        """Comparisons at equal `cost`, luck shared by all of them; each judged by itself, or
        `together` as one family (Holm)."""
        found = [self.compared(first, second, cost) for first, second in orders]
        certainty = Certainty([each.sample for each in found if each.sample is not None])
        shares = dict.fromkeys(range(len(certainty.samples)), 1.0) if together else {}
        verdicts = step_down(certainty, shares, 1 - self.confidence, self.margin)
        numbers = iter(range(len(found)))
        entries = []
        for each in found:
            index = next(numbers) if each.sample is not None else None
            verdict = verdicts.get(index) if index is not None else None
            entries.append(self.entry(each, certainty, index, verdict))
        return entries

    def wins(self, first: str, second: str) -> list[float]:
        """Of the single runs (a seed at a strength), how many `first` wins (a tie is half), of n.

        Whatever they cost.
        """
        strengths, seeds = self.common(first, second)
        if not strengths or not seeds:
            return [0.0, 0]
        rows = [[self.by_order[order][s] for s in strengths] for order in (first, second)]
        a, b = (np.stack([c.score[c.at(seeds)].mean(axis=1) for c in row]) for row in rows)
        return [float((a > b).sum() + (a == b).sum() / 2), int(a.size)]

    def distances(self, first: str, second: str) -> Array | None:
        """Difference of two orders at equal cost, a seed; None where there is none."""
        strengths, seeds = self.common(first, second)
        if not strengths or not seeds or self.cost not in self.costs:
            return None
        one, other, *_ = self.points(first, second, self.cost)
        found = compare_orders(one, other, TOLERANCE[self.cost])
        if found.differences is None or _not_comparable(found):
            return None
        return found.differences[0]


def drops(baseline: Evidence, chains: Sequence[Evidence], level: float) -> list[dict[str, Any]]:
    """Of every chain, what is known of its drop from the baseline, over images and seeds."""
    samples = []
    for chain in chains:
        seeds = [seed for seed in chain.seeds if seed in baseline.seeds]
        lost = baseline.score[baseline.at(seeds)] - chain.score[chain.at(seeds)]
        samples.append(sample(lost.astype(np.float64)))
    certainty = Certainty(samples)
    return [
        {
            "drop_interval": list(certainty.interval(index, level)),
            "drop_sd": float(certainty.spread(index)),
        }
        for index in range(len(samples))
    ]


def _by_image(differences: Array, step: Array, scores: Array) -> Array:
    """What single images add to a difference, `[S, N]`; a seed's mean is the difference itself."""
    first, second = weights(differences, step)
    values = np.einsum("gs,gsn->sn", first, scores[0]) + np.einsum("gs,gsn->sn", second, scores[1])
    return values + (differences[0] - values.mean(axis=1))[:, None]


def _not_comparable(found: OrderComparison) -> str | None:
    """Why there is no difference at equal cost; None where there is one."""
    if found.method == "none":
        return "there are no common costs, and seeds differ in which order is cheaper"
    if found.method == "dominance" and found.differences is not None:
        lead = found.differences[0].mean()
        if (lead > 0) != (found.cost_ratio < 1):
            return "there are no common costs, and the cheaper order is less accurate"
    return None


def plain(verdict: Verdict | None) -> dict[str, Any]:
    """A verdict's part of an entry."""
    if verdict is None:
        return {"verdict": "open", "decided": False, "sure_interval": None, "level": None,
                "p_value": None, "within_margin": False}  # fmt: skip
    return {
        "verdict": verdict.name,
        "decided": verdict.name in ("first", "second"),
        "sure_interval": list(verdict.interval),
        "level": verdict.level,
        "p_value": verdict.p_value,
        "within_margin": verdict.within_margin,
    }
