"""Whole studies on Digits: run, run again from the store, and with a chain that fails."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stages import STAGES, Stage
from stages.finetuning import FinetuneSpec
from tests.support.studies import STUDY, study
from tests.support.suites import Suites


def test_a_study_runs_end_to_end(report: dict[str, Any]) -> None:
    names = [chain["name"] for chain in report["chains"]]
    assert names == [
        "Tiny_P_p0", "Tiny_P_p1", "Tiny_Q", "Tiny_PQ_p0", "Tiny_PQ_p1", "Tiny_QP_p0", "Tiny_QP_p1",
    ]  # fmt: skip
    assert report["status"] == "done" and not report["failed"] and not report["cycles"]
    assert sorted(report["order"]) == ["P", "Q"]
    (pair,) = report["pairs"]
    assert {pair["first"], pair["second"]} == {"P", "Q"}
    assert pair["n"] == {"seeds": 2, "strengths": 2, "images": report["splits"]["images"]}
    assert (pair["verdict"] != "open") is (report["undecided"] == [])
    assert report["spent"]["stopped_by"] == "fixed" and len(report["rounds"]) == 1
    assert pair["chains"]["PQ"] == ["Tiny_PQ_p0", "Tiny_PQ_p1"]
    epochs = {chain["order"]: chain["epochs"] for chain in report["chains"]}
    assert epochs == {"P": 1, "Q": 1, "PQ": 2, "QP": 2}
    assert report["splits"]["decisions"] == "validation"
    assert report["third_stage"] is None and report["permutations"] is None
    for chain in report["chains"]:
        figures = chain["metrics"]
        assert figures["accuracy"]["n"] == 2 and figures["bitops"]["mean"] > 0
        drop = report["baseline"]["metrics"]["accuracy"]["mean"] - figures["accuracy"]["mean"]
        assert chain["accuracy_drop"] == pytest.approx(drop)
    assert report["findings"][0]["kind"] == "headline"


def test_a_second_run_computes_nothing_and_finds_the_same(
    report: dict[str, Any],
    tiny_study: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise AssertionError("it ran again")

    monkeypatch.setattr("experiment.running.step.Context", refuse)
    monkeypatch.setattr("experiment.study.validation.deploy", refuse)
    assert study(tiny_study, "Tiny") == 0
    printed = capsys.readouterr().out
    assert "every chain is in the store" in printed
    assert report["findings"][0]["text"] in printed
    assert "[1/" not in printed  # no stage is told again
    again = json.loads((tiny_study.parent / "results" / "study_Tiny.json").read_text())
    for changing in ("started", "written", "command"):
        report.pop(changing), again.pop(changing)
    for each in (report, again):
        each["environment"].pop("load")
    assert report == again


def test_a_chain_that_fails_is_recorded_and_the_rest_go_on(
    suites: Suites, monkeypatch: pytest.MonkeyPatch
) -> None:
    def picky(state: Any, spec: Any, ctx: Any) -> Any:
        if state.quant is not None:
            raise RuntimeError("not after Q")
        return state

    monkeypatch.setitem(STAGES, "finetune", Stage(FinetuneSpec, picky))
    changes = "STUDY.update(strengths={}, seeds=[0])\n"
    path = suites.write(f"{STUDY}{changes}STUDY['stages'] = {{'F': 'finetune', 'Q': 'ptq'}}\n")
    assert study(path, "Tiny", "--recommend", "min bitops") == 1
    found = json.loads((suites.results / "study_Tiny.json").read_text())
    assert found["status"] == "failed" and found["failed"] == ["Tiny_QF"]
    rows = {chain["name"]: chain for chain in found["chains"]}
    assert rows["Tiny_QF"]["errors"][0]["message"] == "not after Q"
    assert "metrics" in rows["Tiny_FQ"] and "metrics" not in rows["Tiny_QF"]
    assert found["pairs"][0]["reason"] == "chains of these orders failed"
    assert found["undecided"] == [["F", "Q"]]
    said = suites.capsys.readouterr().out
    assert "failed: Tiny_QF" in said and "_chosen" in said
