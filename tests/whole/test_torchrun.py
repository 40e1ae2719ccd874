"""Several processes train one network: what comes out is what one process makes of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from experiment.running.checkpoint import load_checkpoint
from tests.support.home import HOME
from tests.support.processes import finish, start
from tests.support.suites import SUITE

# Rounding must stay rounding. Adam divides by gradients near zero; at a kink (ReLU at 0, the first
# of equal pixels in max pooling, which the black rims of digits are full of) it may choose a side.
SMOOTH = """
DEFAULT_TRAINING_PARAMS.update(optimizer="sgd")
DEFAULT_MODEL_PARAMS.update(cnn_pools=[1, 1], cnn_channels=[4, 8], cnn_activation="gelu")
"""


CHAINS = """
DEFAULT_TRAINING_PARAMS.update(learning_rate=0.05, initial_train_epochs=1, batch_size=129)
EXPERIMENT_CONFIGS = [
    {**BASE, "model_args": {"dropout": 0.2, "stochastic_depth": 0.3, "num_layers": 2}},
    chain("Taught", {"distill": {"width": 0.5, "epochs": 1, "feature_weight": 1.0, "mixup": 0.2,
                                 "mixup_schedule": "rising", "rotation": 10.0, "color": 0.2}}),
    chain(
        "Exits",
        {"early_exit": {"epochs": 1, "keep": "best", "ema_decay": 0.9}},
        {"prune": {"ratio": 0.3}},
        {"finetune": {"epochs": 1, "grad_clip": 0.5, "sparsity": 1e-4, "teacher": "baseline",
                      "augmentation": "none"}},
    ),
]
"""  # fmt: skip


# --- starting processes --------------------------------------------------------------------------


def _main(arguments: list[str], folder: Path) -> None:
    with (folder / f"log{os.environ['RANK']}.txt").open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import main
    from experiment.report import write
    from machine import timing

    timing.LATENCY_SECONDS = 0.01
    write.draw_pictures = lambda *about: []
    # Only the first process needs to know what to do.
    first = os.environ["RANK"] == "0"
    os._exit(main.main(arguments if first else ["--config", "/does/not/exist.py"]))


def suite(folder: Path, text: str = CHAINS) -> Path:
    folder.mkdir()
    path = folder / "suite.py"
    path.write_text(SUITE.format(folder=folder) + SMOOTH + text)
    return path


def run(path: Path, size: int) -> list[int]:
    return finish(start(size, _main, ["--config", str(path)], path.parent))


def log(path: Path, rank: int = 0) -> str:
    return (path.parent / f"log{rank}.txt").read_text()


def assert_same(one: Path, other: Path, tolerance: float = 1e-4) -> None:
    """Weights of all stages agree, and accuracies and losses in the JSON."""
    checkpoints = sorted(one.parent.glob("models/*.pth"))
    assert checkpoints
    for path in checkpoints:
        mine, theirs = load_checkpoint(path), load_checkpoint(other.parent / "models" / path.name)
        for name, value in mine.weights.items():
            off = (value - theirs.weights[name]).float().norm() / value.float().norm()
            assert off < tolerance or value.float().norm() < 1e-3, f"{path}: {name} {off}"
    for path in one.parent.glob("results/*_results.json"):
        texts = (path, other.parent / "results" / path.name)
        mine, theirs = ([*_figures(json.loads(p.read_text()))] for p in texts)
        assert len(mine) == len(theirs) > 0
        for a, b in zip(mine, theirs, strict=True):
            assert a == pytest.approx(b, rel=100 * tolerance, abs=100 * tolerance)


def _figures(result: dict[str, Any]) -> Any:
    for stage in result["stages"]:
        yield {n: stage["metrics"][n] for n in ("accuracy", "loss", "params", "macs")}
        for row in stage["details"].get("history", []):
            yield {name: value for name, value in row.items() if "accuracy" not in name}


# --- whole runs ----------------------------------------------------------------------------------


def test_two_processes_equal_one(tmp_path: Path) -> None:
    one, two = suite(tmp_path / "one"), suite(tmp_path / "two")
    assert run(one, 1) == [0], log(one)
    assert run(two, 2) == [0, 0], log(two) + log(two, 1)
    assert_same(one, two)
    assert log(two, 1) == ""  # and with no config it could not have written anything
    stage = json.loads((two.parent / "results" / "Base_results.json").read_text())["stages"][0]
    assert stage["details"]["processes"] == 2
    assert run(two, 1) == [0]
    assert log(two).count("from the store") == 5  # the number of processes is in no key


LONG = """
DEFAULT_TRAINING_PARAMS.update(learning_rate=0.01, initial_train_epochs=8)
"""


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LONG, run by one process to its end."""
    path = suite(tmp_path_factory.mktemp("long") / "plain", LONG)
    assert run(path, 1) == [0], log(path)
    return path


def until_snapshot(path: Path, processes: list[Any]) -> None:
    for _ in range(1000):
        if any(path.parent.glob("models/store/*.snapshot")):
            return
        assert processes[0].exitcode is None, log(path)
        time.sleep(0.02)
    raise AssertionError("no snapshot")


def test_one_killed_ends_all_and_one_process_goes_on(plain: Path, tmp_path: Path) -> None:
    broken = suite(tmp_path / "broken", LONG)
    processes = start(2, _main, ["--config", str(broken)], broken.parent)
    until_snapshot(broken, processes)
    os.kill(processes[1].pid, signal.SIGKILL)
    assert finish(processes) == [1, -signal.SIGKILL]
    assert "training with 2 processes ended" in log(broken)
    assert "Traceback" not in log(broken)
    assert run(broken, 1) == [0], log(broken)
    assert "resumed at epoch" in log(broken)
    assert_same(plain, broken, 1e-3)


def test_all_stop_after_the_same_step_and_others_go_on(plain: Path, tmp_path: Path) -> None:
    path = suite(tmp_path / "stopped", LONG)
    processes = start(3, _main, ["--config", str(path)], path.parent)
    until_snapshot(path, processes)
    for process in processes:  # as torchrun does
        os.kill(process.pid, signal.SIGTERM)
    assert finish(processes) == [130, 0, 0], log(path) + log(path, 1)
    assert run(path, 2) == [0, 0], log(path) + log(path, 1)
    assert "resumed at epoch" in log(path)
    assert_same(plain, path, 1e-3)


def test_a_loss_that_runs_away_stops_nobody(tmp_path: Path) -> None:
    text = """
EXPERIMENT_CONFIGS.insert(0, {
    "name": "Wild_Baseline_FP32",
    "training_args": {"optimizer": "sgd", "learning_rate": 100.0, "scheduler": "none"},
})
"""
    path = suite(tmp_path / "wild", text)
    assert run(path, 2) == [1, 0], log(path) + log(path, 1)
    for name, status in {"Wild_Baseline_FP32": "failed", "Base": "done"}.items():
        result = json.loads((path.parent / "results" / f"{name}_results.json").read_text())
        assert result["status"] == status


@pytest.mark.slow
def test_torchrun(tmp_path: Path) -> None:
    one, two = suite(tmp_path / "one"), suite(tmp_path / "two")
    assert run(one, 1) == [0], log(one)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    done = subprocess.run(
        [*launcher, "--standalone", "main.py", "--config", str(two)],
        cwd=HOME,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_same(one, two)
