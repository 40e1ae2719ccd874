"""A search's findings in words, at every point of its course, from files with and without them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from experiment.outcomes.search import SearchResult
from experiment.outcomes.search_parts import within
from experiment.outcomes.wish import Limit
from tests.support.search_samples import (
    chain,
    finalist,
    fruitless_search,
    full_search,
    running_search,
)


def read(written: dict[str, Any], **more: Any) -> SearchResult:
    return SearchResult.model_validate({**written, **more})


def told(search: SearchResult, kind: str) -> list[str]:
    return [finding.text for finding in search.findings if finding.kind == kind]


def test_what_won_is_told_by_what_was_confirmed() -> None:
    search = read(full_search())
    assert search.findings[0].kind == "headline"
    # 1 / (0.34 · 0.45 / 13) of the BitOps; 0.4 of its drop at the search's seed is not told here
    assert search.findings[0].text == (
        "Found: DPQ_d0.5_p0.45 (D → P → Q; D width 0.5; P keep.macs 0.45): BitOps 1/85.0, drop "
        "0.80 (+0.30 to +1.30) on three fresh seeds (test split 0.90), accuracy_drop<=1 holds "
        "with 93 %; 53 of 3,912 chains tried, 1.9 hours."
    )
    assert told(search, "optimism") == [
        "what was best of 53 looks better than it is: drop 0.40 at the search's seed, 0.80 on "
        "three fresh seeds, 0.70 was expected"
    ]
    assert told(search, "finalist") == [
        "DPEQ_d0.5_p0.3 was not confirmed: drop 1.40 (+0.90 to +1.90) on three fresh seeds, 0.90 "
        "at the search's seed: beyond accuracy_drop<=1"
    ]


def test_what_mattered_with_how_sure() -> None:
    search = read(full_search())
    assert told(search, "order") == [
        "D before P: +1.30 (+0.70 to +1.90) points of accuracy",
        "Q before P: +0.80 (+0.10 to +1.50) points of accuracy",  # it is P before Q that loses
        "may be chance: Q before E +0.20 (-0.50 to +0.90)",
    ]
    assert told(search, "strength") == [
        "P keep.macs from 0.3 to 0.8: +2.10 (+1.20 to +3.00) points of accuracy",
        "may be chance: D width from 0.5 to 0.75 +0.10 (-0.40 to +0.60)",
    ]
    assert told(search, "letter") == [
        "with D, against without: -0.50 (-0.90 to -0.10) points of accuracy"
    ]


def test_the_course_in_words() -> None:
    search = read(full_search())
    assert told(search, "next") == [
        "the next hour would go to DPQ_d0.5_p0.3 (3 minutes, 31 % to be better) and "
        "PDQE_p0.3_d0.5 (7 minutes, 12 % to be better)"
    ]
    assert told(search, "stopped") == ["stopped: the budget of 2 hours allows no more"]
    assert told(search, "spent") == [
        "spent: 1.9 hours, 36 minutes of them for fresh seeds; 310 epochs, 144 stages trained, 3 "
        "from the store"
    ]
    assert told(search, "space")[0].startswith("240 chains were never trained")
    assert told(search, "stopped_early") == ["stopped on the way: Q (accuracy_drop 7.30 > 5)"]
    assert told(search, "failed") == ["failed: EPDQ_p0.3_d0.5 (out of memory)"]
    for reason, said in (("nothing_better", "no chain that is left is likely to be better"),
                         ("all_tried", "every chain was tried")):  # fmt: skip
        assert told(read(full_search(), stopped_by=reason), "stopped") == [f"stopped: {said}"]


def test_before_the_end_nothing_counts_as_found() -> None:
    said = read(running_search()).findings[0].text
    assert said.startswith("Not finished: the best so far, not confirmed yet, is DPEQ_d0.5_p0.3 (")
    assert said.endswith("drop 0.90 at the search's seed; 53 of 3,912 chains tried, 1.3 hours.")
    search = read(running_search(), status="interrupted", course=[])
    assert search.findings[0].text == (
        "Interrupted: no chain that meets accuracy_drop<=1 yet; 53 of 3,912 chains tried, "
        "1.3 hours."
    )
    assert told(search, "stopped") == ["interrupted: the same command goes on"]
    assert not told(search, "optimism") and not told(search, "finalist")
    # Finalists of which none has been run again yet
    waiting = [{**one, "confirmed": None, "test": None, "meets": None}
               for one in full_search()["finalists"]]  # fmt: skip
    search = read(running_search(), finalists=waiting)
    assert {one.verdict for one in search.finalists} == {"not run again yet"}
    assert not told(search, "optimism") and not told(search, "finalist")


def test_a_winner_before_the_end_is_one_so_far() -> None:
    search = read(full_search(), status="interrupted", stopped_by=None)
    assert search.findings[0].text.startswith("Found so far: DPQ_d0.5_p0.45 (")


def test_a_finalist_that_failed_is_told_so() -> None:
    lost = {**chain("DPQ"), "apparent": {"accuracy_drop": 0.1}, "confirmed": None, "meets": False}
    search = read(full_search(), finalists=[{**lost, "failed": "out of memory"}], winner=None)
    assert search.finalists[0].verdict == "failed"
    assert not told(search, "finalist") and not told(search, "optimism")
    assert "DPQ_d0.5_p0.45 (out of memory)" in told(search, "failed")[0]


def test_where_nothing_meets_the_wish_the_nearest_is_told() -> None:
    said = read(fruitless_search()).findings[0].text
    assert said.startswith("No chain meets accuracy_drop<=1; the nearest is DPQ_d0.5_p0.45 (")
    assert "drop 1.30 (+0.80 to +1.80) on three fresh seeds (test split 1.40)" in said
    never = read(fruitless_search(), finalists=[], wish="bitops<=1, min accuracy_drop")
    assert never.findings[0].text.startswith("No chain meets bitops<=1; the nearest is ")
    assert "at the search's seed; 53 of" in never.findings[0].text


def test_several_objectives_give_a_front() -> None:
    search = read(full_search(), winner=None, wish="accuracy_drop<=1, min bitops, min macs")
    said = search.findings[0].text
    assert said.startswith("Found a front of two, run again: DPQ_d0.5_p0.45 (")
    assert "BitOps 1/85.0, MACs 1/6.5, drop 0.80" in said and "; DQ_d0.5 (" in said
    assert search.costs == ["bitops", "macs"]


def test_what_turned_out_no_worse_is_told_so() -> None:
    names = chain("DPQ")
    search = read(full_search(), finalists=[finalist(names, 0.5, 0.45, 0.4, 0.3)])
    assert told(search, "optimism")[0].startswith("what was best of 53 is no worse than it looked")


@pytest.mark.parametrize(
    ("wish", "limits", "aims"),
    [
        ("accuracy_drop<=1, min bitops", ["accuracy_drop<=1"], [("bitops", False)]),
        (
            "accuracy >= 97.5,latency_ms<.5,max accuracy",
            ["accuracy>=97.5", "latency_ms<0.5"],
            [("accuracy", True)],
        ),
        ("bitops<=1e8, min macs, min params", ["bitops<=1e+08"],
         [("macs", False), ("params", False)]),
        ("", [], []),
    ],
)  # fmt: skip
def test_the_wish_is_read_back(wish: str, limits: list[str], aims: list[tuple[str, bool]]) -> None:
    search = read({}, wish=wish)
    assert [str(limit) for limit in search.limits] == limits and list(search.aims) == aims


def test_limits() -> None:
    drop, cost = Limit("accuracy_drop", "<=", 1), Limit("bitops", "<", 100)
    assert within(drop, {"accuracy_drop": 1}) is True and within(cost, {"bitops": 100}) is False
    assert within(drop, {}) is None
    assert drop.excess(1.5) == 0.5  # points
    assert cost.excess(150) == 0.5  # a share
    assert Limit("accuracy", ">=", 97).excess(96) == 1
    search = read({}, wish="accuracy_drop<=1, bitops<100, min macs")
    assert search.within({"accuracy_drop": 2}) is False
    assert search.within({"accuracy_drop": 1}) is None
    assert search.within({"accuracy_drop": 1, "bitops": 99}) is True


def test_what_is_null_or_not_there_or_unknown_is_read() -> None:
    empty = read({})
    assert [finding.text for finding in empty.findings] == [
        "Not finished: no chain that meets the wish yet."
    ]
    nulls = dict.fromkeys(full_search())
    assert read(nulls).findings == empty.findings
    search = read(full_search(), new_field=3, baseline=None, spent=None, mattered=None)
    assert "BitOps" not in search.findings[0].text
    assert search.tried[16].figures == {} and search.tried[0].expected.accuracy_drop is None
    written = [{"kind": "headline", "text": "as it was told"}]
    assert [f.text for f in read(full_search(), findings=written).findings] == ["as it was told"]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ({"tried": 3}, "tried"),
        ({"tried": [{"order": "D"}]}, "tried.0.name"),
        ({"tried": [{"name": "X", "figures": {"bitops": "x"}}]}, "tried.0.figures.bitops"),
        ({"finalists": [{"name": "X", "confirmed": {"interval": [1]}}]},
         "finalists.0.confirmed.interval"),
        ({"mattered": {"orders": [{"first": "P"}]}}, "mattered.orders.0.effect"),
    ],
)  # fmt: skip
def test_another_shape_is_named(value: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as caught:
        read(value)
    assert ".".join(map(str, caught.value.errors()[0]["loc"])).startswith(field)
