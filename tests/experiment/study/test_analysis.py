"""Orders, ties and cycles that were planted in the answers are found again."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from experiment.study.analysis import Analysis, Evidence, ScoreScale

SEEDS, IMAGES = 2, 1500


def planted(
    letters: str,
    effect: Callable[[str], float],
    *,
    orders: list[str] | None = None,
    cost: Callable[[str, int], float] = lambda order, strength: 1e6 / 2**strength,
    strengths: int = 2,
) -> Analysis:
    """A study whose order `o` gets a share 0.8 + effect(o) right, less at the second strength.

    Images differ in difficulty, the same for every chain, and each network errs by itself too.
    """
    random = np.random.default_rng(0)
    difficulty = random.random(IMAGES)
    orders = orders or ["".join(pair) for pair in itertools.permutations(letters, 2)]
    evidence = []
    for order in orders:
        for strength in range(strengths):
            noise = random.random((SEEDS, IMAGES))
            hard = 0.8 * difficulty + 0.2 * noise
            hard = hard.argsort(axis=1).argsort(axis=1) / IMAGES  # uniform, so shares are exact
            luck = random.normal(0, 0.002, (SEEDS, 1))
            correct = hard < 0.8 + effect(order) - 0.02 * strength + luck
            costs = np.full(SEEDS, cost(order, strength))
            at = tuple((letter, strength) for letter in sorted(order))
            evidence.append(
                Evidence(
                    f"{order}_{strength}", order, at, correct,
                    {"bitops": costs, "latency_ms": costs / 1e6},
                )
            )  # fmt: skip
    return Analysis(letters, orders, evidence, ScoreScale(10.0, {"bitops": 2e6, "latency_ms": 2.0}))


def by_pairs(*better: str) -> Callable[[str], float]:
    """Three points for every pair that an order has as `better` says, in any distance."""

    def effect(order: str) -> float:
        return 0.03 * sum("".join(pair) in better for pair in itertools.combinations(order, 2))

    return effect


def test_a_planted_order_is_recovered() -> None:
    found = planted("QPED", by_pairs("DP", "DQ", "DE", "PQ", "PE", "QE")).findings()
    assert found["order"] == ["D", "P", "Q", "E"]
    assert found["order_is_certain"] and not found["undecided"] and not found["cycles"]
    assert len(found["pairs"]) == 6
    for pair in found["pairs"]:
        low, high = pair["interval"]
        assert pair["decided"] and 0 < low < pair["difference"] < high
        assert abs(pair["difference"] - 3) < 0.5 and pair["win_probability"] > 0.99
        assert pair["n"] == {"seeds": 2, "strengths": 2, "images": IMAGES}
        assert pair["wins"] == [4, 4] and pair["method"] == "matched"
        assert pair["at_equal"]["latency_ms"]["decided"]
        volumes = pair["hypervolume"]["bitops"]
        assert volumes["decided"] and volumes["first"] > volumes["second"]


def test_a_planted_tie_is_undecided() -> None:
    found = planted("PQ", by_pairs()).findings()
    (pair,) = found["pairs"]
    assert not pair["decided"] and pair["reason"] == "the interval contains 0"
    assert pair["interval"][0] <= 0 <= pair["interval"][1]
    assert found["undecided"] == [found["order"]] and not found["order_is_certain"]
    assert 0.5 <= pair["win_probability"] < 0.975


def test_equal_answers_are_said_to_be_equal() -> None:
    study = planted("PQ", by_pairs())
    (one, other) = [e for e in study.evidence if e.strengths[0][1] == 0]
    twin = Evidence(other.name, other.order, other.strengths, one.correct, one.costs)
    (pair,) = Analysis("PQ", ["PQ", "QP"], [one, twin], study.reference).pairs
    assert pair["difference"] == 0 and pair["interval"] == [0, 0]
    assert pair["win_probability"] == 0.5 and not pair["decided"]
    assert pair["reason"] == "both orders answer every image alike"


def test_a_planted_cycle_is_reported() -> None:
    found = planted("PQDE", by_pairs("PQ", "QD", "DP", "PE", "QE", "DE")).findings()
    assert found["cycles"] == [["D", "P", "Q"]]
    assert found["order"][-1] == "E" and not found["order_is_certain"]
    assert not found["undecided"]


def test_a_stage_between_that_turns_a_pair_is_found() -> None:
    orders = ["".join(o) for n in (2, 3) for o in itertools.permutations("PQD", n)]
    straight = by_pairs("PQ", "PD", "QD")

    def effect(order: str) -> float:
        return -straight(order) if order in ("PDQ", "QDP") else straight(order)

    third = planted("PQD", effect, orders=orders).findings()["third_stage"]
    assert third["flips"] == 1 and third["holds"] == 2 and third["open"] == 0
    (case,) = [case for case in third["cases"] if case["verdict"] == "flips"]
    assert (case["first"], case["second"], case["between"]) == ("P", "Q", "D")


def test_pairs_predict_permutations_that_are_made_of_them() -> None:
    orders = ["".join(o) for n in (2, 3, 4) for o in itertools.permutations("PQDE", n)]
    effect = by_pairs("DP", "DQ", "DE", "PQ", "PE", "QE")
    found = planted("PQDE", effect, orders=orders).findings()["permutations"]
    assert found["n"] == 24
    assert found["kendall_tau"] > 0.85 and found["p_value"] < 0.001
    assert found["predicted_best"] == found["measured_best"] == "DPQE"
    assert found["ranking"][0]["order"] == "DPQE" and found["ranking"][-1]["order"] == "EQPD"
    steps = [row["measured"] for row in found["ranking"]]
    assert steps == sorted(steps, reverse=True)


def test_without_common_costs_only_the_cheaper_and_better_leads() -> None:
    def effect(order: str) -> float:
        return 0.05 if order == "PQ" else 0.0

    def cheap(order: str, strength: int) -> float:
        return 1e6 / 2**strength * (0.1 if order == "PQ" else 1)

    (pair,) = planted("PQ", effect, cost=cheap).pairs
    assert pair["method"] == "dominance" and pair["decided"] and pair["first"] == "P"
    # the better one's accuracy at its dearest, the other's at its cheapest: 85 and 78
    assert pair["difference"] == pytest.approx(7, abs=0.6)

    def dear(order: str, strength: int) -> float:
        return 1e6 / 2**strength * (10 if order == "PQ" else 1)

    (pair,) = planted("PQ", effect, cost=dear).pairs
    assert pair["difference"] is None and not pair["decided"]
    assert pair["reason"] == "there are no common costs, and the cheaper order is less accurate"


def test_a_failed_order_leaves_its_pair_open() -> None:
    study = planted("PQ", by_pairs("PQ"))
    left = [chain for chain in study.evidence if chain.order == "PQ"]
    found = Analysis("PQ", ["PQ", "QP"], left, study.reference).findings()
    assert found["pairs"][0]["reason"] == "chains of these orders failed"
    assert found["undecided"] == [["P", "Q"]]
    nothing = Analysis("PQ", ["PQ", "QP"], [], study.reference).findings()
    assert nothing["undecided"] and not nothing["pairs"][0]["decided"]
