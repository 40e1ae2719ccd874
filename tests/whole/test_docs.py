"""The code in both READMEs is the same, runs, and does what the text around it says."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import dataset
import main
from data_sets.source import DatasetEntry
from experiment.running.checkpoint import load_checkpoint, read_checkpoint
from stages import STAGES, Stage
from tests.support.home import HOME
from tests.support.readme import readme_script
from tests.support.suites import Ran, Suites


def python_code(readme: str = "README.md") -> list[str]:
    return re.findall(r"```python\n(.*?)```", (HOME / readme).read_text(), re.DOTALL)


def recipes() -> dict[str, str]:
    """Python code of the README by its first line."""
    return {text.splitlines()[0]: text for text in python_code()}


def test_both_readmes_have_the_same_code() -> None:
    """But comments, which are in the README's language."""
    english, chinese = (
        [re.sub(r" *#.*", "", text) for text in python_code(name)]
        for name in ("README.md", "README.zh-CN.md")
    )
    assert english == chinese


def test_the_readmes_order_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "suite.py"
    config.write_text(
        (HOME / "configs" / "quickstart.py").read_text()
        + recipes()["ORDER_STUDIES = ["]
        + f"MODEL_SAVE_DIR = RESULTS_DIR = DATA_DIR = {str(tmp_path)!r}\n"
    )
    assert main.main(["study", "Digits_Orders", "--config", str(config), "--dry-run"]) == 0
    assert "= Digits_Orders_DPQ_p1" in capsys.readouterr().out


def test_what_the_readme_reads_from_json_is_there(ran: Ran) -> None:
    """Names that its pandas and MLflow code takes from a result."""
    result = ran.result("PF")
    rows = [{"experiment": result["experiment"], **stage} for stage in result["stages"]]
    for row in rows:
        assert {"seed", "stage", "experiment", "details", "metrics"} <= row.keys()
        assert {"accuracy", "model_size_mb", "bitops", "inference_time_ms"} <= row["metrics"].keys()
    assert any("history" in row["details"] for row in rows)
    assert {"status", "git_commit", "config"} <= result.keys()
    assert all(stat["mean"] > 0 for stat in result["final"].values())


def test_the_cookbooks_data_set(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_describe_shapes", "_load_shapes"):
        monkeypatch.setattr(dataset, name, None, raising=False)
    exec(recipes()["# in dataset.py"], vars(dataset))
    row = DatasetEntry(vars(dataset)["_describe_shapes"], vars(dataset)["_load_shapes"])
    monkeypatch.setitem(dataset.DATASET_REGISTRY, "Shapes", row)
    suite = 'DEFAULT_DATASET_CONFIG = {"name": "Shapes"}'
    assert "shapes.npz is missing; put it there" in suites.refused(suite)[0]
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (80, 1, 8, 8), dtype=np.uint8)
    labels = draw.integers(0, 2, 80)
    (suites.folder / "data").mkdir()
    np.savez(
        suites.folder / "data" / "shapes.npz",
        train_images=images, train_labels=labels, test_images=images[:9], test_labels=labels[:9],
    )  # fmt: skip
    assert suites.run(suite, "--set", "training_args.batch_size=16") == 0
    data = read_checkpoint(suites.models / "Base_fp32_baseline.pth").data
    assert data is not None and data["classes"] == ["circle", "square"]


def test_the_cookbooks_stage(suites: Suites, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("stages.rounding")
    monkeypatch.setitem(sys.modules, "stages.rounding", module)
    code = recipes()["# stages/rounding.py"].split("\n\n\n# in STAGES")[0]
    exec(code, vars(module))
    monkeypatch.setitem(STAGES, "round", Stage(module.RoundSpec, module.round_weights))
    chains = 'EXPERIMENT_CONFIGS.append(chain("R", "ptq", {"round": {"places": 1}}))'
    assert suites.run(chains) == 0
    results = json.loads((suites.results / "R_results.json").read_text())
    assert 0 < results["stages"][1]["details"]["largest_change"] <= 0.05 + 1e-6
    path = suites.models / "R_quantized_ptq_int8_rounded_1.pth"
    weight = load_checkpoint(path).weights["cnn.blocks.0.conv.weight"]
    torch.testing.assert_close(weight * 10, (weight * 10).round())
    assert suites.run(chains.replace("places", "place")) == 2
    assert "did you mean 'places'?" in suites.capsys.readouterr().err


def test_both_readmes_show_the_same_script() -> None:
    assert readme_script("README.md") == readme_script("README.zh-CN.md")
