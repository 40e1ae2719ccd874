"""What the page says, of partial and hostile results as well, and that it loads nothing."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from experiment.report.page import page
from experiment.report.reader import read_folder
from experiment.report.write import html
from experiment.running.metrics import final_metrics
from tests.support.html import Tags
from tests.support.report_samples import EVIL, hostile, metrics, write


def test_what_the_page_says_was_found(small: Path) -> None:
    said = page(read_folder(small))
    assert said["headlines"][0] == (
        "At most 1 point below Base: Q (ptq), 16.0× fewer BitOps, 4.0× smaller, 1.25× faster at "
        "batch 1 (onnxruntime, against the float baseline on its own fastest engine, openvino); "
        "validation 89.50\N{NO-BREAK SPACE}% (−0.50), "
        "test 89.50\N{NO-BREAK SPACE}% (−0.50)."
    )
    assert all("points of test accuracy" in line for line in said["headlines"][1:])
    half, one, two = said["found"][0]["limits"]
    assert [limit["within"] for limit in (half, one, two)] == [2, 3, 4]
    assert [item["name"] for item in two["bests"]] == ["PFQ", "PFQ", "E"]
    assert two["bests"][0]["times"] == "32× fewer BitOps"


def test_partial_results_are_shown_as_far_as_they_go(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None)
    write(
        tmp_path,
        "Half",
        [("prune", metrics(40.0)), ("finetune", metrics(88.0))],
        status="interrupted",
        final={},
        config={"sequence": [{"prune": {}}, {"finetune": {}}, {"ptq": {}}]},
    )
    write(tmp_path, "Orphan", [("ptq", metrics(80.0))], baseline="Gone")
    untimed = metrics(80.0)
    del untimed["inference_time_ms"]
    write(tmp_path, "Untimed", [("ptq", untimed)])
    error = {"seed": 1, "stage": "prune", "error": "ValueError", "message": EVIL}
    nothing: dict[str, Any] = {"status": "failed", "final": {}, "stages": [], "errors": [error]}
    write(tmp_path, "Nothing", [("ptq", metrics(1.0))], **nothing)
    write(tmp_path, "On_Bare", [("ptq", metrics(80.0))], baseline="Bare")
    (tmp_path / "Bare_results.json").write_text('{"experiment": "Bare"}')
    said = page(read_folder(tmp_path))
    unfinished = {item["name"]: item for item in said["unfinished"]}
    assert unfinished["Half"]["done"] == "2 of 3 stages"
    assert unfinished["Nothing"]["errors"] == [f"seed 1 in prune: ValueError: {EVIL}"]
    assert unfinished["Bare"]["status"] == "unknown"
    assert any(
        line.startswith("Orphan: no change shown") and "Gone has no results here" in line
        for line in said["problems"]
    )
    charts = {item["name"]: item for item in said["data"]["experiments"]}
    assert [step["metrics"]["accuracy"] for step in charts["Half"]["steps"]] == [40.0, 88.0]
    assert charts["Half"]["start"]["accuracy"] == 90.0


def test_other_machines_are_pointed_out(small: Path) -> None:
    there = metrics(89.0)
    for time in there["inference_time_ms"].values():
        time["threads"] = 8
    write(small, "Q2", [("ptq", there)], environment={"device": "cpu", "threads": 8})
    said = page(read_folder(small))
    assert any("in ms come from 2 devices or numbers of" in line for line in said["problems"])
    assert len(said["environments"]) == 2


def test_warnings_that_differ_in_figures_are_told_once(tmp_path: Path) -> None:
    for name, speed in (("A", 0.48), ("B", 0.51)):
        slow = metrics(80.0, warnings=[f"int8 speed over its float form: {speed}"])
        write(tmp_path, name, [("ptq", slow)])
    (told,) = page(read_folder(tmp_path))["warnings"]
    assert told == {"text": "int8 speed over its float form: 0.48", "names": ["A", "B"]}


def test_every_text_is_escaped(tmp_path: Path) -> None:
    hostile(tmp_path)
    tags = Tags(html(read_folder(tmp_path)))
    assert len(tags.scripts) == 3  # the data, ours, Plotly: no other
    assert not any(tag == "img" for tag, _ in tags.tags)
    assert not any(name.startswith("on") for _, attributes in tags.tags for name in attributes)
    assert EVIL in json.dumps(json.loads(tags.scripts[0]), ensure_ascii=False).replace('\\"', '"')


def test_nothing_is_loaded_and_only_the_two_scripts_may_run(small: Path) -> None:
    tags = Tags(html(read_folder(small)))
    for _, attributes in tags.tags:
        for name in ("src", "href", "action", "srcset"):
            target = attributes.get(name) or "#"
            assert target.startswith("#") or target == "data:,"
    policy = next(a["content"] or "" for t, a in tags.tags if t == "meta" and "content" in a)
    allowed = re.findall("'sha256-([^']+)'", policy)
    digests = [
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        for script in tags.scripts[1:]
    ]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert set(allowed) == set(digests)


def test_stopped_chains_are_told_apart_from_failed_ones(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None, seeds=(0, 1), spread=2.0)
    stops = [{"seed": 0, "stage": "prune", "why": f"accuracy_drop 70 > 5 {EVIL}"}]
    whole = {"sequence": [{"prune": {}}, {"ptq": {}}]}
    write(tmp_path, "Cut", [("prune", metrics(20.0))], status="stopped", stopped=stops, final={},
          config=whole)  # fmt: skip
    costs = {"model_size_mb": 1.0, "bitops": 10**6, "ms_1": 0.5}
    chain = [("prune", metrics(89.0, **costs)), ("ptq", metrics(91.0, **costs))]
    write(tmp_path, "Half", chain, seeds=(0, 1), status="stopped", stopped=stops)
    path = tmp_path / "Half_results.json"
    half = json.loads(path.read_text())
    half["stages"] = [s for s in half["stages"] if (s["seed"], s["stage"]) != (0, "ptq")]
    path.write_text(json.dumps({**half, "final": final_metrics(half)}))
    said = page(read_folder(tmp_path))
    assert said["unfinished"] == []
    assert said["stopped"] == [
        f"Cut: stopped after prune: accuracy_drop 70 > 5 {EVIL}",
        f"Half: seed 0 stopped after prune: accuracy_drop 70 > 5 {EVIL}",
    ]
    table = {row["name"]: row for row in said["rows"]}
    assert [table[name]["status"] for name in ("Cut", "Half")] == ["stopped"] * 2
    assert table["Cut"]["cells"]["accuracy"][0] == "–"
    # The seed that came to its end, 91 %, beside the baseline's of that seed, 92 %.
    assert table["Half"]["cells"]["change"][2] == pytest.approx(-1.0)
    # What only lucky seeds came through is chosen for nothing, cheap and accurate as it looks.
    assert said["found"] == [] and table["Half"]["fronts"] == ""
    text = html(read_folder(tmp_path))
    assert EVIL not in text and "2 experiments were stopped by stop_if" in text
    assert '<span class="status quiet">stopped</span>' in text
    assert "did not come to" not in text
