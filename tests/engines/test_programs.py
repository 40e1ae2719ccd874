"""Programs give the network's own logits and name the layers that are int8."""

from __future__ import annotations

import pytest
import torch

from engines.network import EngineNetwork
from engines.programs import programs
from methods.quantization.record import quantizable_layers
from model import every_logits
from tests.support.int8 import calibrated_on, off, simulated
from tests.support.tiny import FUSIONS, tiny


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("exits", [[], ["cnn"]])
def test_float_programs_are_the_network(fusion: str, exits: list[str]) -> None:
    model = tiny(fusion=fusion, exits=exits)
    images = torch.randn(3, 1, 8, 8)
    found = programs(model)
    assert len(found) == len(exits) + 1
    with torch.inference_mode():
        expected = model.every_logits(images) if exits else model(images)
        for network in (
            [program.graph for program in found],
            [EngineNetwork(program, {1: "eager"}) for program in found],
        ):
            logits = every_logits(network, images) if exits else network[0](images)
            assert torch.allclose(logits, expected, atol=1e-4)
    assert not any(program.int8_layers for program in found)


@pytest.mark.parametrize("backend", ["inductor", "x86"])
@pytest.mark.parametrize("exits", [[], ["cnn"]])
def test_int8_programs_are_the_simulated_network(backend: str, exits: list[str]) -> None:
    model = tiny(exits=exits)
    images = torch.randn(64, 1, 8, 8)
    quant = calibrated_on(model, images, backend=backend, float_layers=["*fc1"])
    found = programs(model, quant)
    names = [name for program in found for name in program.int8_layers]
    layers = quantizable_layers(model)
    assert sorted(names) == sorted(name for name in layers if "fc1" not in name)
    with torch.inference_mode():
        expected = simulated(model, quant, images)(images)
        graphs = [program.graph for program in found]
        logits = every_logits(graphs, images) if exits else graphs[0](images)
        assert off(logits, expected) < 0.02
    assert all((program.native is None) == (backend == "inductor") for program in found)
