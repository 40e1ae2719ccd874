"""torch-pruning's stock pruner, for the benchmark of structural pruning."""

from __future__ import annotations

import torch_pruning as tp

from methods import costs
from model import HybridCNNTransformer
from stages.state import ModelState, build


def stock_cut(state: ModelState, keep: float, round_to: int | None = None) -> ModelState:
    """What MagnitudePruner leaves at the ratio that comes nearest to `keep` of the MACs."""
    whole = costs.count_macs(build(state))[0]
    low, high, best = 0.0, 0.95, None
    for _ in range(12):
        ratio = (low + high) / 2
        model = build(state)
        pruner = tp.pruner.MagnitudePruner(
            model,
            costs.example_image(model),
            importance=tp.importance.MagnitudeImportance(p=2),
            pruning_ratio=ratio,
            ignored_layers=[model.head],
            num_heads={
                layer.attention.qkv: layer.attention.num_heads for layer in model.transformer.layers
            },
            prune_head_dims=True,
            round_to=round_to,
        )
        pruner.step()
        found = described(model)
        left = costs.count_macs(build(found))[0] / whole
        if best is None or abs(left - keep) < best[0]:
            best = (abs(left - keep), found)
        low, high = (ratio, high) if left > keep else (low, ratio)
    assert best is not None
    return best[1]


def described(model: HybridCNNTransformer) -> ModelState:
    """The state of a network that torch-pruning has cut, its widths read from its tensors."""
    args = dict(model.model_args)
    args["cnn_channels"] = [block.conv.out_channels for block in model.cnn.blocks]
    layers = model.transformer.layers
    args["embed_dim"] = model.embed.out_features
    args["ffn_dim"] = [layer.fc1.out_features for layer in layers]
    args["head_dim"] = [
        layer.attention.proj.in_features // layer.attention.num_heads for layer in layers
    ]
    return ModelState(args, {n: v.detach().clone() for n, v in model.state_dict().items()})
