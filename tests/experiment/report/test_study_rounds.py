"""Where the marks of the small pictures of intervals stand, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from experiment.outcomes.study import StudyResult
from experiment.report.study_rounds import BOTTOM, HEIGHT, TOP, round_pictures
from tests.support.study_samples import full_study, older_study


def pictures(*looks: tuple[int, float, float, str]) -> list[dict[str, Any]]:
    """Of one pair and a margin of 0.5; a look is seeds, the interval, the verdict."""
    rounds = [
        {"round": place, "pairs": [{"first": "D", "second": "P", "seeds": seeds,
         "difference": (low + high) / 2, "interval": [low, high], "verdict": verdict}]}
        for place, (seeds, low, high, verdict) in enumerate(looks, 1)
    ]  # fmt: skip
    pair = {"first": "D", "second": "P", "verdict": looks[-1][3]}
    written = {"margin": 0.5, "pairs": [pair], "rounds": rounds}
    return round_pictures(StudyResult.model_validate(written))


def test_marks_stand_where_their_values_do() -> None:
    (picture,) = pictures((2, -1.0, 2.0, "open"), (3, 0.5, 1.5, "first"))
    open_, settled = picture["marks"]
    # The axis goes to 2.2, a tenth beyond what is farthest, to both sides of the middle.
    middle, unit = (TOP + HEIGHT - BOTTOM) / 2, (HEIGHT - BOTTOM - TOP) / 4.4
    assert open_["high"] == pytest.approx(middle - 2 * unit, abs=0.1)
    assert open_["low"] == pytest.approx(middle + unit, abs=0.1)
    assert settled["y"] == pytest.approx(middle - unit, abs=0.1)
    top, height = picture["band"]
    assert top == pytest.approx(middle - unit / 2, abs=0.1)
    assert height == pytest.approx(unit, abs=0.1)
    assert [text for _, text in picture["ticks"]] == ["+1", "−1"]
    assert [count for _, count in picture["seeds"]] == [2, 3] and open_["x"] < settled["x"]
    assert not any(mark["over"] or mark["under"] for mark in picture["marks"])
    assert picture["label"] == (
        "D → P, sure intervals: 2 seeds +0.50, −1.00 to +2.00; 3 seeds +1.00, +0.50 to +1.50. "
        "Verdict: D first."
    )


def test_an_early_interval_that_goes_far_beyond_ends_in_an_arrow() -> None:
    (picture,) = pictures((2, -8.0, 9.0, "open"), (3, -0.4, 0.4, "equal"))
    wide, last = picture["marks"]
    assert wide["over"] and wide["under"] and wide["high"] == TOP
    assert wide["low"] == HEIGHT - BOTTOM
    assert not last["over"] and not last["under"]
    assert "−8.00 to +9.00" in picture["label"]


def test_both_edges_of_the_margin_are_in_view() -> None:
    (picture,) = pictures((2, 0.0, 0.1, "open"), (3, 0.02, 0.08, "first"))
    top, height = picture["band"]
    assert top > TOP and top + height < HEIGHT - BOTTOM


def test_a_picture_for_each_pair_and_none_without_rounds() -> None:
    found = StudyResult.model_validate(full_study())
    drawn = round_pictures(found)
    assert [picture["name"] for picture in drawn] == [
        f"{pair.first} → {pair.second}" for pair in found.pairs
    ]
    assert round_pictures(StudyResult.model_validate(older_study())) == []
    one = {**full_study(), "rounds": full_study()["rounds"][:1]}
    assert round_pictures(StudyResult.model_validate(one)) == []
