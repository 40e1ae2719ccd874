"""Milliseconds by the clock: networks timed in turn, and what oneDNN ran for them."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
import tempfile
import time
import timeit
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from machine.processor import cpu_model, isa

Network = nn.Module | Callable[[torch.Tensor], torch.Tensor]
LATENCY_SECONDS = 0.3  # shortest time that one network is timed for
BUDGET_SECONDS = 30.0  # longest time that passes of one batch size take, where three fit
FEWEST_PASSES = 3  # passes that a median is of, at least
BLOCK_SECONDS = 0.002  # length of a block of calls that are timed together
SLOW_SECONDS = 0.05  # length of a pass that no cache makes faster, so that none goes before it


def latency(network: Network, images: torch.Tensor) -> dict[str, Any]:
    """Milliseconds of a forward pass: see `latencies`."""
    return latencies([network], images)[0]


def fitting(seconds: float) -> int:
    """How many passes that each take so long may come one after another within the budget."""
    return int(BUDGET_SECONDS / ((2 + FEWEST_PASSES) * seconds))  # two warm up


def latencies(
    networks: Sequence[Network],
    images: torch.Tensor,
    *,
    seconds: float | None = None,
    block: float = BLOCK_SECONDS,
    rest: float = 0.0,
) -> list[dict[str, Any]]:
    """Milliseconds of a forward pass of each network: median, p95, p99, and how they were taken.

    Warmed up, then timed in turn, back and forth, with as many calls a block each, so that what
    else the machine does falls on all alike. 'over_first' is the median over rounds of a network's
    time over that of the first one in the same round: beside other work it is far steadier than a
    ratio of medians (within 1.07 where that was up to 2.6, one network against itself at a load of
    5 on 2 cores, n = 25). 'over_first_interval' has it in 95 of 100 cases, by the ranks of rounds.

    A call on a GPU lasts until its result is there. Each network takes `seconds` (None:
    LATENCY_SECONDS) and five blocks at least, but all together no more than BUDGET_SECONDS: then
    'runs', FEWEST_PASSES or more, says how few there were. A block is of `block` seconds for the
    fastest, and of SLOW_SECONDS at most for the slowest. Networks of several runtimes need `rest`
    seconds before a block (and then get one call that is not counted): idle threads wait actively
    for a while, and would take another's core.
    """
    threads, seconds = torch.get_num_threads(), seconds or LATENCY_SECONDS
    timers, passes, warming = [], [], []
    taken: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        for network in networks:
            wait = functools.partial(torch.cuda.synchronize, images.device)
            here = {"network": network, "images": images, "wait": wait}
            call = "network(images)" + ("; wait()" if images.is_cuda else "")
            timer = timeit.Timer(call, globals=here)
            timer.timeit(1)  # warms up, compiling included
            once = timer.timeit(1)
            if once < SLOW_SECONDS:
                once = timer.timeit(3) / 3
            timers.append(timer)
            passes.append(once)
            warming.append(2 if once < SLOW_SECONDS else 0)
        repeat = max(1, int(min(block / min(passes), SLOW_SECONDS / max(passes))))
        started = time.perf_counter()

        def enough() -> bool:
            spent, blocks = time.perf_counter() - started, len(taken[0])
            if blocks < FEWEST_PASSES or spent * (blocks + 1) / blocks > BUDGET_SECONDS:
                return blocks >= FEWEST_PASSES
            return blocks >= 5 and spent >= seconds * len(networks)

        while not enough():
            turns = list(zip(timers, warming, taken, strict=True))
            for timer, warm, times in turns[:: -1 if len(taken[0]) % 2 else 1]:
                if rest:
                    time.sleep(rest)
                    timer.timeit(1)
                timer.timeit(warm)
                times.append(timer.timeit(repeat) / repeat * 1e3)
    return [
        {
            "median": float(np.median(times)),
            "p95": float(np.percentile(times, 95)),
            "p99": float(np.percentile(times, 99)),
            **_over(times, taken[0]),
            "runs": repeat * len(times),
            "threads": threads,
            "device": device_name(images.device),
            "isa": isa() if images.device.type == "cpu" else [],
        }
        for times in taken
    ]


def _over(times: list[float], first: list[float]) -> dict[str, Any]:
    """The median ratio of two networks' rounds, and the ratios whose ranks bound it at 95 %."""
    ratios = np.sort(np.divide(times, first))
    lowest = max(0, int(len(ratios) / 2 - 0.98 * len(ratios) ** 0.5))
    interval = [float(ratios[lowest]), float(ratios[-1 - lowest])]
    return {"over_first": float(np.median(ratios)), "over_first_interval": interval}


def onednn_kernels(network: Network, images: torch.Tensor) -> list[str]:
    """What a forward pass on the CPU runs in oneDNN, e.g. 'matmul ref_int8:any'.

    As its own log (ONEDNN_VERBOSE) tells it, which goes to the process's standard output. Kernels
    named ref are not made for speed. Empty where there is no oneDNN or no Linux.
    """
    if sys.platform != "linux" or not torch.backends.mkldnn.is_available():
        return []
    sys.stdout.flush()
    kept = os.dup(1)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 1)
        try:
            with (
                torch.inference_mode(),
                torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON),
            ):
                network(images)
        finally:
            ctypes.CDLL(None).fflush(None)
            os.dup2(kept, 1)
            os.close(kept)
        log.seek(0)
        text = log.read().decode(errors="replace")
    found = re.findall(r"exec,cpu,(\w+),([\w:]+)", text)
    return sorted({f"{primitive} {kernel}" for primitive, kernel in found})


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({cpu_model()})"
