"""Weights on the int8 grid: what is deployed is the same to the bit, and again changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from engines.programs import programs
from methods.quantization.freezing import frozen_layers, frozen_tensors, put_on_grid
from methods.quantization.record import Quant
from model import HybridCNNTransformer
from tests.support.int8 import calibrated_on
from tests.support.tiny import FUSIONS, tiny

NETWORKS: list[dict[str, Any]] = [
    *({"fusion": fusion} for fusion in FUSIONS),
    {"cnn_separable": True, "pooling": "class_token"},
    {"cnn_norm": "group", "pooling": "sequence"},
    {"cnn_norm": "none", "num_layers": 0},
    {"exits": ["cnn", "layer_0"]},
]


def int8_tensors(model: HybridCNNTransformer, quant: Quant) -> dict[str, Tensor]:
    """All constants of the graph that engines get."""
    return {
        f"{number}.{name}": value
        for number, program in enumerate(programs(model, quant))
        for name, value in program.graph.state_dict().items()
    }


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("args", NETWORKS, ids=str)
def test_what_is_deployed_is_the_same_to_the_bit(args: dict[str, Any], reduce_range: bool) -> None:
    """Weights near the middle of two levels included, of which folding a batch norm makes some."""
    model, images = tiny(**args), torch.randn(32, 1, 8, 8)
    quant = calibrated_on(model, images, reduce_range=reduce_range)
    before = int8_tensors(model, quant)
    masters = {name: value.clone() for name, value in model.state_dict().items()}
    put_on_grid(model, quant)
    after = int8_tensors(model, quant)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    once = {name: value.clone() for name, value in model.state_dict().items()}
    assert any(not torch.equal(value, masters[name]) for name, value in once.items())
    put_on_grid(model, quant)
    assert all(torch.equal(value, once[name]) for name, value in model.state_dict().items())


def test_exits_heads_and_layers_kept_float_are_not_frozen() -> None:
    model = tiny(exits=["cnn", "layer_0"])
    quant = Quant("ptq", "pt2e", float_layers=("cnn.blocks.0.conv", "head"))
    layers = frozen_layers(model, quant)
    assert "cnn.blocks.1.conv" in layers and "transformer.layers.0.fc1" in layers
    assert not {"cnn.blocks.0.conv", "head", "exits.cnn.head"} & set(layers)
    tensors = frozen_tensors(model, quant)
    assert {"cnn.blocks.1.norm.running_var", "cnn.blocks.1.norm.bias"} <= tensors
    assert not any(n.startswith(("cnn.blocks.0.", "head.", "exits.")) for n in tensors)
    assert not any(".norm1." in n or "position" in n for n in tensors)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    put_on_grid(model, quant)
    changed = {n for n, v in model.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {f"{layer}.weight" for layer in layers}
