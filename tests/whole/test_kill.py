"""SIGKILL at random moments, and two runs at once: nothing lost, nothing computed twice.

The runs are real processes, forked from a server that has imported torch once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from data_sets.batches import BatchLoader
from dataset import load_dataset
from experiment.running.store import Store
from experiment.suite.chains import plan
from experiment.suite.schema import load_suite
from machine.files import sha256
from stages import STAGES
from stages.stage import Context
from stages.state import initial_state
from tests.support.comparing import assert_equal_tensors, comparable
from tests.support.processes import forkserver
from tests.support.quickstart import quickstart


def _child(path: str, moment: Callable[[], None] | None) -> None:
    torch.set_num_threads(1)
    with (Path(path).parent / "log.txt").open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    import main
    from experiment.report import write
    from machine import timing

    timing.LATENCY_SECONDS = 0.01
    write.draw_pictures = lambda *about: []
    if moment is not None:
        moment()
    os._exit(main.main(["--config", path]))


def start(path: Path, moment: Callable[[], None] | None = None) -> Any:
    process = forkserver().Process(target=_child, args=(str(path), moment))
    process.start()
    return process


def run_to_the_end(path: Path) -> None:
    process = start(path)
    process.join(800)
    assert process.exitcode == 0, (path.parent / "log.txt").read_text()


# --- moments at which a process kills itself ------------------------------------------------------


def after_seconds(seconds: float) -> None:
    """From the first lines of the program to well inside a stage."""
    killer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
    killer.daemon = True
    killer.start()


def before_writing(folder: str, count: int) -> None:
    """Just before the `count`th time that a file of the suite is created, renamed or removed."""
    left = [count]

    def audit(event: str, args: tuple[Any, ...]) -> None:
        writes = event in ("os.rename", "os.link", "os.remove") or (
            event == "open" and args[2] is not None and args[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if writes and str(args[0]).startswith(folder):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


def after_a_snapshot(seconds: float) -> None:
    """Between the epochs of a stage that trains, or in the next one."""

    def audit(event: str, args: tuple[Any, ...]) -> None:
        if event == "os.rename" and str(args[1]).endswith(".snapshot"):
            after_seconds(seconds)

    sys.addaudithook(audit)


@pytest.mark.parametrize("kills", [20, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.timeout(3000)
def test_killed_at_random_moments_equals_never_killed(tmp_path: Path, kills: int) -> None:
    plain = quickstart(tmp_path / "plain")
    began = time.monotonic()
    run_to_the_end(plain)
    duration = time.monotonic() - began
    broken = quickstart(tmp_path / "broken")
    draw = random.Random(0)
    killed, logs = 0, ""
    while killed < kills:
        moment = [
            partial(after_seconds, draw.uniform(0.05, max(0.5, 3 * duration / 20))),
            partial(before_writing, str(broken.parent), draw.randint(1, 80)),
            partial(after_a_snapshot, draw.uniform(0, 0.1)),
        ][killed % 3]
        process = start(broken, moment)
        process.join(800)
        if process.exitcode == -signal.SIGKILL:
            killed += 1
        else:  # it came to its end: once more from the beginning
            assert process.exitcode == 0, (broken.parent / "log.txt").read_text()
            logs += (broken.parent / "log.txt").read_text()
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
    logs += (broken.parent / "log.txt").read_text()
    assert "Traceback" not in logs
    assert "damaged" not in logs
    assert "resumed at epoch" in logs and "from the store" in logs


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
    assert len(executed) == 10
    assert set(executed.values()) == {1}


def _draws(path: str, log: str, last: int) -> None:
    """Train on every batch's digest; a snapshot after every step; killed at batch `last`."""
    torch.set_num_threads(1)
    suite = load_suite(Path(path))
    step = plan(suite)[0].steps[0]
    plain, drawn = BatchLoader._prepare, []

    def noted(loader: BatchLoader, images: Any, labels: Any) -> Any:
        found = plain(loader, images, labels)
        if loader.training:
            if len(drawn) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            drawn.append(loader.epoch)
            chosen, given = (sha256(x.numpy().tobytes()) for x in (images, found[0]))
            with Path(log).open("a") as file:
                print(loader.epoch, chosen, given, file=file)
        return found

    BatchLoader._prepare = noted  # type: ignore[method-assign]
    snapshot = Store(suite.model_dir).snapshot(step.key)
    dataset = load_dataset(step.experiment.dataset_args, suite.data_dir)
    ctx = Context(dataset, torch.device("cpu"), 0, snapshot, snapshot_seconds=0.0)
    spec: Any = step.spec.model_copy(update={"epochs": 3, "augmentation": "randaugment"})
    STAGES[step.stage].run(initial_state(step.experiment.model_args, 0), spec, ctx)


def test_batches_after_a_kill_inside_an_epoch_are_those_of_no_kill(tmp_path: Path) -> None:
    """Which images each batch has, and how they are augmented: in this epoch and the next."""
    logs = {}
    for name, moments in ("plain", [-1]), ("broken", [30, 5, -1]):
        path, log = quickstart(tmp_path / name), tmp_path / f"{name}.txt"
        for moment in moments:
            process = forkserver().Process(target=_draws, args=(str(path), str(log), moment))
            process.start()
            process.join(300)
            assert process.exitcode == (0 if moment < 0 else -signal.SIGKILL)
        logs[name] = log.read_text().splitlines()
    epochs = [int(line.split()[0]) for line in logs["plain"]]
    assert epochs[30] == epochs[35] == 1 and epochs[29] == 1 and epochs[-1] == 2
    assert len(set(logs["plain"])) == len(epochs)
    assert logs["broken"] == logs["plain"]
