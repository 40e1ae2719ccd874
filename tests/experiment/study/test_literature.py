"""What verdicts on pairs say to claims of papers, by pairs and letters made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from experiment.study.literature import DISTURBANCE, EARLY, ORDER, Letter, claims

DISTILS = Letter(distills=True, quantizes=False, freezes=False)
FLOAT = Letter(distills=False, quantizes=True, freezes=False)
FROZEN = Letter(distills=False, quantizes=True, freezes=True)
WEAKER, EARLY_FLOAT, EARLY_FROZEN, FIRST, THIRD = (
    "weaker disturbance first",
    "quantize late, with float masters",
    "quantize late, with frozen int8 weights",
    "distill first",
    "a third stage does not turn a pair round",
)


def pair(both: str, verdict: str = "first", difference: float | None = 1.0) -> dict[str, Any]:
    first, second = both
    return {"first": first, "second": second, "verdict": verdict, "difference": difference}


def said(
    letters: dict[str, Letter],
    pairs: list[dict[str, Any]],
    disturbances: dict[str, float] | None = None,
    third: dict[str, Any] | None = None,
) -> dict[str, dict[str, Any]]:
    """Claim → what is said of it."""
    return {found["claim"]: found for found in claims(letters, pairs, disturbances or {}, third)}


def counts(found: dict[str, Any]) -> tuple[str, int, int, int, list[list[str]]]:
    return (
        found["verdict"], found["for"], found["against"], found["open"], found["pairs"]
    )  # fmt: skip


LOST = {"P": 0.5, "Q": 1.0, "E": 3.0}


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([pair("PQ"), pair("PE"), pair("QE")], ("holds", 3, 0, 0, [])),
        ([pair("PQ"), pair("PE"), pair("QE", "open")], ("holds", 2, 0, 1, [])),
        ([pair("PQ"), pair("PE", "equal"), pair("QE")], ("holds", 2, 0, 1, [])),
        ([pair("PQ"), pair("PE", "equal"), pair("QE", "open")], ("open", 1, 0, 2, [])),
        ([pair("PQ", "open")], ("open", 0, 0, 1, [])),
        ([pair("PQ"), pair("EP")], ("fails", 1, 1, 0, [["E", "P"]])),
        # the second stage of an entry may be the better one, whichever its estimate prefers
        ([pair("PQ", "second")], ("fails", 0, 1, 0, [["P", "Q"]])),
        ([pair("EP", "second")], ("holds", 1, 0, 0, [])),
    ],
)
def test_the_weaker_disturbance_first(
    pairs: list[dict[str, Any]], expected: tuple[str, int, int, int, list[list[str]]]
) -> None:
    found = said({}, pairs, LOST)
    assert list(found) == [WEAKER] and found[WEAKER]["source"] == DISTURBANCE
    assert counts(found[WEAKER]) == expected and found[WEAKER]["disturbances"] == LOST


def test_letters_that_were_not_run_alone_disturb_by_an_unknown_amount() -> None:
    found = said({}, [pair("PQ"), pair("QX")], LOST)[WEAKER]
    assert counts(found) == ("holds", 1, 0, 0, [])
    assert not said({}, [pair("QX")], LOST) and not said({}, [pair("PQ")])


def test_quantizing_early_is_told_of_float_masters_and_of_frozen_weights_apart() -> None:
    """Q keeps masters, F does not; the pair of the two says nothing of early or late."""
    letters = {"Q": FLOAT, "F": FROZEN}
    pairs = [
        pair("QP", difference=0.8), pair("QE", "equal", 0.1),
        pair("PF", difference=6.0), pair("EF", difference=9.0), pair("QF"),
    ]  # fmt: skip
    found = said(letters, pairs)
    assert list(found) == [EARLY_FLOAT, EARLY_FROZEN]
    assert counts(found[EARLY_FLOAT]) == ("fails", 0, 1, 1, [["Q", "P"]])
    assert found[EARLY_FLOAT]["largest_loss"] == -0.1  # nothing was lost by it
    assert counts(found[EARLY_FROZEN]) == ("holds", 2, 0, 0, [])
    assert found[EARLY_FROZEN]["largest_loss"] == 9.0
    assert found[EARLY_FLOAT]["source"] == found[EARLY_FROZEN]["source"] == EARLY


def test_what_cannot_be_compared_loses_nothing_that_is_known() -> None:
    found = said({"Q": FLOAT}, [pair("PQ", "open", None)])[EARLY_FLOAT]
    assert counts(found) == ("open", 0, 0, 1, []) and found["largest_loss"] is None
    assert not said({"Q": FLOAT, "R": FLOAT}, [pair("QR")])


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        ([pair("DP"), pair("DQ"), pair("PQ", "second")], ("holds", 2, 0, 0, [])),
        ([pair("DP"), pair("QD")], ("fails", 1, 1, 0, [["Q", "D"]])),
        ([pair("DP", "equal"), pair("DQ")], ("open", 1, 0, 1, [])),
    ],
)
def test_distilling_first(
    pairs: list[dict[str, Any]], expected: tuple[str, int, int, int, list[list[str]]]
) -> None:
    found = said({"D": DISTILS}, pairs)
    assert list(found) == [FIRST] and found[FIRST]["source"] == ORDER
    assert counts(found[FIRST]) == expected


def test_two_that_distil_are_not_both_first() -> None:
    assert not said({"D": DISTILS, "T": DISTILS}, [pair("DP"), pair("TP")])
    assert not said({"D": DISTILS}, [pair("PQ")])


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        (["holds", "holds", "open"], ("holds", 2, 0, 1, [])),
        (["holds", "flips"], ("fails", 1, 1, 0, [["A", "B"]])),
        (["holds", "open"], ("open", 1, 0, 1, [])),
    ],
)
def test_a_third_stage(
    verdicts: list[str], expected: tuple[str, int, int, int, list[list[str]]]
) -> None:
    third = {v: verdicts.count(v) for v in ("holds", "flips", "open")}
    cases = [{"first": "A", "second": "B", "verdict": verdict} for verdict in verdicts]
    found = said({}, [], third={**third, "cases": cases})
    assert list(found) == [THIRD] and counts(found[THIRD]) == expected
    assert found[THIRD]["source"] == ORDER
