"""Shared by the tests: tiny networks, tiny suites on Digits, and a command line to run them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch

import main
from data_sets.source import DatasetArgs
from dataset import Dataset, load_dataset
from model import HybridCNNTransformer
from stages.stage import Context

TINY = {
    "image_size": 8,
    "in_channels": 1,
    "cnn_channels": [8, 16],
    "cnn_pools": [1, 2],
    "embed_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_dim": 24,
    "mlp_dims": [24, 16],
    "patch_size": 2,
}
FUSIONS = ["serial", "parallel", "parallel_attention"]


torch.set_num_threads(1)  # the networks are tiny; two threads would only wait for each other


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def tiny(**args: Any) -> HybridCNNTransformer:
    """A tiny network whose norms and biases are not at their trivial initial values."""
    model = HybridCNNTransformer(**{**TINY, **args}).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.ndim == 1 and value.is_floating_point():
                value.uniform_(-0.5, 1.5)
    return model


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return load_dataset(DatasetArgs(name="Digits"), "data")


@pytest.fixture
def ctx(digits: Dataset) -> Context:
    return Context(digits, torch.device("cpu"), seed=0, say=lambda text: None)


SUITE = """
DEVICE = "cpu"
DATA_DIR, MODEL_SAVE_DIR, RESULTS_DIR = "{folder}/data", "{folder}/models", "{folder}/results"
DEFAULT_DATASET_CONFIG = {{"name": "Digits"}}
DEFAULT_MODEL_PARAMS = {{
    "cnn_channels": [8, 16], "cnn_pools": [1, 2], "embed_dim": 16, "num_layers": 1,
    "num_heads": 2, "ffn_dim": 24,
}}
DEFAULT_TRAINING_PARAMS = {{
    "initial_train_epochs": 2, "batch_size": 128, "learning_rate": 5e-3, "precision": "fp32",
}}
DEFAULT_COMPRESSION_PARAMS = {{
    "pruning_ratio": 0.0, "finetune_epochs": 0, "qat_epochs": 1, "ptq_calibration_batches": 2,
    "quantization_backend": "x86",
}}
def chain(name, *sequence, **more):
    return {{
        "name": name, "load_fp32_baseline_from_experiment": "Base",
        "compression_args": {{"sequence": list(sequence)}}, **more,
    }}
BASE = {{"name": "Base", "is_fp32_baseline_generation": True}}
EXPERIMENT_CONFIGS = [BASE]
"""


class Suites:
    """Writes suites into a folder and runs them through the command line."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]):
        self.folder, self.capsys = folder, capsys
        self.models, self.results = folder / "models", folder / "results"

    def write(self, text: str = "", name: str = "suite.py") -> Path:
        """A suite of one baseline, `Base`, with `text` after it."""
        path = self.folder / name
        path.write_text(SUITE.format(folder=self.folder) + textwrap.dedent(text))
        return path

    def run(self, text: str = "", *arguments: str) -> int:
        path = self.write(text)
        return main.main(["--config", str(path), *arguments])

    def refused(self, text: str = "", *arguments: str) -> list[str]:
        """The messages of a suite that must not start: exit code 2, nothing written."""
        assert self.run(text, *arguments) == 2
        captured = self.capsys.readouterr()
        assert "Traceback" not in captured.out + captured.err
        assert not self.models.exists() or not any(self.models.iterdir())
        return captured.err.strip().splitlines()


@pytest.fixture
def suites(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> Suites:
    monkeypatch.setattr("machine.timing.LATENCY_SECONDS", 0.01)
    monkeypatch.setattr("experiment.report.write.pictures", lambda rows: {})  # half a second a run
    return Suites(tmp_path, capsys)
