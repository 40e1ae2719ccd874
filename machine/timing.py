"""Milliseconds by the clock: networks timed in turn, and what oneDNN ran for them."""

from __future__ import annotations

import ctypes
import functools
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from machine.processor import cpu_model, isa

Network = nn.Module | Callable[[torch.Tensor], torch.Tensor]
LATENCY_SECONDS = 0.3  # shortest time that one network is timed for
BLOCK_SECONDS = 0.002  # length of a block of calls that are timed together


def latency(network: Network, images: torch.Tensor) -> dict[str, Any]:
    """Milliseconds of a forward pass: see `latencies`."""
    return latencies([network], images)[0]


def latencies(
    networks: Sequence[Network],
    images: torch.Tensor,
    *,
    seconds: float | None = None,
    block: float = BLOCK_SECONDS,
    rest: float = 0.0,
) -> list[dict[str, Any]]:
    """Milliseconds of a forward pass of each network: median, p95, and how they were taken.

    Warmed up, then timed in turn by torch.utils.benchmark, so that what else the machine does falls
    on all alike: a ratio of two of these medians is fair where single figures are noisy. A call on
    a GPU lasts until its result is there. Each takes `seconds` (None: LATENCY_SECONDS), in blocks
    of `block` seconds. Networks of several runtimes need `rest` seconds before a block (and then
    get one call that is not counted): idle threads wait actively for a while, and would take
    another's core.
    """
    from torch.utils import benchmark  # it sets up a C++ compiler, which only measuring may need

    threads, seconds = torch.get_num_threads(), seconds or LATENCY_SECONDS
    timers, repeats = [], []
    taken: list[list[float]] = [[] for _ in networks]
    with torch.inference_mode():
        for network in networks:
            wait = functools.partial(torch.cuda.synchronize, images.device)
            here = {"network": network, "images": images, "wait": wait}
            call = "network(images)" + ("; wait()" if images.is_cuda else "")
            timer = benchmark.Timer(call, globals=here, num_threads=threads)
            timers.append(timer)
            once = timer.timeit(3).median  # after two calls that warm up, compiling included
            repeats.append(max(1, int(block / once)))
        started = time.perf_counter()
        while len(taken[0]) < 5 or time.perf_counter() - started < seconds * len(networks):
            for timer, repeat, times in zip(timers, repeats, taken, strict=True):
                if rest:
                    time.sleep(rest)
                    timer.timeit(1)
                times.append(timer.timeit(repeat).median * 1e3)
    return [
        {
            "median": float(np.median(times)),
            "p95": float(np.percentile(times, 95)),
            "runs": repeat * len(times),
            "threads": threads,
            "device": device_name(images.device),
            "isa": isa() if images.device.type == "cpu" else [],
        }
        for times, repeat in zip(taken, repeats, strict=True)
    ]


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
