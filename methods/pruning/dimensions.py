"""The prunable dimensions of a network: of the hybrid by its map, of any other by its graph.

The hybrid's are written down here, attention's heads and whole layers among them: that a narrower
head changes attention's scale no graph shows. The tests compare with torch-pruning's graph where
that is right, for the serial fusion.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from methods.pruning.cutting import (
    SHAPES,
    TARGETS,
    Dimension,
    Member,
    Weights,
    cut,
    cut_args,
)
from methods.pruning.graph import found_by_graph
from model import HYBRID, HybridCNNTransformer, Network, architecture_of, blueprint
from networks.args import richer

__all__ = [
    "TARGETS", "Dimension", "Member", "Weights", "cut", "cut_args", "dimensions", "left_alone",
    "with_exits",
]  # fmt: skip


def dimensions(model: Network, targets: Sequence[str]) -> list[Dimension]:
    """Every prunable dimension of the network whose target is among `targets`.

    Raises ValueError for a network whose graph cannot be followed.
    """
    if isinstance(model, HybridCNNTransformer):
        found = [
            *_conv(model),
            *_mlp(model),
            *(_transformer(model) if hasattr(model, "transformer") else ()),
        ]
    else:
        offered = model.dimensions()
        found = found_by_graph(model.model_args).dimensions if offered is None else offered
    return [dimension for dimension in found if dimension.target in targets]


def with_exits(model_args: dict[str, Any], places: Sequence[str]) -> dict[str, Any]:
    """The arguments with exits at these places, whose heads are as narrow as what they hear."""
    args = {**model_args, "exits": list(places)}
    if SHAPES not in args:
        return args
    now = {d.name: d.width for d in dimensions(blueprint(model_args), TARGETS)}
    whole = {key: value for key, value in args.items() if key != SHAPES}
    gone = [
        (d, torch.arange(d.size - now.get(d.name, 1)))  # which ones, no shape hangs on
        for d in dimensions(blueprint(whole), TARGETS)
    ]
    return cut_args(whole, gone)


def left_alone(model_args: dict[str, Any], targets: Sequence[str]) -> dict[str, str]:
    """Dimension of these targets that cannot be cut rightly → why."""
    if architecture_of(model_args) == HYBRID or blueprint(model_args).dimensions() is not None:
        return {}
    refused = found_by_graph(model_args).refused
    return {d.name: why for d, why in refused if d.target in targets}


# --- the map ------------------------------------------------------------------------------------


def _units(size: int, offset: int = 0, each: int = 1) -> Tensor:
    """`each` positions in a row for every unit: `[size, each]`."""
    return offset + torch.arange(size * each).view(size, each)


def _layer(
    model: nn.Module, name: str, axis: int, role: str, index: Tensor, bias: bool = True
) -> list[Member]:
    """A layer's weight along `axis`, and its bias where the axis is that of its outputs."""
    members = [Member(f"{name}.weight", axis, role, index)]
    if bias and axis == 0 and getattr(model.get_submodule(name), "bias", None) is not None:
        members.append(Member(f"{name}.bias", 0, role, index))
    return members


def _norm(model: nn.Module, name: str, index: Tensor) -> list[Member]:
    """Scale, shift and running statistics of a norm (an Identity has none)."""
    tensors = model.get_submodule(name).state_dict()
    return [Member(f"{name}.{n}", 0, "norm", index) for n, value in tensors.items() if value.ndim]


def _conv(model: Network) -> list[Dimension]:
    """Output channels of each convolution block; of those that residuals join, as one.

    Blocks that images are added to keep all channels.
    """
    channels = model.model_args["cnn_channels"]
    groups: list[list[int]] = [[]]  # of blocks; first those that are joined to the images
    for i, residual in enumerate(richer(model.model_args, "cnn_residual")):
        if residual:
            groups[-1].append(i)
        else:
            groups.append([i])
    found = []
    for first, *tied in groups[1:]:
        members = [member for i in (first, *tied) for member in _conv_block(model, i)]
        dimension = Dimension(
            f"cnn.blocks.{first}",
            "conv",
            channels[first],
            "cnn_channels",
            first,
            tuple(members),
            tied=tuple(tied),
        )
        found.append(dimension)
    return found


