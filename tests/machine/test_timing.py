"""Networks are timed in turn, and oneDNN's own log says which kernels ran."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from machine.timing import FEWEST_PASSES, fitting, latencies, onednn_kernels
from model import HybridCNNTransformer
from tests.support.int8 import calibrated_on, to_int8
from tests.support.tiny import tiny


def test_kernels_are_read_from_the_log_of_onednn() -> None:
    model, images = tiny(), torch.randn(1, 1, 8, 8)
    found = onednn_kernels(HybridCNNTransformer().eval(), torch.randn(4, 3, 32, 32))
    assert any(kernel.startswith("convolution ") for kernel in found)

    def slow(images: Tensor) -> Tensor:
        line = b"onednn_verbose,v1,primitive,exec,cpu,matmul,ref_int8:any,undef,src:u8::blocked\n"
        os.write(1, line)
        return images

    assert "matmul ref_int8:any" in onednn_kernels(slow, images)
    network = to_int8(model, calibrated_on(model, images, backend="x86"))
    assert not any(" ref" in k for k in onednn_kernels(network, images))


def test_networks_are_timed_in_turn() -> None:
    """Each gets its own milliseconds, and no three blocks at a stretch: back and forth."""
    calls: list[str] = []

    def sleeping(name: str, seconds: float) -> Callable[[Tensor], Tensor]:
        def network(images: Tensor) -> Tensor:
            calls.append(name)
            time.sleep(seconds)
            return images

        return network

    networks = [sleeping("short", 0.002), sleeping("long", 0.03)]
    short, long = latencies(networks, torch.zeros(1), seconds=0.2)
    assert short["over_first"] == 1 and 3 < long["over_first"] < 15.1
    assert 2 <= short["median"] <= short["p95"] and 30 <= long["median"] <= long["p95"]
    assert short["median"] < long["median"]
    assert short["runs"] >= 5 and long["runs"] >= 5
    turns = [name for name, before in zip(calls, ["", *calls], strict=False) if name != before]
    assert len(turns) >= 6  # short long, long short, short long, ...


def test_a_ratio_holds_where_the_machine_slows_down_half_way() -> None:
    """Two that take 2 and 4 ms, and ten times as long from some moment on: twice as long, always.

    The medians of the two may be of different halves.
    """
    begun = time.perf_counter()

    def slowed(seconds: float) -> Callable[[Tensor], Tensor]:
        def network(images: Tensor) -> Tensor:
            time.sleep(seconds * (10 if time.perf_counter() - begun > 0.15 else 1))
            return images

        return network

    _, other = latencies([slowed(0.002), slowed(0.004)], torch.zeros(1), seconds=0.3)
    assert other["over_first"] == pytest.approx(2, rel=0.25)


def test_a_slow_network_is_timed_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass counts, the first ones too; how few there were is said."""
    monkeypatch.setattr("machine.timing.BUDGET_SECONDS", 0.6)
    calls = []

    def slow(images: Tensor) -> Tensor:
        calls.append(time.perf_counter())
        time.sleep(0.1)
        return images

    assert fitting(0.1) == 1 and fitting(0.13) == 0
    (found,) = latencies([slow], torch.zeros(1), seconds=60)
    assert FEWEST_PASSES <= found["runs"] <= 6
    assert len(calls) == found["runs"] + 2  # one warms up, one tells how long a pass takes
    (found,) = latencies([slow], torch.zeros(1), seconds=0)
    assert found["runs"] == 5
