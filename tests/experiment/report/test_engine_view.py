"""Engines as the terminal and the page tell of them, by hand-made results, older ones as well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiment.report.engine_view import (
    engine_rows,
    engine_table,
    over_float_form,
    reasons_left_out,
)
from experiment.report.page import page
from experiment.report.reader import read_folder
from experiment.report.rows import effects, front, rows_of, shown_costs
from experiment.report.write import html, write_report
from tests.support.report_rows import rows
from tests.support.report_samples import metrics, older, write


def test_every_engine_has_its_times_and_layers() -> None:
    told = {name: cells for name, *cells in engine_rows(metrics(90.0, ms_1=0.5, model_size_mb=1.0))}
    assert told == {
        "eager": ["1.500", "60.00", "14 of 14", "0.4", "0.1", "0.60"],
        "onnxruntime": ["0.500 ★", "28.00", "14 of 14", "0.4", "0.1", "0.60"],
        "openvino": ["0.700", "20.00 ★", "14 of 14", "0.4", "0.1", "0.60"],
    }
    assert reasons_left_out(metrics(90.0)) == [
        "engine inductor was left out: no win is expected of it here"
    ]
    assert engine_rows(older(metrics(90.0))) == reasons_left_out(older(metrics(90.0))) == []


def test_what_int8_alone_brought() -> None:
    figures = metrics(90.0, ms_1=0.5)
    figures["inference_time_ms"]["batch_1"] |= {
        "float_engine": "openvino", "speedup_over_float": 1.5
    }  # fmt: skip
    assert over_float_form(figures) == [
        "int8 over its own float form at batch_1: ×1.50 as fast (onnxruntime, float on openvino)"
    ]


def test_layers_in_float_are_counted() -> None:
    figures = metrics(90.0, model_size_mb=1.0)
    figures["engines"]["openvino"] = {**figures["engines"]["openvino"], "int8_layers": 13}
    figures["engines"]["eager"] = {**figures["engines"]["eager"], "int8_layers": None}
    layers = {name: cells[2] for name, *cells in engine_rows(figures)}
    assert layers == {
        "eager": "unknown of 14", "onnxruntime": "14 of 14", "openvino": "13 of 14"
    }  # fmt: skip


def test_the_picture_has_means_over_seeds_and_the_baseline_beside(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None, seeds=(0, 1))
    write(tmp_path, "Q", [("ptq", metrics(89.0, ms_1=0.5))], seeds=(0, 1))
    path = tmp_path / "Q_results.json"
    result = json.loads(path.read_text())
    time = result["stages"][1]["metrics"]["inference_time_ms"]["batch_1"]
    time |= {"engine": "eager", "baseline_engine": "eager", "baseline_median": 2.0}
    time["by_engine"]["eager"]["median"] = 0.5
    path.write_text(json.dumps(result))
    section = page(read_folder(tmp_path))["data"]["engines"]
    base, chain = section["networks"]
    assert section["batches"] == [1, 64]
    assert base["batches"]["1"]["baseline_ms"] is None
    found = chain["batches"]["1"]
    assert found["ms"] == {
        "eager": pytest.approx(1.0), "onnxruntime": 0.5, "openvino": pytest.approx(0.7)
    }  # fmt: skip
    assert found["fastest"] == ["onnxruntime", "eager"]
    assert (found["baseline_ms"], found["baseline_engine"]) == (1.5, "openvino or eager")
    table = engine_table(section)
    assert table is not None and len(table["rows"]) == 4
    assert table["left_out"][0]["names"] == ["Base", "Q"]
    assert "openvino (ms)" in html(read_folder(tmp_path))


def test_results_of_before_there_were_engines_are_shown_apart(tmp_path: Path) -> None:
    write(tmp_path, "Base", [("train", older(metrics(90.0)))], baseline=None)
    write(tmp_path, "Q", [("ptq", older(metrics(89.5, ms_1=0.5)))])
    folder = read_folder(tmp_path)
    assert page(folder)["data"]["engines"] is None and 'id="engines"' not in html(folder)
    assert rows(tmp_path)["Q"].ratio("latency_ms_batch_1") == 0.5
    assert "2.0× faster at batch 1; validation" in page(folder)["headlines"][0]
    write(tmp_path, "Q2", [("ptq", metrics(89.4, ms_1=0.4))])
    assert front(rows(tmp_path).values(), "latency_ms_batch_1") == []
    said = page(read_folder(tmp_path))
    assert any(line.startswith("Base, Q: timed by an earlier") for line in said["problems"])
    assert any("in PyTorch alone" in item["text"] for item in said["warnings"])
    assert [n["name"] for n in said["data"]["engines"]["networks"]] == ["Q2"]


def test_what_a_stage_brought_names_the_engines(small: Path) -> None:
    found = {effect.kind: effect for effect in effects(rows(small).values())}
    # Q: 1 ms by OpenVINO to 0.8 by ONNX Runtime; Slow stays on OpenVINO; PFQ on ONNX Runtime
    assert found["int8 (ptq)"].engines["latency_ms_batch_1"] == (
        "onnxruntime or openvino", "onnxruntime or openvino"
    )  # fmt: skip
    said = page(read_folder(small))["headlines"]
    assert any(
        "1.67× faster at batch 1 (before on openvino, after on onnxruntime)" in line
        for line in said
        if line.startswith("Pruning (structural) + finetune")
    )


def test_costs_are_those_that_were_measured(tmp_path: Path) -> None:
    taken: dict[str, Any] = {"peak_memory_mb": 200.0, "joules_per_image": None}
    write(tmp_path, "Base", [("train", metrics(90.0, **taken))], baseline=None)
    small = metrics(89.5, **{**taken, "peak_memory_mb": 150.0}, energy_unknown="no RAPL counters")
    small["inference_time_ms"]["batch_8"] = small["inference_time_ms"].pop("batch_64")
    write(tmp_path, "Q", [("ptq", small)])
    costs = shown_costs(rows_of(read_folder(tmp_path)))
    assert [cost for cost in costs if cost.startswith("latency")] == [
        "latency_ms_batch_1", "latency_ms_batch_8", "latency_ms_batch_64"
    ]  # fmt: skip
    assert "peak_memory_mb" in costs and "joules_per_image" not in costs
    assert front(rows(tmp_path).values(), "peak_memory_mb") == ["Q", "Base"]
    write_report(tmp_path)
    head, _, chain = (tmp_path / "summary.csv").read_text().splitlines()
    cells = dict(zip(head.split(","), chain.split(","), strict=True))
    assert cells["latency_ms_batch_8_engine"] == "openvino"
    assert float(cells["peak_memory_mb_ratio"]) == 0.75 and "joules_per_image_mean" not in cells
