"""Orders, ties and cycles that were planted in the answers are found again."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from experiment.study.analysis import Analysis
from experiment.study.comparison import Evidence, ScoreScale, drops
from experiment.study.luck import Sample, sample
from experiment.study.rounds import Rounds
from experiment.study.statistics import compare_orders

SEEDS, IMAGES = 2, 1500
REFERENCE = ScoreScale(10.0, {"bitops": 2e6, "latency_ms": 2.0})


def planted(
    letters: str,
    effect: Callable[[str], float],
    *,
    orders: list[str] | None = None,
    cost: Callable[[str, int], float] = lambda order, strength: 1e6 / 2**strength,
    strengths: int = 2,
    margin: float = 0.5,
    seeds: Mapping[str, int] | None = None,
) -> Analysis:
    """A study whose order `o` gets a share 0.8 + effect(o) right, less at the second strength.

    Images differ in difficulty, the same for every chain, and each network errs by itself too.
    `seeds` are those of each order, two where it does not say.
    """
    random = np.random.default_rng(0)
    difficulty = random.random(IMAGES)
    orders = orders or ["".join(pair) for pair in itertools.permutations(letters, 2)]
    evidence = []
    for order in orders:
        count = (seeds or {}).get(order, SEEDS)
        for strength in range(strengths):
            noise = random.random((count, IMAGES))
            hard = 0.8 * difficulty + 0.2 * noise
            hard = hard.argsort(axis=1).argsort(axis=1) / IMAGES  # uniform, so shares are exact
            luck = random.normal(0, 0.002, (count, 1))
            correct = hard < 0.8 + effect(order) - 0.02 * strength + luck
            costs = np.full(count, cost(order, strength))
            at = tuple((letter, strength) for letter in sorted(order))
            evidence.append(
                Evidence(
                    f"{order}_{strength}", order, at, tuple(range(count)), 100.0 * correct,
                    {"bitops": costs, "latency_ms": costs / 1e6},
                )
            )  # fmt: skip
    return Analysis(letters, orders, evidence, REFERENCE, margin=margin)


def found_in(
    study: Analysis, whole: tuple[str, Mapping[str, str]] | None = None, seeds: int = SEEDS
) -> dict[str, Any]:
    """Findings after the one look of a study whose chains all have so many seeds."""
    rounds = Rounds(study.pairs, seeds, seeds, 0.05, study.margin)
    rounds.look(study.samples())
    return study.findings(rounds, list(study.by_order), whole)


def by_pairs(*better: str) -> Callable[[str], float]:
    """Three points for every pair that an order has as `better` says, in any distance."""

    def effect(order: str) -> float:
        return 0.03 * sum("".join(pair) in better for pair in itertools.combinations(order, 2))

    return effect


def orders_of(letters: str, *lengths: int) -> list[str]:
    return ["".join(o) for n in lengths for o in itertools.permutations(letters, n)]


def test_a_planted_order_is_recovered() -> None:
    found = found_in(planted("QPED", by_pairs("DP", "DQ", "DE", "PQ", "PE", "QE")))
    assert found["order"] == ["D", "P", "Q", "E"]
    assert found["order_is_certain"] and not found["undecided"] and not found["cycles"]
    assert found["verification"] is None and found["third_stage"] is None
    assert len(found["pairs"]) == 6
    for pair in found["pairs"]:
        (low, high), (least, most) = pair["interval"], pair["sure_interval"]
        assert 0 < least <= low < pair["difference"] < high <= most
        assert pair["verdict"] == "first" and pair["decided"] and pair["settled_in_round"] == 1
        assert abs(pair["difference"] - 3) < 0.5 and pair["win_probability"] > 0.99
        assert pair["p_value"] < 0.05 and not pair["within_margin"] and pair["reason"] is None
        assert pair["lacking"] is None and pair["next_half_width"] is None
        assert pair["n"] == {"seeds": 2, "strengths": 2, "images": IMAGES}
        assert pair["wins"] == [4, 4] and pair["method"] == "matched"
        assert pair["at_equal"]["latency_ms"]["verdict"] == "first"
        volumes = pair["hypervolume"]["bitops"]
        assert volumes["decided"] and volumes["first"] > volumes["second"]
    levels = sorted(pair["level"] for pair in found["pairs"])  # Holm's: the surest first
    assert levels == pytest.approx([1 - 0.05 / k for k in range(1, 7)])


def test_a_planted_tie_is_equal_within_a_wide_margin_and_else_open() -> None:
    (pair,) = found_in(planted("PQ", by_pairs(), margin=4.0))["pairs"]
    assert pair["verdict"] == "equal" and pair["within_margin"] and not pair["decided"]
    assert pair["settled_in_round"] == 1 and pair["reason"] is None
    found = found_in(planted("PQ", by_pairs(), margin=0.01))
    (pair,) = found["pairs"]
    assert pair["verdict"] == "open" and not pair["decided"] and not pair["within_margin"]
    assert pair["reason"] == "the interval has 0 inside and reaches beyond ±0.01"
    assert pair["interval"][0] <= 0 <= pair["interval"][1]
    assert pair["settled_in_round"] is None and pair["lacking"] in ("images", "seeds")
    assert pair["next_half_width"] > 0
    assert found["undecided"] == [found["order"]] and not found["order_is_certain"]
    assert 0.5 <= pair["win_probability"] < 0.975 and pair["p_value"] > 0.05


def test_a_small_sure_difference_is_one_within_the_margin() -> None:
    (pair,) = found_in(planted("PQ", by_pairs("PQ"), margin=8.0))["pairs"]
    assert pair["verdict"] == "first" and pair["first"] == "P"
    assert pair["decided"] and pair["within_margin"]


def test_equal_answers_are_said_to_be_equal() -> None:
    study = planted("PQ", by_pairs())
    (one, other) = [e for e in study.evidence if e.strengths[0][1] == 0]
    twin = replace(other, score=one.score)
    (pair,) = found_in(Analysis("PQ", ["PQ", "QP"], [one, twin], REFERENCE))["pairs"]
    assert pair["difference"] == 0 and pair["interval"] == pytest.approx([0, 0], abs=1e-4)
    assert pair["win_probability"] == pytest.approx(0.5) and pair["verdict"] == "equal"
    assert pair["reason"] == "both orders answer every image alike"


def test_a_planted_cycle_is_reported() -> None:
    found = found_in(planted("PQDE", by_pairs("PQ", "QD", "DP", "PE", "QE", "DE")))
    assert found["cycles"] == [["D", "P", "Q"]]
    assert found["order"][-1] == "E" and not found["order_is_certain"]
    assert not found["undecided"]


def test_seeds_that_only_one_order_has_do_not_count() -> None:
    """As where a round gave one pair more: by the common ones, wherever they stand."""
    study = planted("PQD", by_pairs("PQ", "PD", "QD"), seeds={"PQ": 4})
    found = {(p["first"], p["second"]): p for p in found_in(study)["pairs"]}
    evidence = []
    for chain in study.evidence:
        kept = [1, 3] if chain.order == "PQ" else [0, 1]
        more = {cost: values[kept] for cost, values in chain.costs.items()}
        cut = replace(chain, seeds=tuple(kept), score=chain.score[kept], costs=more)
        evidence.append(cut)
    fewer = Analysis("PQD", list(study.by_order), evidence, REFERENCE)
    assert [found[pair]["n"]["seeds"] for pair in found] == [2, 2, 2]
    again = {(p["first"], p["second"]): p for p in fewer.pair_entries(looked_at(fewer))}
    assert again["P", "Q"]["n"]["seeds"] == 1 and again["P", "Q"]["wins"][1] == 2
    one, other = ([c for c in study.evidence if c.order == order] for order in ("PQ", "QP"))
    by_hand = np.mean([a.score[1] - b.score[1] for a, b in zip(one, other, strict=True)])
    assert again["P", "Q"]["difference"] == pytest.approx(by_hand)
    for pair in (("P", "D"), ("Q", "D")):
        assert again[pair]["difference"] == found[pair]["difference"]


def looked_at(study: Analysis) -> Rounds:
    rounds = Rounds(study.pairs, SEEDS, SEEDS, 0.05, study.margin)
    rounds.look(study.samples())
    return rounds


# --- what is known of every image ----------------------------------------------------------------


def curves(order: str, strength: int) -> float:
    """Costs at which the two orders' curves overlap, without being equal."""
    return 1e6 / 4**strength * (1.4 if order == "PQ" else 1)


