"""The data that the charts draw, against the results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiment.report.charts import chart_data
from experiment.report.reader import read_folder
from experiment.report.rows import rows_of
from tests.support.report_samples import history, metrics, sensitivities, write


def data_of(folder: Path) -> dict[str, Any]:
    read = read_folder(folder)
    return chart_data(read, rows_of(read), [], [])


def test_times_stand_beside_those_of_other_hours(tmp_path: Path) -> None:
    """A stage half as fast as the baseline beside it, when that took ten times as long as alone."""
    write(tmp_path, "Base", [("train", metrics(90.0))], baseline=None)
    busy = metrics(89.0)
    busy["inference_time_ms"]["batch_1"] |= {
        "median": 20.0, "baseline_median": 10.0, "speedup": 0.5
    }  # fmt: skip
    write(tmp_path, "Q", [("ptq", busy)])
    _, chain = data_of(tmp_path)["experiments"]
    assert chain["final"]["latency_ms_batch_1"][0] == 2.0
    assert chain["steps"][0]["metrics"]["latency_ms_batch_1"] == 2.0


def test_widths_before_and_after(tmp_path: Path) -> None:
    details = {
        "prune": {
            "widths": {"ffn_dim": [[128, 64], [96]], "embed_dim": [64, 48]},
            "zero_channels": {"embed": [51, 128]},
            "layer_macs": {"head": [10, 5]},
        }
    }
    write(tmp_path, "P", [("prune", metrics(50.0))], details=details)
    (step,) = data_of(tmp_path)["experiments"][0]["steps"]
    assert step["widths"] == {
        "ffn_dim 1": [128, 96],
        "ffn_dim 2": [64, 0],  # that layer is gone
        "embed_dim": [64, 48],
        "embed": [128, 77],
    }
    assert step["layer_macs"] == {"head": [10, 5]}


def test_curves_exits_and_scans(tmp_path: Path) -> None:
    exits = {"places": ["cnn", "end"], "share": [0.5, 0.5], "macs": [1, 2]}
    other = {**exits, "share": [0.7, 0.3]}
    write(tmp_path, "E", [("early_exit", metrics(50.0, exits=exits))], seeds=(0, 1),
          details={"early_exit": {"history": history(3)}})  # fmt: skip
    written = json.loads((tmp_path / "E_results.json").read_text())
    written["stages"][1]["metrics"]["exits"] = other
    (tmp_path / "E_results.json").write_text(json.dumps(written))
    auto = {
        "ptq": {"float_layers": {"scan": [{"layer": "head", "sqnr_db": 9.0, "accuracy": 80.0}],
                                 "float_accuracy": 81.0, "float_layers": ["head"]}},
        "prune": {"sensitivity": {"cnn.blocks.0": [[0.0, 90.0], [0.5, 70.0]]}},
    }  # fmt: skip
    write(tmp_path, "Auto", [("prune", metrics(50.0)), ("ptq", metrics(49.0))], details=auto)
    sensitivities(tmp_path)
    data = data_of(tmp_path)
    (shares,) = data["exits"]
    assert shares["share"] == pytest.approx([0.6, 0.4])
    curves = next(e for e in data["experiments"] if e["name"] == "E")["curves"]
    assert [curve["seed"] for curve in curves] == [0, 1]
    assert curves[0]["train_loss"] == pytest.approx([1, 1 / 2, 1 / 3], rel=1e-5)
    assert [scan["title"] for scan in data["sensitivities"]] == [
        "Base: int8", "Base: pruning, l1", "Auto: prune", "Auto: ptq",
    ]  # fmt: skip
    assert data["sensitivities"][1]["lines"]["cnn.blocks.0"] == [[0, 90.0], [0.5, 65.0]]
