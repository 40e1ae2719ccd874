"""OpenMP's threads sleep beside other work, spin without, and compute the same either way."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from machine import waiting
from tests.support.home import HOME

SWITCHING = """
import json, resource, time
import torch
from machine.waiting import Neighbours, way_of_waiting

def processor_seconds():
    began = time.process_time()
    for _ in range(100):
        torch.ones(2**17).sum()  # in parallel; then the other threads wait for the next one
        time.sleep(0.004)
    return time.process_time() - began

def step():
    torch.manual_seed(0)
    images = torch.randn(64, 8, 16, 16)
    layer = torch.nn.Conv2d(8, 16, 3)
    layer(images).square().mean().backward()
    return layer.weight.grad.flatten().tolist()

neighbours, found = Neighbours(), []
for asleep in (False, True, False):
    neighbours.switch(asleep)
    time.sleep(0.5)
    found.append((processor_seconds(), step()))
print(json.dumps([way_of_waiting(), *found]))
"""


def in_two_threads(script: str, **env: str) -> list[object]:
    kept = {name: value for name, value in os.environ.items() if name not in waiting.SET_BY_USER}
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=HOME, env=kept | {"OMP_NUM_THREADS": "2"} | env,
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one processor: nobody spins")
def test_threads_sleep_when_they_are_told_and_spin_again() -> None:
    """By the processor time that waiting takes; gradients are the same to the bit."""
    way, *found = in_two_threads(SWITCHING)
    assert way == waiting.SWITCHED
    (spinning, one), (asleep, two), (again, three) = found  # type: ignore[misc]
    assert asleep < spinning / 2 and asleep < again / 2
    assert one == two == three


def test_a_setting_of_the_users_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    monkeypatch.setattr(waiting.Neighbours, "watch", lambda self: pytest.fail("it watches"))
    assert waiting.way_of_waiting() == "OMP_WAIT_POLICY=active"
    with waiting.considerate_waiting() as neighbours:
        assert neighbours.share() == 0


@pytest.mark.parametrize(
    ("threads", "processors", "others", "quota", "expected"),
    [
        (2, 2, 0.1, math.inf, False),
        (2, 2, 1.0, math.inf, True),
        (1, 2, 2.0, math.inf, False),  # one thread waits for nobody
        (2, 64, 30.0, math.inf, False),
        (64, 64, 1.0, math.inf, True),
        (8, 64, 0.0, 4.0, True),  # a container of 4 processors' worth of time
    ],
)
def test_crowded_is_more_wanted_than_there_is(
    threads: int, processors: int, others: float, quota: float, expected: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    monkeypatch.setattr(waiting, "_processors", lambda: set(range(processors)))
    monkeypatch.setattr(waiting, "_quota", lambda: quota)
    assert waiting.crowded(others) is expected
    if threads > 1:  # libgomp's condition for short waits, one team being ours
        more = waiting._teams()
        assert threads + more * (threads - 1) > processors
        assert threads + (more - 1) * (threads - 1) <= processors


def test_what_others_take_is_seen() -> None:
    """Against what the system itself says that a program took."""
    before = waiting._times()
    loop = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    time.sleep(1)
    loop.kill()
    _, _, used = os.wait4(loop.pid, 0)
    loop.returncode = -9
    after = waiting._times()
    seconds = after[0] - before[0]
    taken = after[1] - before[1]
    mine = used.ru_utime + used.ru_stime
    assert mine - 0.15 < taken < len(os.sched_getaffinity(0)) * seconds + 0.15


def test_a_quota_of_any_group_above_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "CGROUPS", tmp_path / "cgroup")
    own = tmp_path / "cgroup" / "user" / "job"
    own.mkdir(parents=True)
    (own / "cpu.max").write_text("max 100000\n")
    (own.parent / "cpu.max").write_text("150000 100000\n")
    monkeypatch.setattr(waiting, "OWN_GROUP", tmp_path / "own")
    (tmp_path / "own").write_text("0::/user/job\n")
    assert waiting._quota.__wrapped__() == 1.5
    (tmp_path / "own").write_text("0::/\n")
    assert waiting._quota.__wrapped__() == math.inf


def test_one_thread_for_a_while() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(ZeroDivisionError), waiting.one_thread():
            assert torch.get_num_threads() == 1
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
