"""How OpenMP's threads wait for one another: actively, or asleep beside other work.

A small network's step has hundreds of parallel regions, and after each the threads wait in a loop,
which is fastest where nobody else wants the processors. Where somebody does, those loops take the
time that the thread that is waited for would need: on 2 cores beside two busy programs training
fell from 4,300 images a second to 700, and to 1,700 with threads that sleep. libgomp reads its
settings once, when torch is loaded, but spins only 100 times instead of 300,000 while it has more
threads than there are processors (its manual, under GOMP_SPINCOUNT): a second team of threads that
does nothing is a switch that works at any time, whatever the load becomes. As many threads share
the work as before, so that sums keep their order and what they find is the same to the bit.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

LOOK_SECONDS = 1.0  # time between two looks at what others do
FIRST_LOOK_SECONDS = 0.2
SLACK = 0.5  # processors that others may take before they are in the way
SWITCHED = "spinning, asleep beside other work"
SET_BY_USER = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
STAT, MAPS = Path("/proc/stat"), Path("/proc/self/maps")
OWN_GROUP, CGROUPS = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def way_of_waiting() -> str:
    """What this process does about waiting, for the record."""
    chosen = [f"{name}={os.environ[name]}" for name in SET_BY_USER if name in os.environ]
    if chosen:
        return " ".join(chosen)
    if not _can_be_switched():
        return "as OpenMP does"
    return SWITCHED


class Neighbours:
    """Looks at the load from time to time, and has OpenMP's threads wait accordingly."""

    def __init__(self) -> None:
        self.crowded_seconds = 0.0
        self.started = time.monotonic()
        self._end = threading.Event()
        self._release: threading.Event | None = None  # of the team that is the switch

    def share(self) -> float:
        """Share of the time so far in which others needed the processors."""
        return self.crowded_seconds / max(1e-9, time.monotonic() - self.started)

    def watch(self) -> None:
        """Look until the end, in a thread of its own."""
        before, wait = _times(), FIRST_LOOK_SECONDS
        while not self._end.wait(wait):
            now, wait = _times(), LOOK_SECONDS
            seconds = max(1e-9, now[0] - before[0])
            others = (now[1] - before[1]) / seconds
            if self._release is not None:
                self.crowded_seconds += seconds
            self.switch(crowded(others))
            before = now
        self.switch(False)

    def switch(self, asleep: bool) -> None:
        """Have threads that wait sleep, or spin again."""
        if asleep and self._release is None:
            self._release = threading.Event()
            for _ in range(_teams()):
                threading.Thread(target=_idle_team, args=(self._release,), daemon=True).start()
        elif not asleep and self._release is not None:
            self._release.set()
            self._release = None


@contextmanager
def considerate_waiting() -> Iterator[Neighbours]:
    """Inside, threads wait asleep while other programs need the processors."""
    neighbours = Neighbours()
    if way_of_waiting() != SWITCHED:
        yield neighbours
        return
    watching = threading.Thread(target=neighbours.watch, daemon=True)
    watching.start()
    try:
        yield neighbours
    finally:
        neighbours._end.set()
        watching.join()


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch computes in this thread alone.

    After an operation in several, OpenMP's threads spin for 5 ms, on processors that the threads of
    another runtime want: with 2 processors, copying a batch so made OpenVINO's 1.4 times as slow.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def crowded(others: float) -> bool:
    """Whether others, who take so many processors, and our threads want more than there are."""
    threads = torch.get_num_threads()
    return threads > 1 and (
        threads + others > len(_processors()) + SLACK or threads > _quota() + SLACK
    )


def _teams() -> int:
    """How many teams, each as large as ours, make more threads than there are processors."""
    threads = torch.get_num_threads()
    return max(0, len(_processors()) - threads) // (threads - 1) + 1


def _idle_team(release: threading.Event) -> None:
    torch.ones(2**20).sum()  # large enough for all threads; they stay until this one ends
    release.wait()


@functools.cache
def _can_be_switched() -> bool:
    """Whether torch runs on libgomp, on a Linux that tells what its processors do."""
    return STAT.exists() and MAPS.exists() and "libgomp" in MAPS.read_text()


def _processors() -> set[int]:
    return os.sched_getaffinity(0)


def _times() -> tuple[float, float]:
    """Now, and the seconds that others have kept this process's processors busy so far.

    What is niced counts only for who is niced as well: it makes room by itself.
    """
    names = {f"cpu{number}" for number in _processors()}
    busy = 0
    for line in STAT.read_text().splitlines():
        name, *fields = line.split()
        if name in names:
            user, nice, system, _, _, irq, softirq, steal, *_ = map(int, fields)
            busy += user + system + irq + softirq + steal + (nice if os.nice(0) > 0 else 0)
    mine = os.times()
    return time.monotonic(), busy / os.sysconf("SC_CLK_TCK") - mine.user - mine.system


@functools.cache
def _quota() -> float:
    """Processors' worth of time that this process's control groups grant it; infinite if any."""
    try:
        own = OWN_GROUP.read_text().rpartition("::/")[2].strip()
    except OSError:
        return float("inf")
    granted = [float("inf")]
    for group in (CGROUPS / own, *(CGROUPS / own).parents):
        if group == CGROUPS.parent:
            break
        try:
            most, period = (group / "cpu.max").read_text().split()
        except (OSError, ValueError):
            continue
        if most != "max":
            granted.append(int(most) / int(period))
    return min(granted)
