"""int8 weights without float masters: which tensors they are, and how they are put on the grid.

Toolkits that keep no masters round once; what comes later can move neither an int8 weight nor what
is folded into it.
"""

from __future__ import annotations

import torch
from torch import nn

from methods.layers import layers_of
from methods.quantization.fake_quant import REDUCED_WEIGHT_RANGE, WEIGHT_RANGE, on_grid
from methods.quantization.record import Quant, float_layer_names, quantizable_layers
from model import HybridCNNTransformer, Network
from networks.convolution import ConvBlock

BatchNorm = nn.BatchNorm1d | nn.BatchNorm2d


@torch.no_grad()
def put_on_grid(model: Network, quant: Quant) -> None:
    """Round the weights that `frozen_layers` names, in place; int8 networks of it stay the same."""
    levels = REDUCED_WEIGHT_RANGE if quant.reduce_range else WEIGHT_RANGE
    norms = _folded_norms(model)
    for name in frozen_layers(model, quant):
        weight = model.get_parameter(f"{name}.weight")
        gain = torch.ones(len(weight))
        if name in norms:  # multiplied as torch folds it, or weights near a half round otherwise
            norm = norms[name][1]
            assert norm.running_var is not None
            gain = torch.rsqrt(norm.running_var + norm.eps)
            if norm.weight is not None:
                gain = norm.weight * gain
        weight.copy_(on_grid(weight, gain, levels))


def frozen_layers(model: Network, quant: Quant) -> list[str]:
    """The layers that are int8, but exits' heads: parts that later stages add and train."""
    kept = float_layer_names(model, quant.float_layers)
    layers = quantizable_layers(model)
    return [name for name in layers if name not in kept and not name.startswith("exits.")]


def frozen_tensors(model: Network, quant: Quant) -> set[str]:
    """Names of all that int8 weights and biases are made of; batch norms are folded into them."""
    norms = _folded_norms(model)
    owners = []
    for name in frozen_layers(model, quant):
        owners += [name, norms[name][0]] if name in norms else [name]
    return {
        f"{owner}.{name}" for owner in owners for name in model.get_submodule(owner).state_dict()
    }


def _folded_norms(model: Network) -> dict[str, tuple[str, BatchNorm]]:
    """Layer → name and module of the batch norm that int8 folds into it."""
    if isinstance(model, HybridCNNTransformer):  # of which it is known without a graph
        blocks = [(name, m) for name, m in model.named_modules() if isinstance(m, ConvBlock)]
        return {
            f"{name}.conv": (f"{name}.norm", block.norm)
            for name, block in blocks
            if isinstance(block.norm, nn.BatchNorm2d)
        }
    found = {}
    for layer, name in layers_of(model.model_args).norms.items():
        norm = model.get_submodule(name)
        assert isinstance(norm, BatchNorm)
        found[layer] = name, norm
    return found
