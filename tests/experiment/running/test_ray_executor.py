"""What a stage asks of a cluster, and what a cluster cannot give."""

from __future__ import annotations

import pytest
import torch

from experiment.running.ray_executor import Needs, _needs
from experiment.suite.messages import ConfigError
from tests.support.suites import Suites

GIB = 2**30


def test_no_cluster_at_an_address(suites: Suites) -> None:
    (line,) = suites.refused("", "--executor", "ray", "--address", "127.0.0.1:1")
    assert line.startswith("command line: --address 127.0.0.1:1: no cluster answers (")
    assert line.endswith("; start one there with ray start --head")


@pytest.mark.parametrize(
    ("machines", "workers", "device", "wanted"),
    [
        ([(8, 0)], None, "cpu", (1, 0, 8)),
        ([(8, 0)], 2, "cpu", (4, 0, 2)),
        ([(8, 0), (8, 0)], 3, "cpu", (4, 0, 3)),  # 5 would fit but two of them
        ([(2, 0)], 8, "cpu", (1, 0, 8)),
        ([(32, 4), (32, 4)], None, "cuda", (8, 1, 8)),
        ([(32, 4)], 10, "cuda", (3, 1 / 3, 10)),
        ([(0, 0), (16, 2)], None, "cuda", (8, 1, 2)),
    ],
)
def test_what_a_stage_gets(
    machines: list[tuple[int, int]],
    workers: int | None,
    device: str,
    wanted: tuple[int, float, int],
) -> None:
    nodes = [
        {"Alive": True, "Resources": {"CPU": cpus, "GPU": gpus, "memory": 64 * GIB}}
        for cpus, gpus in machines
    ]
    dead = {"Alive": False, "Resources": {"CPU": 1000.0, "memory": 64 * GIB}}
    needs = _needs([*nodes, dead], workers, torch.device(device), GIB)
    assert needs == Needs(wanted[0], wanted[1], GIB, wanted[2])


def test_a_stage_that_fits_nowhere_is_refused() -> None:
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0, "memory": 2 * GIB}}]
    for device, memory in [("cuda", GIB), ("cpu", 3 * GIB)]:
        with pytest.raises(ConfigError, match="no machine of the cluster has these"):
            _needs(nodes, None, torch.device(device), memory)
