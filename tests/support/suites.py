"""Tiny suites on Digits, written into a folder and run through the command line."""

from __future__ import annotations

import contextlib
import io
import json
import textwrap
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import main
from tests.support.hurried import hurry

SUITE = """
DEVICE = "cpu"
DATA_DIR, MODEL_SAVE_DIR, RESULTS_DIR = "{folder}/data", "{folder}/models", "{folder}/results"
DEFAULT_DATASET_CONFIG = {{"name": "Digits"}}
DEFAULT_MODEL_PARAMS = {{
    "cnn_channels": [8, 16], "cnn_pools": [1, 2], "embed_dim": 16, "num_layers": 1,
    "num_heads": 2, "ffn_dim": 24,
}}
DEFAULT_DEPLOYMENT_PARAMS = {{"engines": ["eager"]}}  # which takes no time to make ready
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


class Ran(NamedTuple):
    """The folder of a suite that was run."""

    folder: Path

    @property
    def config(self) -> Path:
        return self.folder / "suite.py"

    @property
    def models(self) -> Path:
        return self.folder / "models"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def result(self, name: str) -> dict[str, Any]:
        return json.loads((self.results / f"{name}_results.json").read_text())

    def checkpoint(self, name: str) -> str:
        return self.result(name)["stages"][-1]["checkpoint"]

    def printed(self) -> str:
        return (self.folder / "printed.txt").read_text()


def run_in(folder: Path, text: str, *arguments: str) -> None:
    """Run a suite in an empty folder, and keep there what it printed."""
    ran = Ran(folder)
    ran.config.write_text(SUITE.format(folder=folder) + text)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as out:
        hurry(patch)
        patch.setattr("experiment.report.write.draw_pictures", lambda *about: [])
        assert main.main([*arguments, "--config", str(ran.config)]) == 0
    (folder / "printed.txt").write_text(out.getvalue())


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


CHAINS = """
EXPERIMENT_CONFIGS += [
    chain("PFQ", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1}}, "ptq"),
    chain("PFQat", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1}}, "qat"),
    chain("QatPF", "qat", {"prune": {"ratio": 0.4}}, {"finetune": {"epochs": 1}}),
]
"""


def results(suites: Suites | Ran, name: str) -> dict[str, Any]:
    return json.loads((suites.results / f"{name}_results.json").read_text())


def summary(suites: Suites | Ran) -> dict[str, Any]:
    return json.loads((suites.results / "_all_experiments_summary.json").read_text())


def cached(suites: Suites | Ran, name: str) -> list[bool]:
    return [stage["cached"] for stage in results(suites, name)["stages"]]
