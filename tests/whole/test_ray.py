"""Stages as Ray tasks: the same results as one after another, whatever is lost on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.comparing import assert_equal_tensors, comparable
from tests.support.home import HOME
from tests.support.quickstart import quickstart
from tests.support.suites import SUITE

LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0"}


def start(path: Path, *arguments: str) -> subprocess.Popen[str]:
    """The program in a folder of its own, by which its workers are known."""
    with (path.parent / "log.txt").open("a") as log:
        return subprocess.Popen(
            [sys.executable, str(HOME / "main.py"), "--config", str(path), *arguments],
            cwd=path.parent,
            env={**os.environ, **LOOPBACK, "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
            text=True,
        )


def log(path: Path) -> str:
    return (path.parent / "log.txt").read_text()


def workers(path: Path) -> list[int]:
    """Processes that run a stage of this suite now."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            title = (process / "cmdline").read_bytes()
            if b"ray::run_stage" in title and (process / "cwd").readlink() == path.parent:
                found.append(int(process.name))
        except OSError:
            continue
    return found


def until(condition: Callable[[], Any], process: subprocess.Popen[str], path: Path) -> None:
    for _ in range(2400):
        if condition():
            return
        assert process.poll() is None, log(path)
        time.sleep(0.05)
    raise AssertionError(log(path))


def snapshot_there(path: Path) -> bool:
    return any(path.parent.glob("models/store/*.snapshot"))


def assert_as_serial(path: Path, serial: Path) -> None:
    (results, weights), (expected, wanted) = comparable(path.parent), comparable(serial.parent)
    text = str(results).replace(str(path.parent), str(serial.parent))
    assert text == str(expected)
    assert_equal_tensors(weights, wanted, "weights")


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = quickstart(tmp_path_factory.mktemp("serial") / "run")
    assert start(path).wait(400) == 0, log(path)
    return path


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in LOOPBACK.items():
        monkeypatch.setenv(name, value)
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    cluster.extra = cluster.add_node(**{**node, "num_cpus": 1})
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("loss", ["nothing", "worker", "node"])
def test_two_nodes_give_what_one_process_gives(
    tmp_path: Path, serial: Path, two_nodes: Any, loss: str
) -> None:
    path = quickstart(tmp_path / "run")
    process = start(path, "--executor", "ray", "--address", two_nodes.address)
    if loss != "nothing":
        until(lambda: snapshot_there(path), process, path)
    if loss == "worker":
        os.kill(workers(path)[0], signal.SIGKILL)
    elif loss == "node":
        until(lambda: len(workers(path)) == 2, process, path)
        two_nodes.remove_node(two_nodes.extra, allow_graceful=False)
    assert process.wait(600) == 0, log(path)
    assert_as_serial(path, serial)
    assert ("resumed at epoch" in log(path)) or loss != "worker"
    assert not workers(path)


STOPPED = """
WHOLE = ({"prune": {"ratio": 0.9}}, {"finetune": {"epochs": 1}}, "ptq")
OTHER = (WHOLE[0], {"finetune": {"epochs": 2}}, "ptq")
EXPERIMENT_CONFIGS += [
    chain("Other", *OTHER, stop_if={"accuracy_drop": 5}),
    chain("Stopped", *WHOLE, stop_if={"accuracy_drop": 5}),
    chain("Whole", *WHOLE),
]
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_stages_after_a_stop_are_not_started_but_for_who_shares_them(tmp_path: Path) -> None:
    paths = []
    for name, arguments in (("one", []), ("ray", ["--executor", "ray", "--workers", "2"])):
        folder = tmp_path / name
        folder.mkdir()
        paths.append(folder / "suite.py")
        paths[-1].write_text(SUITE.format(folder=folder) + STOPPED)
        assert start(paths[-1], *arguments).wait(300) == 0, log(paths[-1])
    one, ray = paths
    assert_as_serial(ray, one)
    assert len([*(ray.parent / "models" / "store").glob("*.pth")]) == 4  # train and Whole's
    assert "Other finetune | done on" not in log(ray)
    assert log(ray).count(": stopped after prune: accuracy_drop ") == 2
    assert start(ray, "--executor", "ray").wait(300) == 0, log(ray)
    assert log(ray).count("ray         ") == 1  # what is stopped and stored needs no cluster


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("times", [1, 2])
def test_ctrl_c_leaves_nothing_behind(tmp_path: Path, times: int) -> None:
    path = quickstart(tmp_path / "run")
    with path.open("a") as file:
        file.write('DEFAULT_TRAINING_PARAMS["initial_train_epochs"] = 400\n')
    process = start(path, "--executor", "ray", "--workers", "2")
    until(lambda: snapshot_there(path), process, path)
    descendants = _descendants(process.pid)
    assert len(descendants) > 2
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130, log(path)
    assert "Traceback" not in log(path)
    time.sleep(2)
    assert [pid for pid in descendants if Path(f"/proc/{pid}").exists()] == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_stage_without_enough_memory_ends_after_a_few_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network of 13 GB, where Ray ends what brings the machine 4 GB above where it is now."""
    memory = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
    total, free = int(memory["MemTotal"]), int(memory["MemAvailable"])
    if free < 8e6:
        pytest.skip("not enough memory to run out of a part of it")
    monkeypatch.setenv("RAY_memory_usage_threshold", f"{1 - (free - 4e6) / total:.3f}")
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    path = quickstart(tmp_path / "run")
    with path.open("a") as file:
        file.write("DEFAULT_MODEL_PARAMS.update(embed_dim=4096, ffn_dim=16384, num_layers=16)\n")
        file.write("EXPERIMENT_CONFIGS = EXPERIMENT_CONFIGS[:2]\n")
    process = start(path, "--executor", "ray", "--workers", "1")
    assert process.wait(500) == 1, log(path)
    failed, skipped = (
        json.loads((path.parent / "results" / f"{name}_results.json").read_text())
        for name in ("Digits_Baseline_FP32", "Digits_P_F_QAT")
    )
    (error,) = failed["errors"]
    assert error["message"].startswith("its machine ran out of memory 4 times")
    assert skipped["status"] == "skipped"
    assert log(path).count("Task run_stage failed due to oom") <= 4
    assert not workers(path)


def _descendants(pid: int) -> list[int]:
    children: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        children += map(int, path.read_text().split())
    return children + [pid for child in children for pid in _descendants(child)]
