"""A search on the page: tables, charts' series, effects, and what is not there yet."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiment.report.page import page
from experiment.report.reader import read_folder
from experiment.report.write import html
from tests.support.report_samples import EVIL
from tests.support.search_samples import BASELINE, full_search, running_search


def shown(folder: Path, written: dict[str, Any]) -> dict[str, Any]:
    """The search as the page has it."""
    (folder / "search_Fast.json").write_text(json.dumps(written))
    read = read_folder(folder)
    assert read.problems == []
    (search,) = page(read)["searches"]
    return search


def test_what_was_found_stands_on_top(tmp_path: Path) -> None:
    search = shown(tmp_path, full_search())
    folder = read_folder(tmp_path)
    assert search["lead"].startswith("Found: DPQ_d0.5_p0.45 (D → P → Q;")
    assert page(folder)["headlines"] == [f"Search Fast: {search['lead']}"]
    text = html(folder)
    for said in (
        "<h2>Searches</h2>", "looks better than it is", "1 search<", "(503 images)",
        "accuracy_drop&lt;=1, min bitops", "P keep.macs from 0.3 to 0.8",
        "Where the next hour would go",
        "&#39;load_fp32_baseline_from_experiment&#39;: &#39;Digits_Baseline_FP32&#39;",
    ):  # fmt: skip
        assert said in text, said
    # What has a table of its own is not told twice.
    assert "points of accuracy<" in text and "the next hour would go to" not in text


def test_finalists_by_what_was_confirmed(tmp_path: Path) -> None:
    lost, won, _ = shown(tmp_path, full_search())["finalists"]
    assert (lost["meets"], lost["won"], lost["confirmed"]) == (False, False, "1.40")
    assert (won["won"], won["verdict"], won["apparent"]) == (True, "yes", "0.40")
    assert (won["confirmed"], won["interval"], won["seeds"]) == ("0.80", "0.30 to 1.30", 3)
    assert won["cells"] == [("17.4", "1/85.0")] and won["test"] == "0.90"


def test_the_course_is_drawn_from_what_was_measured(tmp_path: Path) -> None:
    written = full_search()
    chart = shown(tmp_path, written)["chart"]
    assert chart["aim"] == {"label": "BitOps an image (millions)", "log": True, "reversed": False}
    measured = [row for row in written["tried"] if row["figures"]]  # one failed
    assert len(chart["tried"]) == len(measured) == 59
    for mark, row in zip(chart["tried"], measured, strict=True):
        drop = row["figures"]["accuracy_drop"]
        assert mark["value"] == pytest.approx(row["figures"]["bitops"] / 1e6)
        kind = "meets the limits" if drop <= 1 else "beyond a limit"
        assert mark["kind"] == ("short training" if row["kind"] == "short" else kind)
    values = [value for _, value, _ in chart["best"]]
    assert values == sorted(values, reverse=True) and len(values) < 60  # none at first
    lost, won, _ = chart["finalists"]
    without = [{**at, "hours": None} for at in written["course"]]  # those of what was tried count
    assert shown(tmp_path, {**written, "course": without})["chart"]["best"] == chart["best"]
    tried = next(row for row in written["tried"] if row["name"] == won["chain"])
    assert (won["hours"], won["apparent"], won["drop"]) == (tried["hours"], 0.4, 0.8)
    assert lost["interval"] == pytest.approx((0.9, 1.9))
    assert chart["limits"] == {"drop": [1.0], "cost": []}


def test_effects_stand_on_one_axis(tmp_path: Path) -> None:
    effects = shown(tmp_path, full_search())["effects"]
    rows = {row["what"]: row for row in effects["rows"]}
    assert list(rows)[:3] == ["D before P", "Q before P", "Q before E"]
    # From −3 to 3 points, of which each is (100 − 8) / 3 of the picture's 200 units.
    assert effects["ends"] == [(8.0, "−3.00"), (192.0, "+3.00")]
    unit = 92 / 3
    keep = rows["P keep.macs from 0.3 to 0.8"]
    assert keep["x"] == pytest.approx(100 + 2.1 * unit, abs=0.1)
    assert keep["line"] == pytest.approx([100 + 1.2 * unit, 192], abs=0.1)
    assert keep["certain"] and not rows["Q before E"]["certain"]


def test_a_wish_for_accuracy_has_its_own_axis(tmp_path: Path) -> None:
    wish = f"bitops<={BASELINE['bitops'] / 20:g}, min accuracy_drop"
    chart = shown(tmp_path, {**full_search(), "wish": wish})["chart"]
    assert chart["aim"] == {"label": "accuracy drop (points)", "log": False, "reversed": True}
    assert chart["cost"]["label"] == "BitOps an image (millions)"
    assert chart["limits"] == {"drop": [], "cost": [pytest.approx(74)]}
    assert {mark["kind"] for mark in chart["tried"]} == {
        "meets the limits", "beyond a limit", "short training",
    }  # fmt: skip


def test_what_is_not_there_yet_is_not_shown(tmp_path: Path) -> None:
    search = shown(tmp_path, running_search())
    assert search["finalists"] == [] and search["entry"] == ""
    assert "Finalists" not in html(read_folder(tmp_path))
    empty = shown(tmp_path, {})
    assert empty["effects"] is None and empty["chart"]["tried"] == []
    assert "Searches" in html(read_folder(tmp_path))
    waiting = [{**one, "confirmed": None, "test": None, "meets": None}
               for one in full_search()["finalists"]]  # fmt: skip
    search = shown(tmp_path, {**running_search(), "finalists": waiting})
    assert [one["verdict"] for one in search["finalists"]] == ["not run again yet"] * 3
    assert search["finalists"][0]["confirmed"] == "–"


def test_hostile_and_huge_names_are_texts(tmp_path: Path) -> None:
    evil: dict[str, Any] = {"name": EVIL, "order": EVIL, "strengths": {EVIL: {EVIL: EVIL}}}
    search = full_search()
    search |= {"wish": f"accuracy_drop<=1, min bitops {EVIL}", "stopped_by": EVIL, "search": EVIL}
    search["tried"][0] |= {**evil, "failed": EVIL, "stopped": EVIL}
    search["finalists"][0] |= {**evil, "name": "x" * 100_000}
    search["winner"] |= {**evil, "config": {EVIL: EVIL}}
    search["mattered"]["strengths"][0] |= {"letter": EVIL, "option": EVIL, "from": EVIL}
    search["next"][0] |= evil
    search["config"] = {"stages": {EVIL: EVIL}}
    shown(tmp_path, search)
    text = html(read_folder(tmp_path))
    assert EVIL not in text and "<img" not in text


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("3", "its content: "),
        ('{"tried": [{"order": "D"}]}', "tried.0.name: "),
        ('{"findings": [{"kind": 3, "text": "x"}]}', "findings.0.kind: "),
    ],
)
def test_a_damaged_search_is_named_and_left_out(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "search_X.json").write_text(text)
    folder = read_folder(tmp_path)
    assert folder.searches == {}
    (problem,) = folder.problems
    assert problem.startswith(f"search_X.json: {told}")
    assert "search_X.json" in html(folder)
