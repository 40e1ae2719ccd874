"""An order study on the page."""

from __future__ import annotations

from pathlib import Path

from experiment.report.page import page
from experiment.report.reader import read_folder
from experiment.report.write import html
from tests.support.report_samples import study


def test_a_study_of_the_documented_fields(small: Path) -> None:
    study(small)
    said = page(read_folder(small))
    (shown,) = said["studies"]
    assert shown["findings"][:2] == ["order: P → Q → E", "undecided: Q / E"]
    assert shown["stages"] == ["P", "Q", "E"]
    assert [chain["name"] for chain in shown["ranking"]] == ["S_PQ", "S_QP"]
    assert shown["ranking"][1]["text"] == "88.00 ± 0.50"
    assert shown["pairs"][0]["at"] == ["+0.80 (+0.20 to +1.40)", "–"]
    assert said["headlines"][-1] == "Study S, order: P → Q → E; undecided: Q / E."


def test_a_study_with_nothing_in_it_is_shown(tmp_path: Path) -> None:
    (tmp_path / "study_X.json").write_text("{}")
    folder = read_folder(tmp_path)
    assert page(folder)["headlines"][-1] == "Study X, order: none."
    assert "Order studies" in html(folder)