@pytest.mark.parametrize(
    ("cost", "method"),
    [
        (lambda order, strength: 1e6 / 2**strength, "matched"),
        (curves, "interpolated"),
        (lambda order, strength: 1e6 / 2**strength * (0.1 if order == "PQ" else 1), "dominance"),
    ],
)
def test_the_mean_over_images_is_the_difference_of_every_seed(
    cost: Callable[[str, int], float], method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[Any] = []

    def keep(values: Any) -> Sample:
        kept.append(values)
        return sample(values)

    monkeypatch.setattr("experiment.study.comparison.sample", keep)
    study = planted("PQ", by_pairs("PQ"), cost=cost, strengths=3, seeds={"PQ": 3, "QP": 3})
    compared = study.compared("PQ", "QP", "bitops")
    (values,) = kept
    one, other, *_ = study.points("PQ", "QP", "bitops")
    differences = compare_orders(one, other, 0.05).differences
    assert compared.entry["method"] == method and values.shape == (3, IMAGES)
    assert differences is not None
    assert values.mean(axis=1) == pytest.approx(differences[0])
    assert compared.sample is not None and compared.sample.seeds == 3
    assert compared.sample.difference == pytest.approx(differences[0].mean())


def test_a_curves_image_noise_is_that_of_other_images() -> None:
    """The variance that values of single images come to, against that of newly drawn images.

    Of one seed, since with more this is what no seed lowers, and the rest beside it.
    """
    study = planted("PQ", by_pairs("PQ"), cost=curves, strengths=3, seeds={"PQ": 1, "QP": 1})
    known = study.compared("PQ", "QP", "bitops").sample
    assert known is not None
    random = np.random.default_rng(4)
    drawn = []
    for _ in range(400):
        images = random.integers(0, IMAGES, IMAGES)
        again = [replace(chain, score=chain.score[:, images]) for chain in study.evidence]
        other = Analysis("PQ", ["PQ", "QP"], again, REFERENCE).compared("PQ", "QP", "bitops").sample
        assert other is not None
        drawn.append(other.difference)
    assert np.std(drawn) == pytest.approx(known.noise(1) ** 0.5, rel=0.12)


# --- longer orders -------------------------------------------------------------------------------


def test_a_stage_between_that_turns_a_pair_is_found() -> None:
    straight = by_pairs("PQ", "PD", "QD")

    def effect(order: str) -> float:
        return -straight(order) if order in ("PDQ", "QDP") else straight(order)

    third = found_in(planted("PQD", effect, orders=orders_of("PQD", 2, 3)))["third_stage"]
    assert third["flips"] == 1 and third["holds"] == 2 and third["open"] == 0
    (case,) = [case for case in third["cases"] if case["verdict"] == "flips"]
    assert (case["first"], case["second"], case["between"]) == ("P", "Q", "D")
    assert case["orders"] == ["PDQ", "QDP"]
    assert case["alone"]["verdict"] == "first" and case["with"]["verdict"] == "second"


def test_pairs_predict_permutations_that_are_made_of_them() -> None:
    effect = by_pairs("DP", "DQ", "DE", "PQ", "PE", "QE")
    found = found_in(planted("PQDE", effect, orders=orders_of("PQDE", 2, 3, 4)))["permutations"]
    assert found["n"] == 24
    assert found["kendall_tau"] > 0.85 and found["p_value"] < 0.001
    assert found["predicted_best"] == found["measured_best"] == "DPQE"
    assert found["ranking"][0]["order"] == "DPQE" and found["ranking"][-1]["order"] == "EQPD"
    steps = [row["measured"] for row in found["ranking"]]
    assert steps == sorted(steps, reverse=True)


NEIGHBOURS = {"QPD": "P and Q exchanged", "PDQ": "Q and D exchanged"}


@pytest.mark.parametrize(
    ("surprise", "margin", "confirmed", "verdicts"),
    [
        ({}, 0.5, True, ["first", "first"]),
        ({"QPD": 0.06}, 0.5, False, ["second", "first"]),
        ({"QPD": 0.03}, 4.0, True, ["equal", "first"]),
        ({"QPD": 0.03}, 0.01, None, ["open", "first"]),
        ({"QPD": 0.06, "PDQ": 0.03}, 0.01, False, ["second", "open"]),  # refuted is refuted
    ],
)
def test_the_order_that_pairs_predict_is_verified(
    surprise: dict[str, float], margin: float, confirmed: bool | None, verdicts: list[str]
) -> None:
    straight = by_pairs("PQ", "PD", "QD")
    study = planted(
        "PQD",
        lambda order: straight(order) + surprise.get(order, 0.0),
        orders=[*orders_of("PQD", 2), "PQD", *NEIGHBOURS],
        margin=margin,
    )
    found = found_in(study, ("PQD", NEIGHBOURS))
    verified = found["verification"]
    assert verified["predicted"] == "PQD" == "".join(found["order"])
    assert [(one["order"], one["why"]) for one in verified["orders"]] == list(NEIGHBOURS.items())
    assert [one["verdict"] for one in verified["orders"]] == verdicts
    assert verified["confirmed"] is confirmed
    by_hand = score_of(study, "PQD") - score_of(study, "QPD")
    assert verified["orders"][0]["difference"] == pytest.approx(by_hand)
    turned = {"first": "holds", "second": "flips"}
    cases = {case["between"]: case for case in found["third_stage"]["cases"] if case["orders"][0]
             == "PQD"}  # fmt: skip
    assert cases.keys() == {"D", "P"}  # P and Q before D, Q and D after P
    assert cases["D"]["verdict"] == turned.get(verdicts[0], "open")
    assert cases["D"]["orders"] == ["PQD", "QPD"] and cases["P"]["orders"] == ["PQD", "PDQ"]


def score_of(study: Analysis, order: str) -> float:
    return float(np.mean([chain.score.mean() for chain in study.evidence if chain.order == order]))


def test_a_whole_order_that_failed_verifies_nothing() -> None:
    study = planted("PQD", by_pairs("PQ", "PD", "QD"), orders=[*orders_of("PQD", 2), "PQD", "QPD"])
    left = [chain for chain in study.evidence if chain.order != "QPD"]
    found = found_in(Analysis("PQD", list(study.by_order), left, REFERENCE), ("PQD", NEIGHBOURS))
    (one,) = found["verification"]["orders"]
    assert one["verdict"] == "open" and one["reason"] == "chains of these orders failed"
    assert found["verification"]["confirmed"] is None
    nothing = found_in(Analysis("PQD", orders_of("PQD", 2), study.evidence[:12], REFERENCE),
                       ("PQD", {}))  # fmt: skip
    assert nothing["verification"] == {"predicted": "PQD", "orders": [], "confirmed": None}


# --- what cannot be compared ---------------------------------------------------------------------


def test_without_common_costs_only_the_cheaper_and_better_leads() -> None:
    def effect(order: str) -> float:
        return 0.05 if order == "PQ" else 0.0

    def cheap(order: str, strength: int) -> float:
        return 1e6 / 2**strength * (0.1 if order == "PQ" else 1)

    (pair,) = found_in(planted("PQ", effect, cost=cheap))["pairs"]
    assert pair["method"] == "dominance" and pair["verdict"] == "first" and pair["first"] == "P"
    # the better one's accuracy at its dearest, the other's at its cheapest: 85 and 78
    assert pair["difference"] == pytest.approx(7, abs=0.6)

    def dear(order: str, strength: int) -> float:
        return 1e6 / 2**strength * (10 if order == "PQ" else 1)

    (pair,) = found_in(planted("PQ", effect, cost=dear))["pairs"]
    assert pair["difference"] is None and pair["verdict"] == "open" and not pair["decided"]
    assert pair["reason"] == "there are no common costs, and the cheaper order is less accurate"


def test_a_failed_order_leaves_its_pair_open() -> None:
    study = planted("PQ", by_pairs("PQ"))
    left = [chain for chain in study.evidence if chain.order == "PQ"]
    found = found_in(Analysis("PQ", ["PQ", "QP"], left, REFERENCE))
    (pair,) = found["pairs"]
    assert pair["reason"] == "chains of these orders failed" and pair["verdict"] == "open"
    assert pair["n"]["seeds"] == 0 and pair["sure_interval"] is None and pair["wins"] == [0, 0]
    assert found["undecided"] == [["P", "Q"]]
    nothing = found_in(Analysis("PQ", ["PQ", "QP"], [], REFERENCE))
    assert nothing["undecided"] and not nothing["pairs"][0]["decided"]


def test_a_cost_that_some_chain_lacks_is_not_compared() -> None:
    study = planted("PQ", by_pairs("PQ"))
    one, *rest = study.evidence
    chains = [replace(one, costs={"latency_ms": one.costs["latency_ms"]}), *rest]
    why = {"bitops": "PQ_0 has no bitops"}
    (pair,) = found_in(Analysis("PQ", ["PQ", "QP"], chains, REFERENCE, left_out=why))["pairs"]
    assert pair["reason"] == "PQ_0 has no bitops" and pair["verdict"] == "open"
    assert pair["at_equal"].keys() == {"latency_ms"}
    assert pair["at_equal"]["latency_ms"]["verdict"] == "first"


# --- drops ---------------------------------------------------------------------------------------


def test_the_drop_of_one_seed_has_the_interval_of_paired_images() -> None:
    random = np.random.default_rng(5)
    score = 100.0 * (random.random((3, 2, IMAGES)) < np.array([0.9, 0.8, 0.85])[:, None, None])
    baseline, *chains = (
        Evidence(name, "", (), seeds, score[i, : len(seeds)], {})
        for i, (name, seeds) in enumerate([("Base", (0, 1)), ("A", (1,)), ("B", (0,))])
    )
    found = drops(baseline, chains, 0.9)
    for row, lost in zip(
        found, (score[0, 1] - score[1, 0], score[0, 0] - score[2, 0]), strict=True
    ):
        error = lost.std(ddof=1) / IMAGES**0.5
        half = stats.norm.ppf(0.95) * error
        assert row["drop_sd"] == pytest.approx(error)
        assert row["drop_interval"] == pytest.approx([lost.mean() - half, lost.mean() + half])


def test_a_drop_over_seeds_has_their_luck_in_it() -> None:
    """Wider where seeds differ, about the mean over images and seeds."""
    calm = np.tile(np.linspace(0, 100, IMAGES), (3, 1))
    baseline = Evidence("Base", "", (), (0, 1, 2), calm + 5, {})
    lucky = calm + np.array([-2.0, 0.0, 2.0])[:, None]
    noise = np.random.default_rng(6).normal(0, 20, (2, 3, IMAGES))
    chains = [
        Evidence("Calm", "", (), (0, 1, 2), calm + noise[0], {}),
        Evidence("Lucky", "", (), (0, 1, 2), lucky + noise[1], {}),
    ]
    still, moved = drops(baseline, chains, 0.95)
    for row, chain in ((still, chains[0]), (moved, chains[1])):
        low, high = row["drop_interval"]
        assert (low + high) / 2 == pytest.approx((baseline.score - chain.score).mean())
    assert moved["drop_sd"] > 2 / 3**0.5 > still["drop_sd"]
