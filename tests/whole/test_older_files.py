"""What an earlier version wrote is read as it was meant, and what its doors offered is there."""

from __future__ import annotations

import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import main
from data_sets.source import DatasetArgs
from dataset import Dataset, load_dataset
from experiment.running.checkpoint import load_checkpoint
from experiment.running.store import Store
from stages.stage import Context
from tests.support.home import HOME
from train_eval import evaluate
from utils import load_model

MADE = HOME / "tests" / "golden" / "made_at_ea4b9de"
CHECKPOINTS = {  # file → experiment, position of the stage
    "Base_fp32_baseline.pth": ("Base", 0),
    "Cut_F_Q_pruned_25_finetuned.pth": ("Cut_F_Q", 1),
    "Cut_F_Q_p25_f_quantized_ptq_int8.pth": ("Cut_F_Q", 2),
    "E_QAT_e_quantized_qat_int8.pth": ("E_QAT", 1),
}


OFFERED = {  # by the doors of the version before, for notebooks
    "dataset": "DATASET_REGISTRY Arrays DataError DataInfo DataLoaders Dataset DatasetArgs "
    "DatasetEntry channel_statistics describe fastest_evaluation_batch get_dataloaders "
    "load_dataset preprocessing read_image",
    "model": "ConvBlock ExitHead HybridCNNTransformer LightweightCNN ModelArgs ModelPart "
    "PositionalEncoding check_images exit_places fuse_blocks",
    "train_eval": "Criterion EpochProgress Evaluation ExponentialMovingAverage NonFiniteLossError "
    "Recipe Schedule TrainResult TrainingArgs compile_step cross_entropy evaluate final_logits "
    "get_optimizer get_scheduler over_exits resolve_precision take_step train_one_epoch "
    "wants_compiling",
    "utils": "apply_channel_pruning calibrate_model_ptq convert_to_quantized_model "
    "get_model_stats load_model prepare_model_for_quantization",
    "main": "get_optimizer get_scheduler main run_experiment run_suite",
}


@pytest.mark.parametrize("door", OFFERED)
def test_a_door_offers_what_it_offered(door: str) -> None:
    module = importlib.import_module(door)
    assert [name for name in OFFERED[door].split() if not hasattr(module, name)] == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(MADE, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset(DatasetArgs(name="Digits"), "data")


def stage(experiment: str, position: int) -> dict[str, Any]:
    result = json.loads((MADE / "results" / f"{experiment}_results.json").read_text())
    return result["stages"][position]


@pytest.mark.parametrize("file", CHECKPOINTS)
def test_a_checkpoint_has_the_accuracy_that_was_written(file: str, digits: Dataset) -> None:
    """The network is rebuilt and judged anew, an int8 one by its own int8 outputs."""
    metrics = stage(*CHECKPOINTS[file])["metrics"]
    network = load_model(MADE / "saved_models" / file)
    test = Context(digits, torch.device("cpu"), 0).loaders(batch_size=64).test
    found = evaluate(network, test)
    assert found.accuracy == pytest.approx(metrics["accuracy"], abs=0.6)  # two of 360 images
    assert found.loss == pytest.approx(metrics["loss"], rel=0.02)
    parameters = sum(
        p.numel() for p in load_checkpoint(MADE / "saved_models" / file).weights.values()
    )
    assert parameters >= metrics["params"]


def test_stored_entries_are_intact(folder: Path) -> None:
    said: list[str] = []
    store = Store(folder / "saved_models", said.append)
    keys = store.keys()
    assert len(keys) == len(CHECKPOINTS)
    for key in keys:
        found = store.load(key)
        assert found is not None and found[1]["key"] == key
    assert said == []


def test_results_are_shown(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite = ["--config", "tiny.py"]
    for command in (["show", "E_QAT"], ["show", "Fails"], ["compare", "Base", "Cut_F_Q"]):
        assert main.main([*command, *suite]) == 0
    out = capsys.readouterr().out
    assert "72.50" in out and "42.50" in out and "nearest is 0.743" in out
    assert main.main(["--report", *suite]) == 0
    page = (folder / "results" / "report.html").read_text()
    for text in ("Cut_F_Q", "E_QAT", "nearest is 0.743", "P → Q"):
        assert text in page
