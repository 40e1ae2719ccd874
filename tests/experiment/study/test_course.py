"""What a study has run and may still run: counted by hand, from records made by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from experiment.running.store import Store
from experiment.study.course import Course, Spent, kind_of, of_orders, seeds_of_chains, steps_of
from experiment.study.plan import Study, load_study
from experiment.study.rounds import Rounds
from tests.support.studies import STUDY
from tests.support.suites import Suites

THREE = """
STUDY["stages"] = {**STUDY["stages"], "F": "finetune"}
STUDY.update(strengths={"P": [{"ratio": 0.5}]}, seeds={"min": 2, "max": 5},
             orders=["P", "Q", "F", "PQ", "QP", "PF", "FP", "PQF"])
"""
# Seconds of a stage, at any seed.
SECONDS = {"train": 100.0, "prune": 1.0, "finetune": 10.0, "qat": 20.0}


@pytest.fixture
def three(suites: Suites) -> Study:
    return load_study(suites.write(STUDY + THREE), "Tiny")


def course(study: Study, seeds: dict[str, tuple[int, ...]] | None = None) -> Course:
    """One that finds the stages of these chains stored, each with the seconds of its kind."""
    stored = steps_of(study.part(seeds or {}))
    records = {step.key: {"seconds": SECONDS[step.stage]} for step in stored}
    store = SimpleNamespace(record=records.get)
    return Course(cast(Store, store))


def rounds(*seeds: int) -> Rounds:
    """The two pairs that the study has both orders of."""
    found = Rounds([("P", "Q"), ("P", "F")], 2, 5, 0.05, 0.5)
    found.seeds = list(seeds)
    return found


def by_order(study: Study, seeds: dict[str, tuple[int, ...]]) -> dict[str, int]:
    orders = {link.name: link.order for link in study.links}
    assert all(own == tuple(range(len(own))) for own in seeds.values())
    return {orders[name]: len(own) for name, own in seeds.items()}


def test_chains_have_the_seeds_of_their_pairs(three: Study) -> None:
    """P alone is compared in both pairs, F in one; longer orders stay with the first round's."""
    found = seeds_of_chains(three, rounds(4, 3), range(5))
    assert by_order(three, found) == {
        "P": 4, "Q": 4, "F": 3, "PQ": 4, "QP": 4, "PF": 3, "FP": 3, "PQF": 2
    }  # fmt: skip
    assert set(by_order(three, seeds_of_chains(three, rounds(2, 2), range(5))).values()) == {2}
    shifted = seeds_of_chains(three, rounds(3, 2), (7, 1, 9, 4, 5))
    assert shifted["Tiny_PQ"] == (7, 1, 9) and shifted["Tiny_PQF"] == (7, 1)
    some = of_orders(three, shifted, ["F", "PQ"])
    assert some == {"Tiny_F": (7, 1), "Tiny_PQ": (7, 1, 9)}


def test_what_chains_share_is_spent_once(three: Study) -> None:
    """A seed of PQ and PF: train, P's prune and finetune, Q's qat, F's finetune."""
    seeds = {"Tiny_PQ": (0, 1), "Tiny_PF": (0,)}
    known = course(three, seeds)
    part = three.part(seeds)
    known.count(part)
    spent = known.spent(part)
    assert spent.stages == 2 * 4 + 1
    assert spent.epochs == 2 * (2 + 1 + 1) + 1  # the baseline trains 2, each of the others 1
    assert spent.hours == pytest.approx((2 * (100 + 1 + 10 + 20) + 10) / 3600)
    alone = known.spent(three.part({"Tiny_PQ": (1,)}))
    assert (alone.stages, alone.epochs) == (4, 4)
    known.count(part)  # again: nothing twice
    assert known.spent(part) == spent and sum(map(len, known.taken.values())) == spent.stages


def test_seeds_that_have_not_run_are_foreseen_by_those_of_their_kind(three: Study) -> None:
    known = course(three, {"Tiny_PQ": (0, 1)})
    assert known.spent(three.part({"Tiny_PQ": (0,)})).hours is None  # nothing was counted yet
    known.count(three.part({"Tiny_PQ": (0, 1, 2)}))
    assert len(known.counted) == 8
    next(iter(known.taken.values()))[:] = [60.0, 120.0]  # two baselines, of which the mean counts
    more = known.spent(three.part({"Tiny_PQ": (0, 1, 4)}))
    assert more.hours == pytest.approx((2 * 131 + 90 + 1 + 10 + 20) / 3600)
    other = known.spent(three.part({"Tiny_PF": (0,)}))  # of no kind that has run
    assert (
        other.hours == pytest.approx((100 + 1 + 10) / 3600) and other.stages == 4
    )  # of known kinds


def test_a_kind_is_all_that_was_done_whatever_the_seed(three: Study) -> None:
    kinds: dict[str, set[Any]] = {}
    for step in steps_of(three.part({"Tiny_PF": (0, 3), "Tiny_F": (0, 3)})):
        kinds.setdefault(kind_of(step), set()).add((step.stage, step.key))
    assert sorted(len(steps) for steps in kinds.values()) == [2] * 5  # F after P, and F alone
    assert all(len({stage for stage, _ in steps}) == 1 for steps in kinds.values())


@pytest.mark.parametrize(
    ("hours", "epochs", "above"),
    [(None, None, False), (2.0, None, False), (1.9, None, True), (None, 30, False),
     (None, 29, True), (3.0, 29, True)],
)  # fmt: skip
def test_a_budget_may_be_reached_but_not_exceeded(
    hours: float | None, epochs: int | None, above: bool
) -> None:
    assert Spent(9, 30, 2.0).above(hours, epochs) is above
    assert not Spent(9, 30, None).above(hours, None)
