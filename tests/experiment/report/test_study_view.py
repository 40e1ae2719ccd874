"""An order study on the page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiment.report.page import page
from experiment.report.reader import read_folder
from experiment.report.write import html
from tests.support.home import HOME
from tests.support.report_samples import study
from tests.support.study_samples import full_study, older_study


def test_a_study_of_the_documented_fields(small: Path) -> None:
    study(small)
    said = page(read_folder(small))
    (shown,) = said["studies"]
    assert shown["lead"] == (
        "Order found: P → Q → E; one of two pairs is settled (one by a difference); Q / E is open, "
        "the order there by estimate."
    )
    assert shown["stages"] == ["P", "Q", "E"]
    assert [chain["name"] for chain in shown["ranking"]] == ["S_PQ", "S_QP"]
    assert shown["ranking"][1]["text"] == "88.00 ± 0.50"
    assert shown["pairs"][0]["at"] == ["+0.80 (+0.20 to +1.40)", "–"]
    assert said["headlines"][-1] == f"Study S: {shown['lead']}"


def test_a_study_with_nothing_in_it_is_shown(tmp_path: Path) -> None:
    (tmp_path / "study_X.json").write_text("{}")
    folder = read_folder(tmp_path)
    assert page(folder)["headlines"][-1] == (
        "Study X: No order found: the study has no pair to compare."
    )
    assert "Order studies" in html(folder)


def test_a_study_by_rounds_shows_verdicts_with_what_they_rest_on(tmp_path: Path) -> None:
    (tmp_path / "study_S.json").write_text(json.dumps(full_study()))
    folder = read_folder(tmp_path)
    (shown,) = page(folder)["studies"]
    row = {pair["first"] + pair["second"]: pair for pair in shown["pairs"]}["QE"]
    assert (row["said"], row["sure"], row["seeds"]) == ("open", "−0.50 to +0.90", 3)
    assert row["why"].startswith("seeds are lacking")
    assert [pair["round"] for pair in shown["pairs"]] == [2, 1, 2, 2, 1, None]
    assert row["interval"] == pytest.approx((-0.5, 0.9))  # the sure one, in the matrix too
    assert [order["verdict"] for order in shown["whole"]["rows"]] == [
        "DPQE is better", "equal within ±0.5 points", "open",
    ]  # fmt: skip
    assert [claim["verdict"] for claim in shown["claims"]] == ["fails", "holds", "open"]
    text = html(folder)
    for said in (
        "sure of all together", "Intervals over rounds", "arXiv:2603.18426", "92 of 136 stages",
        "equal within ±0.5 points", "D / P, D / Q, D / E", "−0.70 to +0.10",
    ):  # fmt: skip
        assert said in text, said


def test_files_of_before_show_without_what_they_lack(tmp_path: Path) -> None:
    (tmp_path / "study_S.json").write_text(json.dumps(older_study()))
    folder = read_folder(tmp_path)
    assert not folder.problems
    (shown,) = page(folder)["studies"]
    assert shown["rounds"] == [] and shown["whole"] is None and shown["claims"] == []
    assert shown["pairs"][0]["probability"] == 0.97
    text = html(folder)
    assert "how often resamples agree" in text
    for absent in ("sure of all together", "Intervals over rounds", "What papers say"):
        assert absent not in text


def test_the_golden_file_shows() -> None:
    folder = read_folder(HOME / "tests/golden/made_at_ea4b9de/results")
    (shown,) = page(folder)["studies"]
    assert shown["lead"] == (
        "No order is certain yet: its one pair is open, 2 seeds, 144 validation images, "
        "95 % sure of each by itself; by estimates alone it would be P → Q."
    )
    assert shown["pairs"][0]["why"] == "both orders answer every image alike"
