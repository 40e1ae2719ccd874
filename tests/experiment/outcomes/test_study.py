"""A study's findings in words: from its figures, from its JSON, and from one of before."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiment.outcomes.study import StudyResult
from experiment.report.page import page
from experiment.report.reader import read_folder
from tests.support.study_samples import figures, full_study


def difference(value: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    sure = {"interval": [low, high], "decided": low > 0 or high < 0}
    return {"difference": value, **sure, "method": "matched", "win_probability": 0.9, **more}


def pair(first: str, second: str, bitops: dict[str, Any], latency: dict[str, Any]) -> Any:
    names = {"first": first, "second": second, "wins": [1.5, 2], "test_difference": -0.004}
    return {**bitops, **names, "at_equal": {"bitops": bitops, "latency_ms": latency}}


WRITTEN = {
    "study": "S",
    "order": ["D", "P", "Q"],
    "order_is_certain": False,
    "undecided": [["P", "Q"]],
    "cycles": [["D", "P"]],
    "pairs": [
        pair("D", "P", difference(1, 0.5, 1.5), difference(-1, -1.5, -0.5)),
        pair("P", "Q", difference(0.25, -1, 1.5, method="dominance"), {"difference": None}),
    ],
    "method": {"confidence": 0.9, "covers": "images alone (one seed)"},
    "third_stage": {"holds": 1, "flips": 1, "open": 0, "cases": [
        {"first": "D", "second": "P", "between": "Q", "verdict": "flips"},
        {"first": "P", "second": "Q", "between": "D", "verdict": "holds"}]},
    "permutations": {"n": 6, "kendall_tau": 0.6, "p_value": 0.136, "predicted_best": "DPQ",
                     "kendall_tau_between_seeds": None, "measured_best": "PDQ",
                     "measured_rank_of_predicted_best": 2},
    "best": [{"within": w, "chain": c, "accuracy_drop": 0.25, "test_accuracy_drop": -0.5,
              "bitops_ratio": 0.05, "latency_ms_batch_1_ratio": 0.5, "model_size_mb_ratio": 0.2}
             for w, c in ((0.5, "S_PQ"), (1.0, "S_PQ"), (2.0, "S_DPQ"))],
    "chains": [{"name": "S_PQ", "metrics": {"accuracy": {"mean": 90.0, "std": None, "n": 1},
                                            "loss": {"mean": None, "std": None, "n": 1},
                                            "bitops": {"mean": 5.0, "std": None, "n": 1}},
                "accuracy_drop": 0.25, "test": {"accuracy_drop": -0.5}},
               {"name": "S_QP", "status": "failed"}],
    "baseline": {"metrics": {"bitops": {"mean": 100.0, "std": None, "n": 1}}},
    "failed": ["S_QP"],
}  # fmt: skip
WORDS = [
    "Order found: D → P → Q; one of two pairs is settled (one by a difference), 90 % sure of each "
    "by itself; P / Q is open, the order there by estimate; no order suits all: D → P → D.",
    "P / Q is open (+0.25 points, -1.00 to +1.50): the interval leaves it open",
    "cycle: D → P → D; no order suits all of these",
    "D / P: BitOps and latency decide differently",
    "each interval stands for itself: were there no differences at all, about 0.2 of these 2 pairs "
    "would be decided by chance",
    "further stages beside a pair: its order holds in 1 cases, flips in 1, cannot be told in 0",
    "D → P flips with Q between",
    "6 orders of all stages: Kendall's tau +0.60 (p = 0.14) between the ranking that pairs predict "
    "and the measured one; predicted best DPQ comes in place 2, measured best PDQ",
    "within 0.5 points: S_PQ, BitOps 1/20.0, latency ×0.50, drop 0.25 (test split -0.50)",
    "within 2 points: S_DPQ, BitOps 1/20.0, latency ×0.50, drop 0.25 (test split -0.50)",
    "failed: S_QP",
]


def test_findings_in_words() -> None:
    study = StudyResult.model_validate(WRITTEN)
    assert [finding.text for finding in study.findings] == WORDS
    first, second = study.pairs
    assert first.at("latency_ms").text() == "-1.00 (-1.50 to -0.50)"
    assert second.at("bitops").text() == "≥ +0.25 (-1.00 to +1.50)"
    assert second.at("latency_ms").text() == "–"
    assert first.won == "1.5 of 2"
    (chain,) = study.ranking()
    assert chain.text == "90.00" and study.ratios(chain) == ["×0.050", "–", "–"]


def test_the_page_shows_them_from_files_with_and_without(tmp_path: Path) -> None:
    """A file that an earlier version wrote has no findings; those that are written are shown."""
    (tmp_path / "study_Old.json").write_text(json.dumps(WRITTEN))
    told = [{"kind": "order", "text": "order: as it was told"}]
    (tmp_path / "study_Told.json").write_text(json.dumps({**WRITTEN, "findings": told}))
    old, new = page(read_folder(tmp_path))["studies"]
    assert [old["lead"], *old["findings"]] == WORDS
    assert new["findings"] == ["order: as it was told"]
    assert new["headline"] == "Study Told: order: as it was told."


def test_findings_of_a_study_by_rounds() -> None:
    found = StudyResult.model_validate(full_study()).findings
    told = {finding.kind: finding.text for finding in found}
    assert found[0].kind == "headline"
    assert "chance" not in told  # its intervals hold together
    assert told["saved"] == (
        "92 of 136 stages trained (68 %), against 8 seeds for every pair; 184 of 272 epochs; "
        "2.4 of about 3.6 hours"
    )
    assert told["stopped"] == "stopped after round 2: the budget of 2.5 hours allows no more"
    assert told["flip"] == "D → P flips with Q between"
    assert [f.text for f in found if f.kind == "literature"] == [
        "“weaker disturbance first” (arXiv:2603.18426) fails: 1 for, 3 against (D / P, D / Q and "
        "D / E), 2 open",
        "“distill first” (arXiv:2403.17447) holds: 3 for, 0 against, 0 open",
        "“quantize late, with float masters” (arXiv:2511.19495) stays open: "
        "0 for, 0 against, 2 open",
    ]
    assert told["best"].endswith("drop 0.30 (+0.10 to +0.90; test split 0.40)")


@pytest.mark.parametrize(
    ("confirmed", "verdicts", "said"),
    [
        (True, ("first", "equal"), "verified: of two other orders of all stages none is better "
         "than DPQ; as good: DQP (P and Q exchanged)"),
        (True, ("first", "first"), "verified: of two other orders of all stages none is better "
         "than DPQ"),
        (False, ("second", "open"), "not confirmed: pairs predict DPQ, whose difference to PDQ "
         "(D and P exchanged) is +1.00 (+0.33 to +1.67) points"),
        (None, ("open", "first"), "not yet verified: of two other orders of all stages none is "
         "better than DPQ for sure; open: PDQ (D and P exchanged)"),
    ],
)  # fmt: skip
def test_whole_orders_in_words(confirmed: bool | None, verdicts: Any, said: str) -> None:
    names = (("PDQ", "D and P exchanged"), ("DQP", "P and Q exchanged"))
    orders = [
        {"order": order, "why": why, **figures(1, 1, verdict)}
        for (order, why), verdict in zip(names, verdicts, strict=True)
    ]
    study = {"verification": {"predicted": "DPQ", "orders": orders, "confirmed": confirmed}}
    found = StudyResult.model_validate(study).findings
    assert [f.text for f in found if f.kind == "verification"] == [said]


@pytest.mark.parametrize(
    ("stopped_by", "said"),
    [
        ("settled", "stopped: every pair that can be compared is settled"),
        ("seeds", "stopped: more seeds, up to 8, would hardly settle what is open"),
        ("images", "stopped: no further seed would settle what is open; more validation images "
         "might"),
        ("budget", "stopped: the budget of 300 epochs allows no more"),
    ],
)  # fmt: skip
def test_why_a_study_stopped(stopped_by: str, said: str) -> None:
    spent = {"stages": 1, "stages_fixed": 4, "seeds": {"min": 2, "max": 8}, "budget_epochs": 300}
    study = StudyResult.model_validate({"spent": {**spent, "stopped_by": stopped_by}})
    assert [f.text for f in study.findings if f.kind == "stopped"] == [said]


def test_a_fixed_design_saves_nothing_and_is_not_said_to_stop() -> None:
    spent = {"stages": 4, "stages_fixed": 4, "stopped_by": "fixed"}
    kinds = [f.kind for f in StudyResult.model_validate({"spent": spent}).findings]
    assert kinds == ["headline"]
