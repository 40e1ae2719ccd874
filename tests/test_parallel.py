"""Several processes train one network: what comes out is what one process makes of it.

The processes are forked from a server that has imported torch once, with the variables that
torchrun sets.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torchvision.ops import StochasticDepth

from dataset import Dataset
from experiment.running.checkpoint import load_checkpoint
from methods.quantization import backends
from methods.quantization.record import Quant
from stages.finetuning import TrainSpec, train
from stages.fitting import fit
from stages.ranks import take_part
from stages.stage import Context, StageError
from stages.state import initial_state
from tests.conftest import SUITE, tiny
from train_eval import evaluate
from training import whole_batch
from training.team import Team, join
from training.whole_batch import Shard

HOME = Path(__file__).parents[1]
BATCH = 7  # for two processes 4 and 3
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
    chain("Taught", {"distill": {"width": 0.5, "epochs": 1, "feature_weight": 1.0, "mixup": 0.2}}),
    chain(
        "Exits",
        {"early_exit": {"epochs": 1, "keep": "best", "ema_decay": 0.9}},
        {"prune": {"ratio": 0.3}},
        {"finetune": {"epochs": 1, "grad_clip": 0.5, "sparsity": 1e-4, "teacher": "baseline",
                      "augmentation": "none"}},
    ),
]
"""  # fmt: skip


# --- starting processes ------------------------------------------------------------------------


def start(size: int, work: Callable[..., None], *arguments: Any) -> list[Any]:
    """`work(*arguments)` in `size` processes, each with torchrun's variables."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["main", "tests.test_parallel"])
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = [
        context.Process(target=_child, args=(rank, size, port, work, *arguments))
        for rank in range(size)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: list[Any]) -> list[int]:
    for process in processes:
        process.join(120)
        if process.exitcode is None:
            process.kill()
    return [process.exitcode for process in processes]


def _child(rank: int, size: int, port: int, work: Callable[..., None], *arguments: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    work(*arguments)


def _as_team(work: Callable[..., Any], folder: Path, *arguments: Any) -> None:
    """Each process's result goes to a file."""
    team = join()
    assert team is not None
    torch.manual_seed(0)
    torch.save(work(team, *arguments), folder / f"{team.rank}.pt")
    dist.destroy_process_group()


def in_team(size: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(team, *arguments)` returns in each of `size` processes."""
    assert finish(start(size, _as_team, work, folder, *arguments)) == [0] * size
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(size)]


def _main(arguments: list[str], folder: Path) -> None:
    with (folder / f"log{os.environ['RANK']}.txt").open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import main
    from experiment.report import write
    from machine import timing

    timing.LATENCY_SECONDS = 0.01
    write.pictures = lambda rows: {}
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


# --- parts ---------------------------------------------------------------------------------------


def _layers() -> nn.Module:
    torch.manual_seed(1)
    layers = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.3), StochasticDepth(0.4, "row"))
    nn.init.uniform_(layers[0].weight, 0.5, 1.5)
    return layers


def _through_layers(team: Team | None) -> dict[str, torch.Tensor]:
    """Outputs, gradients and statistics of a batch of images far from zero."""
    layers = _layers()
    whole = 100 + torch.randn(BATCH, 3, 4, 4)
    images = whole.requires_grad_()
    wanted = torch.randn(BATCH, 3, 4, 4)
    torch.manual_seed(2)
    if team is None:
        outputs = layers(images)
        (outputs * wanted).sum().backward()
    else:
        shard = Shard(team, BATCH, lambda: False)
        shard.synchronize(layers)
        outputs = layers(shard.rows_of(images))
        (outputs * shard.rows_of(wanted)).sum().backward()
        for parameter in [images, *layers.parameters()]:
            dist.all_reduce(parameter.grad)
    return {
        "outputs": outputs.detach().clone(),
        "next": torch.rand(3),  # the generators of all processes are where one's would be
        "images": images.grad,
        "weight": layers[0].weight.grad,
        "bias": layers[0].bias.grad,
        **layers.state_dict(),
    }


def test_batch_norm_and_dropout_see_the_whole_batch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    alone = _through_layers(None)
    parts = in_team(2, tmp_path, _through_layers)
    assert [len(part["outputs"]) for part in parts] == [4, 3]
    together = {**parts[0], "outputs": torch.cat([part["outputs"] for part in parts])}
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=2e-5)
    assert torch.equal(parts[0]["next"], parts[1]["next"])


def _ranges(team: Team | None, backend: str) -> dict[str, torch.Tensor]:
    """Ranges after two batches of quantization-aware training."""
    quant = Quant("qat", backend)
    prepared = backends.prepare(tiny(), quant).train()
    batches = torch.randn(2, BATCH, 1, 8, 8)
    shard = None
    if team is not None:
        shard = Shard(team, BATCH, lambda: False)
        shard.synchronize(prepared)
        backends.observe_together(prepared, whole_batch.all_reduce_extremes)
    for images in batches:
        prepared(images if shard is None else shard.rows_of(images))
    return backends.with_trained_ranges(quant, prepared).ranges or {}


@pytest.mark.parametrize("backend", ["inductor", "x86"])
def test_ranges_are_those_of_the_whole_batch(tmp_path: Path, backend: str) -> None:
    torch.manual_seed(0)
    alone = _ranges(None, backend)
    assert len(alone) > 5
    for ranges in in_team(2, tmp_path, _ranges, backend):
        torch.testing.assert_close(ranges, alone, rtol=2e-2, atol=1e-6)


def _evaluations(team: Team | None, dataset: Dataset, count: int) -> list[float]:
    model = tiny().eval()
    loader = Context(dataset, torch.device("cpu"), 0).loaders(batch_size=32).validation
    loader.index = loader.index[:count]
    if team is None:
        found = evaluate(model, loader)
    else:
        found = Shard(team, 64, lambda: False).evaluate(model, loader)
        assert len(loader.index) == count
    return [found.accuracy, found.loss, found.images]


@pytest.mark.parametrize(("count", "size"), [(101, 2), (2, 3)])
def test_every_image_is_judged_once(tmp_path: Path, digits: Dataset, count: int, size: int) -> None:
    torch.manual_seed(0)
    accuracy, loss, images = _evaluations(None, digits, count)
    assert images == count
    for found in in_team(size, tmp_path, _evaluations, digits, count):
        assert found == [accuracy, pytest.approx(loss, rel=1e-6), images]


def test_a_batch_smaller_than_the_team_is_refused_by_all(tmp_path: Path, digits: Dataset) -> None:
    messages = in_team(3, tmp_path, _refusal, digits)
    assert messages[0] == (
        "a batch of 2 images is less than one for each of 3 processes; set a larger batch_size, "
        "or start fewer"
    )
    assert messages[1:] == ["served", "served"]


def _refusal(team: Team, dataset: Dataset) -> str:
    if team.rank > 0:
        take_part(team, fit)
        return "served"
    ctx = Context(dataset, torch.device("cpu"), 0, say=lambda text: None)
    with pytest.raises(StageError) as caught:
        train(initial_state(tiny().model_args, 0), TrainSpec(epochs=1, batch_size=2), ctx)
    team.broadcast(None)
    return str(caught.value)


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
