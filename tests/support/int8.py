"""Networks of backend `inductor`: calibrated, simulated, and one compiled for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.ao.nn.quantized as nnq
from torch import Tensor, nn

from methods.early_exit.exits import SplitNetwork
from methods.quantization import backends, pt2e
from methods.quantization.compiled import CompiledNetwork
from methods.quantization.record import Quant
from model import HybridCNNTransformer
from stages.ptq import PtqSpec
from stages.state import state_of
from tests.support.tiny import tiny

DEQUANTIZE = torch.ops.quantized_decomposed.dequantize_per_tensor.default
DEQUANTIZE_WEIGHT = torch.ops.quantized_decomposed.dequantize_per_channel.default


def calibrated_on(model: HybridCNNTransformer, images: Tensor, **options: Any) -> Quant:
    quant = PtqSpec(**options).quant("ptq")
    return backends.with_calibrated_ranges(model, quant, [(images, images)])


def simulated(model: HybridCNNTransformer, quant: Quant, images: Tensor) -> nn.Module:
    prepared = backends.prepare(model, quant)
    backends.observe(prepared, quant.backend, [(images, images)], 1)
    return backends.simulated(prepared, quant.backend)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def runnable(network: nn.Module) -> nn.Module:
    """What computes as a deployed int8 network does; a compiled one as its graph, in no time."""
    if isinstance(network, SplitNetwork):
        return SplitNetwork(runnable(part) for part in network.parts)
    return network.graph if isinstance(network, CompiledNetwork) else network


def int8_layers(network: nn.Module) -> set[str]:
    """The layers that a deployed network computes in int8, found in what runs."""
    if isinstance(network, SplitNetwork):
        return set().union(*(int8_layers(part) for part in network.parts))
    if not isinstance(network, CompiledNetwork):
        kinds = nnq.Conv2d, nnq.Linear  # those with ReLU are subclasses
        return {name for name, module in network.named_modules() if isinstance(module, kinds)}
    found = set()
    for node in network.graph.graph.nodes:
        if node.target in pt2e.LAYERS:
            images, weight = node.args[:2]
            if images.target is DEQUANTIZE and weight.target is DEQUANTIZE_WEIGHT:
                found.add([name for name, _ in node.meta["nn_module_stack"].values()][-1])
    return found


class Compiled:
    """One network, compiled once for all tests."""

    def __init__(self, folder: Path):
        torch.manual_seed(0)
        self.model, self.images = tiny(num_layers=1), torch.randn(70, 1, 8, 8)
        self.quant = calibrated_on(self.model, self.images)
        self.state = state_of(self.model).changed(state_of(self.model).weights, quant=self.quant)
        self.folder = folder
        self.network = self.new()

    def new(self) -> CompiledNetwork:
        network = backends.to_int8(self.model, self.quant, self.folder)
        assert isinstance(network, CompiledNetwork)
        return network
