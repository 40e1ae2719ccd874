"""What is proposed next, on spaces small enough to see why."""

from __future__ import annotations

import numpy as np
import pytest

from experiment.outcomes.wish import parse_wish
from experiment.search.policy import Policy
from experiment.search.space import Way, beginnings
from tests.support.searches import made_up

CHOICES = {
    "P": [{"keep": k} for k in (0.2, 0.4, 0.6, 0.8)],
    "Q": [{}],
    "D": [{"width": 0.5}, {"width": 0.75}],
}
MACS = {"P": [0.2, 0.4, 0.6, 0.8], "Q": [0.07], "D": [0.3, 0.6]}
SPACE = made_up(CHOICES, MACS)
BASE = {"accuracy": 90.0, "bitops": 1e9, "macs": 1e6}


def truth(way: Way) -> dict[str, float]:
    """Pruning after int8 costs; what is cut costs more the more it is."""
    order, numbers = [letter for letter, _ in way], dict(way)
    drop = [6.0, 1.5, 0.4, 0.1][numbers["P"]] if "P" in numbers else 0.0
    drop += [1.0, 0.3][numbers["D"]] if "D" in numbers else 0.0
    drop += 0.1 * ("Q" in numbers)
    if {"P", "Q"} <= set(order) and order.index("Q") < order.index("P"):
        drop += 2.0
    return {"accuracy_drop": drop, "accuracy": 90.0 - drop, **SPACE.foreseen[way]}


def policy(wish: str, *, short: bool = False) -> Policy:
    return Policy(SPACE, parse_wish(wish, several=True), BASE, short=short)


def price(kind: str, way: Way) -> float:
    return float(SPACE.epochs_of(kind, way))


def searched(found: Policy, choices: int) -> Policy:
    for number in range(choices):
        proposal = found.choose(price, number)
        if proposal is None:
            break
        found.observe(proposal.kind, 0, proposal.way, truth(proposal.way))
        found.fit()
    return found


@pytest.mark.parametrize(
    ("wish", "share"),
    [("accuracy_drop<=2, min bitops", 0.5), ("bitops<=3e7, max accuracy", 0.7)],
)
def test_it_finds_the_best_chain_long_before_all_are_tried(wish: str, share: float) -> None:
    found = searched(policy(wish), round(share * 60))
    rows = {way: truth(way) for way in SPACE.ways}
    limit, (aim, largest) = found.wish.limits[0], found.wish.aims[0]
    allowed = [way for way in SPACE.ways if limit.allows(rows[way][limit.metric])]
    best = min(allowed, key=lambda way: -rows[way][aim] if largest else rows[way][aim])
    chosen = found.best()
    assert chosen is not None and rows[chosen][aim] == pytest.approx(rows[best][aim], rel=0.02)
    full = {way for kind, _, way in found.runs if kind == "full"}
    assert len(full) <= share * len(SPACE.ways)


def test_a_stage_is_proposed_after_what_it_starts_from() -> None:
    found, seen = policy("accuracy_drop<=2, min bitops"), set[Way]()
    for number in range(12):
        proposal = found.choose(price, number)
        assert proposal is not None
        assert all(begin in seen for begin in beginnings(proposal.way[:-1]))
        assert proposal.aim[: len(proposal.way)] == proposal.way
        seen.add(proposal.way)
        found.observe("full", 0, proposal.way, truth(proposal.way))
        found.fit()


def test_of_equals_the_one_that_costs_less_comes_first() -> None:
    """After P0 was run at no loss, what goes on from it is nearer than what begins anew."""
    found = policy("accuracy_drop<=5, min bitops")
    for way in [(("P", 0),), (("D", 0),)]:
        found.observe("full", 0, way, {**truth(way), "accuracy_drop": 0.0})
    found.fit()
    dear = found.choose(lambda kind, way: 100.0 if way[-1][0] == "D" else 1.0, 0)
    assert dear is not None and dear.way[0] == ("P", 0)


def test_what_is_run_at_once_is_not_the_same_thing_twice() -> None:
    found = searched(policy("accuracy_drop<=2, min bitops"), 6)
    before = found.mean.copy()
    together = found.several(price, 6, 4)
    assert len({(p.kind, p.way) for p in together}) == 4
    assert found.mean == pytest.approx(before)  # what was believed meanwhile is forgotten
    assert together[0] == found.choose(price, 6)


def test_what_failed_is_not_gone_on_with() -> None:
    found = policy("accuracy_drop<=2, min bitops")
    for number in range(4):
        found.observe("full", 0, (("P", number),), None)
    found.fit()
    for proposal in found.ranked(price, 0, 50):
        assert proposal.way[0][0] != "P" and proposal.aim[0][0] != "P"


def test_costs_out_of_reach_are_never_trained_for() -> None:
    found = policy("bitops<=1e7, max accuracy")
    assert found.out_of_reach() == sum(SPACE.foreseen[w]["bitops"] > 1.01e7 for w in SPACE.ways)
    for proposal in found.ranked(price, 0, 50):
        assert SPACE.foreseen[proposal.aim]["bitops"] <= 1.01e7


def test_a_short_training_comes_first_where_it_may_save_the_long_one() -> None:
    found = policy("accuracy_drop<=2, min bitops", short=True)
    cheap = found.ranked(lambda kind, way: 10.0 if kind == "full" else 0.1, 0, 1)[0]
    equal = found.ranked(lambda kind, way: 10.0 if kind == "full" else 9.0, 0, 1)[0]
    assert cheap.kind == "short" and equal.kind == "full"


def test_a_chain_that_fresh_seeds_refute_is_no_longer_the_best() -> None:
    found = searched(policy("accuracy_drop<=2, min bitops"), 30)
    best = found.best()
    assert best is not None
    found.refuted.add(best)
    found.fit()
    assert found.best() != best and best not in found.candidates()


def test_several_objectives_give_ends_and_middle_of_the_front() -> None:
    found = searched(policy("accuracy_drop<=8, min bitops, max accuracy"), 45)
    shares = [found.weights(number) for number in range(8)]
    assert all(weights.sum() == pytest.approx(1) and (weights >= 0).all() for weights in shares)
    small, exact = (found.best(np.array(w)) for w in ([1.0, 0.0], [0.0, 1.0]))
    assert small is not None and exact is not None
    assert truth(small)["bitops"] < 0.2 * truth(exact)["bitops"]
    assert truth(exact)["accuracy_drop"] < truth(small)["accuracy_drop"]
