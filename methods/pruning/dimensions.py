"""The prunable dimensions of a hybrid: which positions of which tensors belong to each unit.

A dimension is a row of units (channels, heads, layers, ...) that can be removed one by one. Its
members say where a unit lives in every tensor that produces, carries or consumes it.

torch-pruning (1.6.1) finds such groups by tracing. It is not used here: in the parallel fusions its
graph joins the two inputs of the concatenation, so that a CNN channel drags a token channel along,
and that a narrower head changes attention's scale no graph shows. The tests compare with its graph
where it is right, for the serial fusion.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model import HybridCNNTransformer

TARGETS = ("conv", "ffn", "heads", "head_dim", "embed", "depth")
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Member:
    """Where a dimension's units lie along one axis of one tensor."""

    tensor: str
    axis: int
    role: str  # 'out' makes the unit, 'norm' carries it, 'in' takes it
    index: Tensor  # [units, k] positions along the axis


@dataclass(frozen=True)
class Dimension:
    """A row of removable units. From each of `blocks` equal runs the same number must go."""

    name: str
    target: str
    size: int
    key: str  # model_args entry that holds the width
    position: int | None  # its place in that entry's list
    members: tuple[Member, ...] = ()
    blocks: int = 1

    @property
    def width(self) -> int:
        """The number that model_args holds: units in one block."""
        return self.size // self.blocks


def dimensions(model: HybridCNNTransformer, targets: Sequence[str]) -> list[Dimension]:
    """Every prunable dimension of the network whose target is among `targets`."""
    found = [
        *_conv(model),
        *_mlp(model),
        *(_transformer(model) if hasattr(model, "transformer") else ()),
    ]
    return [dimension for dimension in found if dimension.target in targets]


def cut(
    model_args: dict[str, Any], weights: Weights, removed: Sequence[tuple[Dimension, Tensor]]
) -> tuple[dict[str, Any], Weights]:
    """Arguments and weights of the network without the `removed` units of each dimension."""
    args, weights = _narrower(model_args, removed), dict(weights)
    kept: dict[tuple[str, int], Tensor] = {}
    for dimension, units in removed:
        for member in dimension.members:
            place = member.tensor, member.axis
            length = weights[member.tensor].shape[member.axis]
            mask = kept.setdefault(place, torch.ones(length, dtype=torch.bool))
            mask[member.index[units].flatten()] = False
    for (tensor, axis), mask in kept.items():
        weights[tensor] = weights[tensor].index_select(axis, mask.nonzero().flatten()).contiguous()
    for dimension, _ in removed:
        if dimension.target == "head_dim":
            _keep_scale(dimension, model_args, args, weights)
    for dimension, units in removed:
        if dimension.target == "depth":
            args, weights = _without_layers(args, weights, set(units.tolist()))
    return args, weights


def cut_args(
    model_args: dict[str, Any], removed: Sequence[tuple[Dimension, Tensor]]
) -> dict[str, Any]:
    """The arguments that `cut` gives; they hang on no weight."""
    args = _narrower(model_args, removed)
    for dimension, units in removed:
        if dimension.target == "depth":
            args, _ = _without_layers(args, {}, set(units.tolist()))
    return args


def _narrower(
    model_args: dict[str, Any], removed: Sequence[tuple[Dimension, Tensor]]
) -> dict[str, Any]:
    """The arguments with fewer units in each dimension; of layers, their number alone."""
    args = copy.deepcopy(model_args)
    for dimension, units in removed:
        gone = len(units) // dimension.blocks
        if dimension.position is None:
            args[dimension.key] -= gone
        else:
            args[dimension.key][dimension.position] -= gone
    return args


def _keep_scale(
    dimension: Dimension, before: dict[str, Any], after: dict[str, Any], weights: Weights
) -> None:
    """Attention divides by √head_dim; queries are scaled so that a narrower head gives the same."""
    layer = dimension.position
    assert layer is not None
    narrow, wide = after["head_dim"][layer], before["head_dim"][layer]
    rows = after["num_heads"][layer] * narrow
    for leaf in ("weight", "bias"):
        name = f"transformer.layers.{layer}.attention.qkv.{leaf}"
        weights[name] = weights[name].clone()
        weights[name][:rows] *= (narrow / wide) ** 0.5


def _without_layers(
    args: dict[str, Any], weights: Weights, gone: set[int]
) -> tuple[dict[str, Any], Weights]:
    """Without these layers and the exits behind them, nor one behind what is now the last."""
    stay = [i for i in range(args["num_layers"] + len(gone)) if i not in gone]
    for key in ("num_heads", "head_dim", "ffn_dim"):
        args[key] = [args[key][i] for i in stay]
    prefixes = {f"transformer.layers.{i}.": f"transformer.layers.{n}." for n, i in enumerate(stay)}
    exits = {f"layer_{i}": f"layer_{n}" for n, i in enumerate(stay[:-1])}
    prefixes.update({f"exits.{old}.": f"exits.{new}." for old, new in exits.items()})
    args["exits"] = [
        exits.get(place, place) for place in args["exits"] if place == "cnn" or place in exits
    ]
    renamed: Weights = {}
    for name, value in weights.items():
        if name.startswith(("transformer.layers.", "exits.layer_")):
            old = next((prefix for prefix in prefixes if name.startswith(prefix)), None)
            if old is None:
                continue
            name = prefixes[old] + name.removeprefix(old)
        renamed[name] = value
    return args, renamed


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


def _conv(model: HybridCNNTransformer) -> list[Dimension]:
    """Output channels of each convolution block."""
    args, found = model.model_args, []
    channels = args["cnn_channels"]
    for i, size in enumerate(channels):
        block, index = f"cnn.blocks.{i}", _units(size)
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
        found.append(Dimension(block, "conv", size, "cnn_channels", i, tuple(members)))
    return found


def _conv_exits(model: HybridCNNTransformer, index: Tensor) -> list[Member]:
    """What early exits take of the CNN's last channels."""
    members: list[Member] = []
    for place in model.model_args["exits"]:
        if place == "cnn":
            members += _norm(model, "exits.cnn.norm", index)
        if place == "cnn" or model.fusion == "parallel_attention":
            members += _layer(model, f"exits.{place}.head", 1, "in", index)
    return members


def _mlp(model: HybridCNNTransformer) -> list[Dimension]:
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


def _transformer(model: HybridCNNTransformer) -> list[Dimension]:
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


def _embed(model: HybridCNNTransformer) -> Dimension:
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