def _conv_block(model: Network, i: int) -> list[Member]:
    """Where the output channels of a convolution block lie."""
    args, block = model.model_args, f"cnn.blocks.{i}"
    channels = args["cnn_channels"]
    size, index = channels[i], _units(channels[i])
    members = _layer(model, f"{block}.conv", 0, "out", index)
    members += _norm(model, f"{block}.norm", index)
    if i + 1 < len(channels):
        following = f"cnn.blocks.{i + 1}"
        if args["cnn_separable"]:
            members += _layer(model, f"{following}.depthwise", 0, "norm", index)
        members += _layer(model, f"{following}.conv", 1, "in", index)
    elif model.fusion == "serial":
        members += _layer(model, "embed", 1, "in", index)
    else:
        members += _layer(model, "head", 1, "in", index)
        if model.fusion == "parallel":
            cells = args["mlp_grid"] ** 2
            members += _layer(model, "mlp.0", 1, "in", _units(size, each=cells))
    if i + 1 == len(channels):
        members += _conv_exits(model, index)
    if richer(args, "cnn_squeeze_excite")[i]:  # whose gates carry channels, and make none
        members += _layer(model, f"{block}.squeeze_excite.fc1", 1, "in", index)
        members += _layer(model, f"{block}.squeeze_excite.fc2", 0, "norm", index)
    return members


def _conv_exits(model: Network, index: Tensor) -> list[Member]:
    """What early exits take of the CNN's last channels."""
    members: list[Member] = []
    for place in model.model_args["exits"]:
        if place == "cnn":
            members += _norm(model, "exits.cnn.norm", index)
        if place == "cnn" or model.fusion == "parallel_attention":
            members += _layer(model, f"exits.{place}.head", 1, "in", index)
    return members


def _mlp(model: Network) -> list[Dimension]:
    """Widths of the parallel fusion's MLP path; pruned with target 'ffn'."""
    if model.fusion != "parallel":
        return []
    args, found = model.model_args, []
    for i, size in enumerate(args["mlp_dims"]):
        members = _layer(model, f"mlp.{3 * i}", 0, "out", _units(size))
        if i + 1 < len(args["mlp_dims"]):
            members += _layer(model, f"mlp.{3 * (i + 1)}", 1, "in", _units(size))
        else:
            members += _layer(model, "head", 1, "in", _units(size, args["cnn_channels"][-1]))
        found.append(Dimension(f"mlp.{3 * i}", "ffn", size, "mlp_dims", i, tuple(members)))
    return found


def _transformer(model: Network) -> list[Dimension]:
    args = model.model_args
    found = [_embed(model)]
    for i in range(args["num_layers"]):
        layer = f"transformer.layers.{i}"
        size, heads, dim = args["ffn_dim"][i], args["num_heads"][i], args["head_dim"][i]
        ffn = _layer(model, f"{layer}.fc1", 0, "out", _units(size))
        ffn += _layer(model, f"{layer}.fc2", 1, "in", _units(size))
        found.append(Dimension(f"{layer}.ffn", "ffn", size, "ffn_dim", i, tuple(ffn)))
        single = _units(heads * dim)  # [heads*d, 1], a row of the queries
        for name, index, blocks in (
            ("heads", single.view(heads, dim), 1),
            ("head_dim", single, heads),
        ):
            rows = torch.cat([index + part * heads * dim for part in range(3)], dim=1)  # q, k, v
            members = _layer(model, f"{layer}.attention.qkv", 0, "out", rows)
            members += _layer(model, f"{layer}.attention.proj", 1, "in", index)
            key = "num_heads" if name == "heads" else "head_dim"
            found.append(
                Dimension(f"{layer}.{name}", name, len(index), key, i, tuple(members), blocks)
            )
    if args["num_layers"]:
        found.append(
            Dimension("transformer.layers", "depth", args["num_layers"], "num_layers", None)
        )
    return found


def _embed(model: Network) -> Dimension:
    """The residual stream: everything that writes to it, normalises it or reads from it."""
    args = model.model_args
    size = args["embed_dim"]
    index = _units(size)
    members = _layer(model, "embed", 0, "out", index)
    members.append(Member("transformer.position.embedding", 2, "norm", index))
    if args["pooling"] == "class_token":
        members.append(Member("transformer.class_token", 2, "norm", index))
    for i in range(args["num_layers"]):
        layer = f"transformer.layers.{i}"
        members += _norm(model, f"{layer}.norm1", index)
        members += _layer(model, f"{layer}.attention.qkv", 1, "in", index)
        members += _layer(model, f"{layer}.attention.proj", 0, "out", index)
        members += _norm(model, f"{layer}.norm2", index)
        members += _layer(model, f"{layer}.fc1", 1, "in", index)
        members += _layer(model, f"{layer}.fc2", 0, "out", index)
    members += _norm(model, "transformer.norm", index)
    if args["pooling"] == "sequence":
        members += _layer(model, "transformer.score", 1, "in", index)
    offset = 0 if model.fusion == "serial" else args["cnn_channels"][-1]
    members += _layer(model, "head", 1, "in", _units(size, offset))
    for place in args["exits"]:
        if place != "cnn":
            members += _norm(model, f"exits.{place}.norm", index)
            members += _layer(model, f"exits.{place}.head", 1, "in", _units(size, offset))
    return Dimension("transformer.embed", "embed", size, "embed_dim", None, tuple(members))
