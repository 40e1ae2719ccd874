"""Networks of backend `inductor`: calibrated, simulated, and one compiled for all tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from methods.quantization import backends
from methods.quantization.compiled import CompiledNetwork
from methods.quantization.record import Quant
from model import HybridCNNTransformer
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
