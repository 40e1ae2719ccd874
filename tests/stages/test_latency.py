"""Networks are timed in turn on their engines, and ratios that mean nothing are not told."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from engines import ENGINES, eager
from engines.deployment_args import DeploymentArgs
from engines.program import Program, Ready
from stages import latency
from stages.deployment import deploy
from stages.state import state_of
from tests.support.exits import learned
from tests.support.int8 import calibrated_on
from tests.support.tiny import tiny


def test_a_network_is_timed_in_turn_with_its_baseline(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that sleeps 5 ms beside one that sleeps 20, whatever else the machine does."""
    monkeypatch.setattr(latency, "UNSTEADY", float("inf"))

    class Sleeping(nn.Module):
        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.seconds = seconds

        def forward(self, images: Tensor) -> Tensor:
            time.sleep(self.seconds)
            return images

    mine, its = latency.in_turn([Sleeping(0.005), Sleeping(0.02)], torch.zeros(1, 1, 8, 8), 1)
    assert "speedup" not in mine and "over_first" not in its
    assert its["median"] >= 20 and 1.2 < its["speedup"] < 4.1


def test_a_ratio_that_rounds_do_not_agree_on_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def timed(interval: list[float]) -> list[dict[str, Any]]:
        mine = {"median": 1.0, "p95": 1.1, "over_first": 1.0, "over_first_interval": [1.0, 1.0]}
        return [mine, {**mine, "over_first": 2.0, "over_first_interval": interval}]

    monkeypatch.setattr(latency, "UNSTEADY", 2.0)
    for interval, speedup in (([1.2, 2.3], 2.0), ([0.5, 2.3], None)):
        found = timed(interval)
        monkeypatch.setattr(latency, "timed", lambda *_, found=found: found)
        mine, its = latency.in_turn([], torch.zeros(1), 1)
        assert its["speedup"] == speedup
        told = latency.varying({"batch_1": {**mine, "speedup": its["speedup"]}})
        assert bool(told) == (speedup is None)


def test_times_that_scatter_are_told() -> None:
    times = {"batch_1": {"median": 1.0, "p95": 5.0}, "batch_64": {"median": 9.0, "p95": 9.5}}
    (told,) = latency.varying(times)
    assert told.startswith("p95 is 5.0 times the median at batch_1: other work")
    assert latency.varying({"batch_64": times["batch_64"]}) == []


def test_images_that_leave_early_are_as_many_as_there_is_time_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = deploy(learned("serial")).network
    images = torch.randn(64, 1, 8, 8)
    assert latency.timed([network], images, 1)[0]["images"] == 64
    monkeypatch.setattr("machine.timing.BUDGET_SECONDS", 1e-9)
    assert latency.timed([network], images, 1)[0]["images"] == 1


Sleeps = Callable[[int], float]  # images → seconds


@pytest.fixture
def sleepers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Engines that answer as PyTorch does, each after its time."""

    def install(**engines: Sleeps) -> None:
        monkeypatch.setattr(latency, "UNSTEADY", float("inf"))
        monkeypatch.setattr("machine.timing.LATENCY_SECONDS", 0.1)
        for name in list(ENGINES):
            monkeypatch.delitem(ENGINES, name)
        for name, sleep in engines.items():
            monkeypatch.setitem(ENGINES, name, sleeper(sleep))

    def sleeper(sleep: Sleeps) -> Any:
        def ready(program: Program, batch: int | None, threads: int) -> Ready:
            inner = eager.ready(program, batch, threads)

            def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
                time.sleep(sleep(len(inputs[0])))
                return inner.run(inputs)

            return inner._replace(run=run, threads=torch.get_num_threads())

        plain = {"unavailable": lambda: None, "unfit": lambda program: None}
        return SimpleNamespace(**plain, FIXED_BATCH=False, COMPILES=False, ready=ready)

    return install


def test_each_batch_size_runs_on_its_fastest_engine(sleepers: Callable[..., None]) -> None:
    """One engine wins alone, the other among many; the float baseline has its own."""
    sleepers(
        early=lambda n: 0.004 if n == 1 else 0.03,
        late=lambda n: 0.012,
        floats=lambda n: 0.04,
    )
    model, images = tiny(), torch.randn(256, 1, 8, 8)
    state = replace(state_of(model), quant=calibrated_on(model, images, backend="x86"))
    args = DeploymentArgs(batch_sizes=[1, 8])
    base = deploy(state_of(model))
    rival = latency.Rival(base.on({1: "floats", 8: "late"}), {1: "floats", 8: "late"})
    found = latency.race(deploy(state), args, images, rival)
    assert found.fastest == {1: "early", 8: "late"}
    one, eight = found.times["batch_1"], found.times["batch_8"]
    assert one["by_engine"].keys() == {"early", "late", "floats"}
    assert (one["baseline_engine"], eight["baseline_engine"]) == ("floats", "late")
    assert one["speedup"] > 1  # 40 ms over 4, and what the networks themselves take
    assert one["float_engine"] == "floats" and one["speedup_over_float"] > 1
    assert 0.2 < eight["speedup"] < 5
    network = found.deployed.network
    assert network.engines == found.fastest and network.made  # as it was made for the trial


def test_all_engines_are_tried_but_those_that_compile_for_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("machine.timing.LATENCY_SECONDS", 0.01)
    monkeypatch.setattr("engines.kept.cache_folder", lambda: tmp_path)
    found = latency.race(deploy(state_of(tiny())), DeploymentArgs(), torch.randn(256, 1, 8, 8))
    left_out = {name: trial["left_out"] for name, trial in found.engines.items()}
    assert left_out.pop("inductor").startswith("is not compiled: nothing it could win")
    assert left_out == dict.fromkeys(("eager", "onnxruntime", "openvino"))
    for time_ in found.times.values():
        assert time_["by_engine"].keys() == left_out.keys()
    assert not list(tmp_path.iterdir())  # what no compilation depends on is not kept


def test_a_baseline_not_known_yet_is_raced_first(sleepers: Callable[..., None]) -> None:
    sleepers(slow=lambda n: 0.01, fast=lambda n: 0.002)
    images = torch.randn(256, 1, 8, 8)
    args = DeploymentArgs(batch_sizes=[1])
    rival = latency.Rival(deploy(state_of(tiny())))
    found = latency.race(deploy(state_of(tiny(num_layers=1))), args, images, rival)
    assert found.times["batch_1"]["baseline_engine"] == "fast"
    assert rival.fastest == {1: "fast"}


def test_engines_and_threads_are_those_asked_for(sleepers: Callable[..., None]) -> None:
    sleepers(slow=lambda n: 0.01, fast=lambda n: 0.002)
    args = DeploymentArgs(engines=["slow"], batch_sizes=[1], threads=2)
    before = torch.get_num_threads()
    found = latency.race(deploy(state_of(tiny())), args, torch.randn(256, 1, 8, 8))
    assert torch.get_num_threads() == before
    assert found.engines.keys() == {"slow"} and found.fastest == {1: "slow"}
    assert found.times["batch_1"]["threads"] == found.engines["slow"]["threads"] == 2


def test_a_network_that_no_engine_runs_says_why(
    sleepers: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    sleepers(broken=lambda n: 1 / 0)
    with pytest.raises(latency.StageError, match="broken failed: division by zero"):
        latency.race(deploy(state_of(tiny())), DeploymentArgs(), torch.randn(256, 1, 8, 8))
