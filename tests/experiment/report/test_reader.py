"""Any results folder is read, and what cannot be read is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiment.report.page import page
from experiment.report.reader import read_folder
from experiment.report.write import html
from tests.support.report_samples import metrics, write


def test_a_folder_without_results(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        assert page(read_folder(folder))["headlines"] == [
            "No results yet: python main.py makes them."
        ]


def test_what_cannot_be_read_is_named(small: Path) -> None:
    (small / "Broken_results.json").write_text('{"experiment": "Bro')
    (small / "List_results.json").write_text("[1, 2]")
    (small / "Text_results.json").write_text(
        json.dumps(
            {"experiment": "Text", "stages": [{"stage": "ptq", "metrics": {"accuracy": "x"}}]}
        )
    )
    (small / "Copy_results.json").write_text((small / "Q_results.json").read_text())
    (small / "Binary_results.json").write_bytes(b"\xff\xfe\x00")
    (small / "study_X.json").write_text("3")
    (small / "Y_sensitivity.json").write_text('{"curves": 3}')
    (small / "_all_experiments_summary.json").write_text("{}")
    folder = read_folder(small)
    assert len(folder.results) == 6
    told = "\n".join(folder.problems)
    for name in ("Broken", "List", "Text", "Copy", "Binary", "study_X", "Y_sensitivity"):
        assert name in told
    assert "Text_results.json: stages.0.metrics: Value error, accuracy is not a number" in told
    assert len(folder.problems) == 7
    assert "Broken_results.json" in html(folder)


def test_figures_that_are_not_finite(tmp_path: Path) -> None:
    diverged = metrics(10.0, loss=None)
    write(tmp_path, "Base", [("train", diverged)], baseline=None, final={
        "accuracy": {"mean": 10.0, "std": None, "n": 1},
        "loss": {"mean": None, "std": None, "n": 1}})  # fmt: skip
    text = html(read_folder(tmp_path))
    assert "NaN" not in text.split('id="data">')[1].split("</script>")[0]


@pytest.mark.parametrize(
    ("value", "field"),
    [
        ([], "its content"),
        ({"pairs": 3}, "pairs"),
        ({"pairs": [{"first": "P", "second": "Q"}, {}]}, "pairs.1.first"),
        ({"chains": [{"name": "X", "metrics": {"accuracy": "x"}}]}, "chains.0.metrics.accuracy"),
        ({"pairs": [{"first": "P", "second": "Q", "interval": [None, 1]}]}, "pairs.0.interval.0"),
        ({"config": {"stages": {"P": 3}}}, "config.stages.P.str"),
        ({"best": [{"within": 1}]}, "best.0.chain"),
    ],
)
def test_a_study_of_another_shape_is_named_and_left_out(
    tmp_path: Path, value: Any, field: str
) -> None:
    (tmp_path / "study_X.json").write_text(json.dumps(value))
    folder = read_folder(tmp_path)
    assert folder.studies == {}
    (problem,) = folder.problems
    assert problem.startswith(f"study_X.json: {field}: ") and problem.endswith("; left out")
    assert "study_X.json" in html(folder)
