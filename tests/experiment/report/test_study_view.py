"""An order study on the page, and one of another shape that leaves parts out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiment.report.page import page
from experiment.report.reader import Folder, read_folder
from experiment.report.study_view import study_view
from experiment.report.write import html
from tests.support.report_samples import study


def test_a_study_of_the_documented_fields(small: Path) -> None:
    study(small)
    said = page(read_folder(small))
    (shown,) = said["studies"]
    assert shown["order"] == "P → Q → E"
    assert shown["stages"] == ["P", "Q", "E"]
    assert [chain["name"] for chain in shown["ranking"]] == ["S_PQ", "S_QP"]
    assert shown["ranking"][1]["text"] == "88.00 ± 0.50"
    assert shown["pairs"][0]["at"] == ["+0.80 (+0.20 to +1.40)", "–"]
    assert said["headlines"][-1] == ("Study S: the order found is P → Q → E (undecided: Q / E).")


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"order": None, "pairs": 3, "chains": "x", "cycles": {}, "undecided": None},
        {"order": [["P", "Q"], "E"], "pairs": [{"first": "P", "second": "Q"}, {}, 3]},
        {"cycles": [["P", "Q"], []], "chains": [{"metrics": {"accuracy": "x"}}, None, 4]},
        {"pairs": [{"first": 1, "second": 2, "difference": {"mean": 1}, "interval": [None, 1],
                    "wins": ["a", 2], "at_equal": [], "test_difference": "x"}],
         "config": {"stages": {"P": [{}, "finetune"]}}, "best": [{"within": 1}], "method": 3},
    ],
)  # fmt: skip
def test_a_study_of_another_shape_leaves_parts_out(value: dict[str, Any]) -> None:
    folder = Folder(studies={"X": value})
    assert study_view("X", value)["headline"].startswith("Study X: ")
    assert "Order studies" in html(folder)
