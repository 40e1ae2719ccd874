"""Studies of several baselines: who is shown beside whom, and what that says of the order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiment.outcomes.side_by_side import side_by_side
from experiment.outcomes.study import StudyResult
from experiment.report.page import page
from experiment.report.reader import read_folder
from tests.support.study_samples import full_study


def _turned(pair: dict[str, Any]) -> dict[str, Any]:
    """The same finding, told of the two stages the other way round."""
    low, high = pair["interval"]
    verdict = {"first": "second", "second": "first"}.get(pair["verdict"], pair["verdict"])
    return {
        **pair,
        "first": pair["second"],
        "second": pair["first"],
        "difference": -pair["difference"],
        "interval": [-high, -low],
        "verdict": verdict,
        "at_equal": {},
    }


def _from(baseline: str, **changed: Any) -> StudyResult:
    study = {**full_study(), **changed}
    study["baseline"] = {**study["baseline"], "name": baseline}
    return StudyResult.model_validate(study)


def test_the_same_finding_told_the_other_way_round_is_the_same() -> None:
    turned = [_turned(pair) for pair in full_study()["pairs"]]
    (beside,) = side_by_side({"A": _from("One"), "B": _from("Two", pairs=turned)})
    assert beside.baselines == ("One", "Two")
    assert len(beside.rows) == 6
    for _, (one, two) in beside.rows:
        assert one == two
    assert dict(beside.rows)["D / P"][0] == "D first: +1.60 (+0.80 to +2.40)"
    assert beside.said.startswith("no pair of stages is settled one way from one network")
    assert beside.said.endswith("5 of 6 are settled from each of them")


def test_an_order_that_hangs_on_the_network_is_told() -> None:
    pairs = full_study()["pairs"]
    other = [{**_turned(pairs[0]), "first": "D", "second": "P"}, *pairs[1:]]
    (beside,) = side_by_side({"A": _from("One"), "B": _from("Two", pairs=other)})
    assert beside.said == (
        "the order depends on the network: D / P: D first from One and P first from Two"
    )


def test_only_studies_of_the_same_stages_stand_side_by_side() -> None:
    stages = {"config": {"stages": {"D": "ptq"}}}
    assert side_by_side({"A": _from("One"), "B": _from("Two", **stages)}) == []
    assert side_by_side({"A": _from("One"), "B": _from("Two", margin=1.0)}) == []
    assert side_by_side({"A": _from("One"), "B": _from("One")}) == []


def test_the_page_shows_them(tmp_path: Path) -> None:
    for baseline in ("One", "Two"):
        study = {**full_study(), "study": baseline, "baseline": {"name": baseline, "metrics": {}}}
        (tmp_path / f"study_{baseline}.json").write_text(json.dumps(study))
    (beside,) = page(read_folder(tmp_path))["beside"]
    assert beside["baselines"] == ("One", "Two") and len(beside["rows"]) == 6
