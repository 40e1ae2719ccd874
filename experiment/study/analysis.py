"""From the chains of a study to its findings: pairs, order, third stages, permutations, best.

Nothing here runs or loads a network, and nothing here sees the test split.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from experiment.study.statistics import (
    TOLERANCE,
    Array,
    Estimate,
    OrderComparison,
    Points,
    Resampling,
    compare_orders,
    hypervolume,
    kendall,
    predicted_score,
    rank,
)

Strengths = tuple[tuple[str, int], ...]  # (letter, number of its strength), by letter


@dataclass(frozen=True)
class Evidence:
    """What one finished chain did on the validation share, over the study's seeds."""

    name: str
    order: str
    strengths: Strengths
    correct: Array  # [S, N] of bool: which images it got right
    costs: dict[str, Array]  # 'bitops', 'latency_ms', ... → [S]; those that every seed has


@dataclass(frozen=True)
class ScoreScale:
    """What hypervolumes are bounded by: guessing, and the largest cost of any chain or baseline."""

    accuracy: float  # percent
    costs: dict[str, float]


class Analysis:
    """All findings of a study, computed when asked for."""

    def __init__(
        self,
        letters: Sequence[str],
        orders: Sequence[str],
        evidence: Sequence[Evidence],
        reference: ScoreScale,
        *,
        cost: str = "bitops",
        confidence: float = 0.95,
        left_out: Mapping[str, str] | None = None,
    ):
        """`left_out` says why of costs that not every chain has."""
        self.letters, self.evidence, self.reference = list(letters), list(evidence), reference
        self.cost, self.confidence = cost, confidence
        self.left_out = left_out or {}
        self.costs = [c for c in TOLERANCE if all(c in chain.costs for chain in evidence)]
        self.by_order: dict[str, dict[Strengths, int]] = {order: {} for order in orders}
        for index, chain in enumerate(evidence):
            self.by_order[chain.order][chain.strengths] = index
        self.seeds = self.images = 0
        if evidence:
            correct = np.stack([chain.correct for chain in evidence])  # [chains, S, N]
            self.seeds, self.images = correct.shape[1:]
            self.resampling = Resampling(self.images, self.seeds)
            self.accuracy = 100 * correct.mean(axis=2)
            self.resampled = self.resampling.accuracies(correct)

    # --- two orders ----------------------------------------------------------------------------

    def common(self, first: str, second: str) -> list[Strengths]:
        """The strengths at which both orders came to their end."""
        return [s for s in self.by_order[first] if s in self.by_order[second]]

    def points(self, order: str, strengths: list[Strengths], cost: str) -> Points:
        chosen = [self.by_order[order][s] for s in strengths]
        costs = np.stack([self.evidence[index].costs[cost] for index in chosen])
        return Points(self.accuracy[chosen], self.resampled[:, chosen], costs)

    def compared(self, first: str, second: str, cost: str) -> dict[str, Any]:
        """Two orders at equal `cost`, as plain data; the difference is first minus second."""
        strengths = self.common(first, second)
        nothing = {"method": "none", "difference": None, "interval": None, "win_probability": None}
        if not strengths:
            return {**nothing, "decided": False, "reason": "chains of these orders failed"}
        if cost not in self.costs:
            why = self.left_out.get(cost, f"not every chain has {cost}")
            return {**nothing, "decided": False, "reason": why}
        a, b = (self.points(order, strengths, cost) for order in (first, second))
        found = compare_orders(a, b, TOLERANCE[cost])
        entry = {"cost_ratio": found.cost_ratio, "cost_range": found.cost_range}
        reason = _not_comparable(found)
        if reason is not None or found.differences is None:
            return {**nothing, **entry, "decided": False, "reason": reason}
        estimate = self.resampling.estimate(found.differences, self.confidence)
        return {
            "method": found.method,
            **_plain(estimate),
            **entry,
            "reason": None if estimate.decided else _open(found.differences),
        }

    def volumes(self, first: str, second: str, cost: str) -> dict[str, Any] | None:
        """Hypervolumes of two orders and their difference."""
        strengths = self.common(first, second)
        if not strengths:
            return None
        limits = self.reference.accuracy, self.reference.costs[cost]
        a, b = (hypervolume(self.points(o, strengths, cost), *limits) for o in (first, second))
        estimate = self.resampling.estimate(a - b, self.confidence)
        return {"first": float(a[0].mean()), "second": float(b[0].mean()), **_plain(estimate)}

    # --- pairs ---------------------------------------------------------------------------------

    @cached_property
    def pairs(self) -> list[dict[str, Any]]:
        """Every pair of stages whose two orders the study has, the better order's stage first."""
        return [
            self.pair(a, b)
            for a, b in itertools.combinations(self.letters, 2)
            if a + b in self.by_order and b + a in self.by_order
        ]

    def pair(self, a: str, b: str) -> dict[str, Any]:
        primary = self.compared(a + b, b + a, self.cost)
        if (primary["difference"] or 0) < 0:
            a, b = b, a
            primary = self.compared(a + b, b + a, self.cost)
        strengths = self.common(a + b, b + a)
        return {
            "first": a,
            "second": b,
            **{key: primary[key] for key in ("difference", "interval", "decided")},
            **{key: primary[key] for key in ("win_probability", "method", "reason")},
            "cost": self.cost,
            "n": {"seeds": self.seeds, "strengths": len(strengths), "images": self.images},
            "wins": self.wins(a + b, b + a, strengths),
            "at_equal": {cost: self.compared(a + b, b + a, cost) for cost in self.costs},
            "hypervolume": {cost: self.volumes(a + b, b + a, cost) for cost in self.costs},
            "chains": {
                order: [self.evidence[self.by_order[order][s]].name for s in strengths]
                for order in (a + b, b + a)
            },
        }

    def wins(self, first: str, second: str, strengths: list[Strengths]) -> list[float]:
        """Of the single runs (a seed at a strength), how many `first` wins (a tie is half), of n.

        Whatever they cost.
        """
        if not strengths:
            return [0.0, 0]
        a, b = (self.accuracy[[self.by_order[o][s] for s in strengths]] for o in (first, second))
        return [float((a > b).sum() + (a == b).sum() / 2), int(a.size)]

    @cached_property
    def before(self) -> dict[tuple[str, str], float]:
        """(a, b) → accuracy of a before b less that of b before a, both ways round."""
        found = {}
        for pair in self.pairs:
            if pair["difference"] is not None:
                found[pair["first"], pair["second"]] = pair["difference"]
                found[pair["second"], pair["first"]] = -pair["difference"]
        return found

    # --- the whole -----------------------------------------------------------------------------

    def findings(self) -> dict[str, Any]:
        """Everything, as plain data."""
        decided = {(p["first"], p["second"]) for p in self.pairs if p["decided"]}
        ranking = rank(self.letters, self.before, decided)
        undecided = [
            [a, b]
            for a, b in itertools.combinations(ranking.order, 2)
            if (a, b) not in decided and (b, a) not in decided
        ]
        return {
            "order": ranking.order,
            "order_is_certain": ranking.certain,
            "pairs": self.pairs,
            "undecided": undecided,
            "cycles": ranking.cycles,
            "third_stage": self.third_stage(),
            "permutations": self.permutations(),
        }

    def third_stage(self) -> dict[str, Any] | None:
        """Whether a stage in between turns a pair round (arXiv:2403.17447 says it does not)."""
        cases = []
        for pair in self.pairs:
            a, b = pair["first"], pair["second"]
            for between in self.letters:
                one, other = a + between + b, b + between + a
                if one not in self.by_order or other not in self.by_order:
                    continue
                found = self.compared(one, other, self.cost)
                verdict = "open"
                if pair["decided"] and found["decided"]:
                    verdict = "holds" if found["difference"] > 0 else "flips"
                cases.append({"first": a, "second": b, "between": between, "alone": {
                    key: pair[key] for key in ("difference", "interval", "decided")},
                    "with": found, "verdict": verdict})  # fmt: skip
        if not cases:
            return None
        counts = {v: sum(c["verdict"] == v for c in cases) for v in ("holds", "flips", "open")}
        return {"claim": "a stage in between does not turn a pair round", **counts, "cases": cases}

    def permutations(self) -> dict[str, Any] | None:
        """Orders of all stages: their ranking as pairs predict it, and as it was measured.

        Measured is the mean difference at equal cost to the other orders, over those to which
        there is one.
        """
        orders = [order for order in self.by_order if len(order) == len(self.letters) > 2]
        if len(orders) < 3:
            return None
        distances = {
            (a, b): self.distances(a, b) for a, b in itertools.combinations(orders, 2)
        }  # [S] each, or None
        lead: dict[str, list[Array]] = {order: [] for order in orders}
        for (a, b), distance in distances.items():
            if distance is not None:
                lead[a].append(distance)
                lead[b].append(-distance)
        ranked = [order for order in orders if lead[order]]
        if len(ranked) < 3:
            return None
        measured = {order: np.mean(lead[order], axis=0) for order in ranked}  # [S]
        predicted = {order: predicted_score(order, self.before) for order in ranked}
        score = {order: float(measured[order].mean()) for order in ranked}
        tau, p_value = kendall(list(predicted.values()), list(score.values()))
        by_measure = sorted(ranked, key=lambda order: -score[order])
        by_prediction = sorted(ranked, key=lambda order: -predicted[order])
        between_seeds = [
            kendall([m[s] for m in measured.values()], [m[t] for m in measured.values()])[0]
            for s, t in itertools.combinations(range(self.seeds), 2)
        ]
        return {
            "kendall_tau": tau,
            "p_value": p_value,
            "n": len(ranked),
            "kendall_tau_between_seeds": float(np.mean(between_seeds)) if between_seeds else None,
            "predicted_best": by_prediction[0],
            "measured_best": by_measure[0],
            "measured_rank_of_predicted_best": by_measure.index(by_prediction[0]) + 1,
            "ranking": [
                {"order": o, "measured": score[o], "predicted": predicted[o],
                 "predicted_rank": by_prediction.index(o) + 1} for o in by_measure
            ],
            "not_comparable": [o for o in orders if not lead[o]],
        }  # fmt: skip

    def distances(self, first: str, second: str) -> Array | None:
        """Difference of two orders at equal cost, a seed; None where there is none."""
        strengths = self.common(first, second)
        if not strengths or self.cost not in self.costs:
            return None
        a, b = (self.points(order, strengths, self.cost) for order in (first, second))
        bare = [Points(p.accuracy, p.resampled[:0], p.cost) for p in (a, b)]
        found = compare_orders(bare[0], bare[1], TOLERANCE[self.cost])
        if found.differences is None or _not_comparable(found):
            return None
        return found.differences[0]


def _not_comparable(found: OrderComparison) -> str | None:
    """Why there is no difference at equal cost; None where there is one."""
    if found.method == "none":
        return "there are no common costs, and seeds differ in which order is cheaper"
    if found.method == "dominance" and found.differences is not None:
        lead = found.differences[0].mean()
        if (lead > 0) != (found.cost_ratio < 1):
            return "there are no common costs, and the cheaper order is less accurate"
    return None


def _open(differences: Array) -> str:
    if not differences.any():
        return "both orders answer every image alike"
    return "the interval contains 0"


def _plain(estimate: Estimate) -> dict[str, Any]:
    return {
        "difference": estimate.difference,
        "interval": list(estimate.interval),
        "win_probability": estimate.win_probability,
        "decided": estimate.decided,
    }
