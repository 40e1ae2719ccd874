"""Verdicts on pairs in words: the sentence to quote, what is open and why, files of before."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from experiment.outcomes.study import StudyResult
from experiment.outcomes.verdicts import Difference, headline
from tests.support.study_samples import figures, full_study, older_study

SMALL = {"n": {"seeds": 3, "images": 10000}}


def study(order: str, verdicts: dict[str, str], **more: Any) -> StudyResult:
    """A study of pairs such as 'DP' with their verdicts, by rounds and of a margin of 0.5."""
    pairs = [
        {**SMALL, **figures(1, 0.5, verdict), "first": a, "second": b}
        for (a, b), verdict in verdicts.items()
    ]
    method = {"confidence": 0.95, "family": "Holm"}
    written = {"order": list(order), "pairs": pairs, "margin": 0.5, "method": method, **more}
    return StudyResult.model_validate(written)


@pytest.mark.parametrize(
    ("order", "verdicts", "said"),
    [
        ("DPQ", {"DP": "first", "DQ": "first", "PQ": "first"},
         "Order found: D → P → Q; all three pairs are settled (three by a difference), 3 seeds, "
         "10,000 validation images, 95 % sure of all together."),
        ("DPQ", {"DP": "first", "DQ": "open", "PQ": "first"},
         "Order found: D → P → Q; two of three pairs are settled (two by a difference), 3 seeds, "
         "10,000 validation images, 95 % sure of all together; D / Q is open."),
        ("DPQ", {"DP": "open", "DQ": "equal", "PQ": "open"},
         "By estimate D → P → Q; one of three pairs is settled (one within ±0.5 points of equal), "
         "3 seeds, 10,000 validation images, 95 % sure of all together; D / P and P / Q are open, "
         "the order there by estimate."),
        ("DPQ", {"DP": "open", "DQ": "open", "PQ": "open"},
         "No order is certain yet: none of three pairs is settled, 3 seeds, 10,000 validation "
         "images, 95 % sure of all together; by estimates alone it would be D → P → Q."),
        ("DP", {"DP": "equal"},
         "Order does not matter; its one pair is settled (one within ±0.5 points of equal), "
         "3 seeds, 10,000 validation images, 95 % sure of all together."),
        ("", {}, "No order found: the study has no pair to compare."),
    ],
)  # fmt: skip
def test_the_sentence_to_quote(order: str, verdicts: dict[str, str], said: str) -> None:
    assert headline(study(order, verdicts)) == said


def test_the_sentence_of_a_study_by_rounds() -> None:
    assert headline(StudyResult.model_validate(full_study())) == (
        "Order found: D → P ≈ Q → E; five of six pairs are settled (four by a difference, one "
        "within ±0.5 points of equal), 2 to 3 seeds, 5,000 validation images, 95 % sure of all "
        "together; Q / E is open, the order there by estimate."
    )


def test_a_circle_is_in_the_sentence() -> None:
    cycles = [["D", "P", "Q"]]
    text = headline(study("DPQ", {"DP": "first", "PQ": "first", "QD": "first"}, cycles=cycles))
    assert text.endswith("95 % sure of all together; no order suits all: D → P → Q → D.")


def test_pairs_in_words() -> None:
    found = StudyResult.model_validate(full_study())
    assert [pair.said(found) for pair in found.pairs] == [
        "D first", "D first", "D first", "equal within ±0.5 points", "P first, by less than 0.5",
        "open",
    ]  # fmt: skip
    told = [f.text for f in found.findings if f.kind in ("equal", "small", "undecided")]
    assert told == [
        "P / Q: equal within ±0.5 points (+0.05 points, surely -0.35 to +0.45), so order does not "
        "matter",
        "P / E: P first, by less than 0.5 points (+0.24 points, surely +0.04 to +0.44)",
        "Q / E is open (+0.20 points, surely -0.50 to +0.90): seeds are lacking; one more would "
        "bring the interval to about ±0.55",
    ]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"lacking": "images"}, "images are lacking, which no further seed replaces"),
        ({"lacking": "seeds"}, "seeds are lacking"),
        ({"reason": "chains of these orders failed"}, "chains of these orders failed"),
    ],
)
def test_what_an_open_pair_lacks(more: dict[str, Any], said: str) -> None:
    pair = {"first": "D", "second": "P", "difference": None, "verdict": "open", **more}
    found = StudyResult.model_validate({"order": ["D", "P"], "pairs": [pair], "margin": 0.5})
    assert found.findings[1].text == f"D / P is open: {said}"


def test_loss_is_in_nats_with_three_digits() -> None:
    found = study("DP", {"DP": "equal"}, compare="loss", method={"unit": "nats"})
    assert found.compared == "loss of second → first less that of first → second, nats"
    assert found.findings[1].text == (
        "D / P: equal within ±0.5 nats (+1.000 nats, surely +0.500 to +1.500), so order does not "
        "matter"
    )


def test_a_file_of_before_has_its_verdicts_from_what_was_decided() -> None:
    found = StudyResult.model_validate(older_study())
    assert [pair.said(found) for pair in found.pairs] == [
        "D first", "D first", "D first", "open", "P first", "open",
    ]  # fmt: skip
    assert "±" not in found.findings[0].text and "each by itself" in found.findings[0].text
    assert any(finding.kind == "chance" for finding in found.findings)
    assert all(found.history(pair) == [] for pair in found.pairs)
    reverse = Difference.model_validate({"difference": -1, "decided": True})
    assert reverse.verdict == "second"


def test_a_verdict_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="verdict"):
        Difference.model_validate({"verdict": "third"})


def test_the_history_of_a_pair_is_in_its_own_direction() -> None:
    """Rounds name the two by letter: D before Q, but E before P, which turns the sign."""
    found = StudyResult.model_validate(full_study())
    histories = {pair.name: found.history(pair) for pair in found.pairs}
    assert [(e.seeds, e.verdict) for e in histories["D / P"]] == [(2, "open"), (3, "first")]
    (settled,) = histories["P / E"]
    assert settled.verdict == "first" and settled.interval == pytest.approx((0.04, 0.44))
    assert settled.difference == pytest.approx(0.24)


def test_a_history_ends_where_the_pair_was_settled() -> None:
    """What rounds after that say of it, with no seed more, is no further look."""

    def entry(verdict: str, seeds: int, half: float) -> dict[str, Any]:
        interval = [1 - half, 1 + half]
        return {"first": "D", "second": "P", "interval": interval, "verdict": verdict,
                "seeds": seeds}  # fmt: skip

    looks = [entry("open", 2, 3), entry("open", 2, 2), entry("first", 3, 0.5), entry("open", 3, 9)]
    rounds = [{"round": place, "pairs": [look]} for place, look in enumerate(looks, 1)]
    found = study("DP", {"DP": "first"}, rounds=rounds)
    history = found.history(found.pairs[0])
    assert [(look.seeds, look.interval) for look in history] == [(2, (-1, 3)), (3, (0.5, 1.5))]
