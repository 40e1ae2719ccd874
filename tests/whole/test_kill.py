"""SIGKILL at random moments, and two runs at once: nothing lost, nothing computed twice.

The runs are real processes, forked from a server that has imported torch once.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.comparing import assert_equal_tensors, comparable
from tests.support.quickstart import quickstart


def _child(path: str, log: str) -> None:
    torch.set_num_threads(1)
    with Path(log).open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import main
    from machine import timing

    timing.LATENCY_SECONDS = 0.02
    os._exit(main.main(["--config", path]))


def start(path: Path) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["main", __name__])
    process = context.Process(target=_child, args=(str(path), str(path.parent / "log.txt")))
    process.start()
    return process


def run_to_the_end(path: Path) -> None:
    process = start(path)
    process.join(800)
    assert process.exitcode == 0, (path.parent / "log.txt").read_text()


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.timeout(3000)
def test_killed_at_random_moments_equals_never_killed(tmp_path: Path, kills: int) -> None:
    plain = quickstart(tmp_path / "plain")
    began = time.monotonic()
    run_to_the_end(plain)
    duration = time.monotonic() - began
    broken = quickstart(tmp_path / "broken")
    moments = random.Random(0)
    killed = 0
    while killed < kills:
        process = start(broken)
        # From the first lines of the program to well inside a stage.
        process.join(moments.uniform(0.05, max(0.5, 3 * duration / min(kills, 20))))
        if process.exitcode is None:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            killed += 1
        else:  # it came to its end: once more from the beginning
            assert process.exitcode == 0, (broken.parent / "log.txt").read_text()
            broken.parent.rename(tmp_path / f"finished{killed}")
            broken = quickstart(tmp_path / "broken")
        for path in (broken.parent / "results").glob("*.json"):
            json.loads(path.read_text())  # whenever it died, what is there is whole
    run_to_the_end(broken)
    (results, weights), (expected, expected_weights) = (
        comparable(broken.parent),
        comparable(plain.parent),
    )
    text = json.dumps(results).replace(str(broken.parent), str(plain.parent))
    assert json.loads(text) == expected
    assert_equal_tensors(weights, expected_weights, "weights")
    log = (broken.parent / "log.txt").read_text()
    assert "Traceback" not in log
    assert "damaged" not in log


def test_two_runs_at_once_execute_each_stage_once(tmp_path: Path) -> None:
    path = quickstart(tmp_path / "shared")
    text = path.read_text()
    other = path.with_name("other.py")  # the same work, its results elsewhere
    other.write_text(text.replace("/results", "/results_other"))
    processes = [start(path), start(other)]
    for process in processes:
        process.join(800)
        assert process.exitcode == 0, (path.parent / "log.txt").read_text()
    executed: dict[str, int] = {}
    for folder in ("results", "results_other"):
        for file in (path.parent / folder).glob("*_results.json"):
            for stage in json.loads(file.read_text())["stages"]:
                executed[stage["key"]] = executed.get(stage["key"], 0) + (not stage["cached"])
    assert len(executed) == 14
    assert set(executed.values()) == {1}
