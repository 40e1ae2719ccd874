"""Networks of backend `inductor`: calibrated, simulated, and one compiled for all tests."""

from __future__ import annotations

from typing import Any

import torch
import torch.ao.nn.quantized as nnq
from torch import Tensor, fx, nn

from engines import program
from engines.network import EngineNetwork
from engines.programs import programs
from methods.early_exit.exits import SplitNetwork
from methods.quantization import backends
from methods.quantization.record import Quant
from model import HybridCNNTransformer
from stages.deployment import deploy
from stages.ptq import PtqSpec
from stages.state import state_of
from tests.support.tiny import tiny


def calibrated_on(model: HybridCNNTransformer, images: Tensor, **options: Any) -> Quant:
    quant = PtqSpec(**options).quant("ptq")
    return backends.with_calibrated_ranges(model, quant, [(images, images)])


def simulated(model: HybridCNNTransformer, quant: Quant, images: Tensor) -> nn.Module:
    prepared = backends.prepare(model, quant)
    backends.observe(prepared, quant.backend, [(images, images)], 1)
    return backends.simulated(prepared, quant.backend)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def to_int8(model: HybridCNNTransformer, quant: Quant) -> nn.Module:
    """What computes as the deployed network does: torch's own modules, else its graph."""
    parts = backends.native_int8(model, quant) or [p.graph for p in programs(model, quant)]
    return SplitNetwork(parts) if model.model_args["exits"] else parts[0]


def runnable(network: nn.Module) -> nn.Module:
    """A deployed network, but that one on an engine runs as its graph."""
    if isinstance(network, SplitNetwork):
        return SplitNetwork(runnable(part) for part in network.parts)
    return network.graph if isinstance(network, EngineNetwork) else network


def int8_layers(network: nn.Module) -> set[str]:
    """The layers that a network computes in int8, found in what runs."""
    if isinstance(network, SplitNetwork):
        return set().union(*(int8_layers(part) for part in network.parts))
    kinds = nnq.Conv2d, nnq.Linear  # those with ReLU are subclasses
    found = {name for name, module in network.named_modules() if isinstance(module, kinds)}
    graph = runnable(network)
    return found or set(program.int8_layers(graph) if isinstance(graph, fx.GraphModule) else ())


class Deployable:
    """One int8 network of backend `inductor`, made once for all tests."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model, self.images = tiny(num_layers=1), torch.randn(70, 1, 8, 8)
        self.quant = calibrated_on(self.model, self.images)
        self.state = state_of(self.model).changed(state_of(self.model).weights, quant=self.quant)
        self.network = deploy(self.state).network
