"""From the chains of a study to its findings: pairs, order, third stages, permutations, checks.

Nothing here runs or loads a network, and nothing here sees the test split.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from experiment.study.comparison import Comparisons, plain
from experiment.study.luck import Array, Sample
from experiment.study.rounds import Rounds
from experiment.study.statistics import exchanges, kendall, predicted_score, rank

Pair = tuple[str, str]


class Analysis(Comparisons):
    """All findings of a study, computed when asked for."""

    @property
    def pairs(self) -> list[Pair]:
        """Every two stages whose two orders the study has."""
        both = itertools.combinations(self.letters, 2)
        return [(a, b) for a, b in both if a + b in self.by_order and b + a in self.by_order]

    def samples(self) -> list[Sample | None]:
        """Of every pair at the study's cost, for a look of `Rounds`."""
        return [self.compared(a + b, b + a, self.cost).sample for a, b in self.pairs]

    def estimates(self) -> dict[Pair, float]:
        """(a, b) → score of a before b less that of b before a, both ways round."""
        found = {}
        for (a, b), known in zip(self.pairs, self.samples(), strict=True):
            if known is not None:
                found[a, b], found[b, a] = known.difference, -known.difference
        return found

    def present_order(self) -> list[str]:
        """The letters as estimates put them."""
        return rank(self.letters, self.estimates(), set()).order

    def pair_entries(self, rounds: Rounds) -> list[dict[str, Any]]:
        """Every pair as plain data, the better order's stage first."""
        at_equal = {cost: self._pairs_at(cost) for cost in self.costs}
        own = at_equal.get(self.cost) or self._pairs_at(self.cost)
        turns = [(entry["difference"] or 0) < 0 for entry in own]
        named = [pair[::-1] if turn else pair for pair, turn in zip(self.pairs, turns, strict=True)]
        volumes = {
            cost: self.volumes([(x + y, y + x) for x, y in named], cost) for cost in self.costs
        }
        last = rounds.looks[-1]
        entries = []
        for index, (a, b) in enumerate(self.pairs):
            entry, verdict = own[index], last.verdicts[index]
            if verdict is not None:
                entry |= plain(verdict)
                if not verdict.settled and entry["reason"] is None:
                    entry["reason"] = "settled by itself, not for all pairs and looks together"
            turned, (first, second) = turns[index], named[index]
            strengths, seeds = self.common(a + b, b + a)
            sides = {cost: found[index] for cost, found in at_equal.items()}
            entries.append(
                {
                    "first": first,
                    "second": second,
                    **_turned(entry, turned),
                    "cost": self.cost,
                    "settled_in_round": rounds.settled_in.get(index),
                    "lacking": last.lacking[index],
                    "next_half_width": last.next_half_width[index],
                    "n": {"seeds": len(seeds), "strengths": len(strengths), "images": self.images},
                    "wins": self.wins(first + second, second + first),
                    "at_equal": {cost: _turned(side, turned) for cost, side in sides.items()},
                    "hypervolume": {cost: found[index] for cost, found in volumes.items()},
                    "chains": {
                        order: [self.by_order[order][s].name for s in strengths]
                        for order in (first + second, second + first)
                    },
                }
            )
        return entries

    def _pairs_at(self, cost: str) -> list[dict[str, Any]]:
        """Every pair at equal `cost`, each verdict by the pair's own interval."""
        return self.entries([(a + b, b + a) for a, b in self.pairs], cost, together=False)

    def findings(
        self,
        rounds: Rounds,
        orders: Collection[str],
        whole: tuple[str, Mapping[str, str]] | None = None,
    ) -> dict[str, Any]:
        """Pairs and what they add up to, as plain data.

        `orders` are those that the study was asked for, `whole` the order of all letters that pairs
        predict, and others that were run beside it (order → why).
        """
        pairs = self.pair_entries(rounds)
        before = {}
        for pair in pairs:
            if pair["difference"] is not None:
                before[pair["first"], pair["second"]] = pair["difference"]
                before[pair["second"], pair["first"]] = -pair["difference"]
        decided = {(p["first"], p["second"]) for p in pairs if p["decided"]}
        settled = {frozenset((p["first"], p["second"])) for p in pairs if p["verdict"] != "open"}
        ranking = rank(self.letters, before, decided)
        return {
            "order": ranking.order,
            "order_is_certain": ranking.certain,
            "pairs": pairs,
            "undecided": [
                [a, b]
                for a, b in itertools.combinations(ranking.order, 2)
                if frozenset((a, b)) not in settled
            ],
            "cycles": ranking.cycles,
            "verification": self.verification(*whole) if whole is not None else None,
            "third_stage": self.third_stage(pairs, whole[0] if whole is not None else ""),
            "permutations": self.permutations(before, orders),
        }

    def third_stage(self, pairs: Sequence[dict[str, Any]], predicted: str) -> dict[str, Any] | None:
        """Whether further stages turn a pair round (arXiv:2403.17447 says that none between does).

        Of a pair with one stage between its two, and of neighbours in the order of all letters that
        pairs predict, exchanged among the others.
        """
        known = {(p["first"], p["second"]): p for p in pairs}
        cases = [
            (first, second, between, first + between + second, second + between + first)
            for first, second in known
            for between in self.letters
        ]
        for a, b, exchanged in exchanges(predicted):
            others = predicted.replace(a + b, "")
            both = (predicted, exchanged) if (a, b) in known else (exchanged, predicted)
            cases.append((*((a, b) if (a, b) in known else (b, a)), others, *both))
        cases = [
            case
            for case in dict.fromkeys(cases)
            if case[:2] in known and {*case[3:]} <= self.by_order.keys()
        ]
        if not cases:
            return None
        found = []
        entries = self.entries([case[3:] for case in cases], self.cost, together=True)
        for (first, second, between, *orders), entry in zip(cases, entries, strict=True):
            alone = known[first, second]
            found.append({"first": first, "second": second, "between": between, "orders": orders,
                "alone": {key: alone[key] for key in (
                    "difference", "interval", "verdict", "decided")},
                "with": entry, "verdict": _holds(alone["verdict"], entry["verdict"])})  # fmt: skip
        counts = {v: sum(c["verdict"] == v for c in found) for v in ("holds", "flips", "open")}
        return {"claim": "a further stage does not turn a pair round", **counts, "cases": found}

    def verification(self, predicted: str, others: Mapping[str, str]) -> dict[str, Any]:
        """The order that pairs predict against others of the same letters, `{order: why}`."""
        there = {order: why for order, why in others.items() if order in self.by_order}
        entries = self.entries([(predicted, order) for order in there], self.cost, together=True)
        orders = [
            {"order": order, "why": why, **entry}
            for (order, why), entry in zip(there.items(), entries, strict=True)
        ]
        verdicts = {entry["verdict"] for entry in entries}
        confirmed = None if not orders or "open" in verdicts else True
        return {
            "predicted": predicted,
            "orders": orders,
            "confirmed": False if "second" in verdicts else confirmed,
        }

    def permutations(
        self, before: Mapping[Pair, float], among: Collection[str]
    ) -> dict[str, Any] | None:
        """Orders of all stages: their ranking as pairs predict it, and as it was measured.

        Measured is the mean difference at equal cost to the other orders, over those to which
        there is one. None where fewer than three of `among` can be ranked.
        """
        orders = [order for order in among if len(order) == len(self.letters) > 2]
        lead: dict[str, list[Array]] = {order: [] for order in orders}
        for a, b in itertools.combinations(orders, 2):
            distance = self.distances(a, b)
            if distance is not None:
                lead[a].append(distance)
                lead[b].append(-distance)
        ranked = [order for order in orders if lead[order]]
        if len(ranked) < 3:
            return None
        seeds = min(len(distance) for order in ranked for distance in lead[order])
        measured = {o: np.mean([each[:seeds] for each in lead[o]], axis=0) for o in ranked}  # [S]
        predicted = {order: predicted_score(order, before) for order in ranked}
        score = {order: float(measured[order].mean()) for order in ranked}
        tau, p_value = kendall(list(predicted.values()), list(score.values()))
        by_measure = sorted(ranked, key=lambda order: -score[order])
        by_prediction = sorted(ranked, key=lambda order: -predicted[order])
        between_seeds = [
            kendall([m[s] for m in measured.values()], [m[t] for m in measured.values()])[0]
            for s, t in itertools.combinations(range(seeds), 2)
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


def _turned(entry: dict[str, Any], turn: bool) -> dict[str, Any]:
    """An entry as second less first, if it is to be turned."""
    if not turn or entry["difference"] is None:
        return entry
    swapped = {"first": "second", "second": "first"}
    intervals = {
        key: [-entry[key][1], -entry[key][0]]
        for key in ("interval", "sure_interval")
        if entry[key] is not None
    }
    ratio, win = entry["cost_ratio"], entry["win_probability"]
    return {
        **entry,
        **intervals,
        "difference": -entry["difference"],
        "win_probability": 1 - win,
        "cost_ratio": 1 / ratio,
        "verdict": swapped.get(entry["verdict"], entry["verdict"]),
    }


def _holds(alone: str, within: str) -> str:
    """What two verdicts on one pair say of one another."""
    if "open" in (alone, within):
        return "open"
    if {alone, within} == {"first", "second"}:
        return "flips"
    return "holds" if alone == within else "open"
