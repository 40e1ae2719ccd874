"""Rows of units that can be removed one by one, and networks without some of them.

A dimension is a row of units (channels, heads, layers, ...). Its members say where a unit lives in
every tensor that produces, carries or consumes it. Which there are: dimensions.py.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from machine.files import canonical_json
from model import blueprint

TARGETS = ("conv", "ffn", "heads", "head_dim", "embed", "depth")
SHAPES = "shapes"
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Member:
    """Where a dimension's units lie along one axis of one tensor."""

    tensor: str
    axis: int
    role: str  # 'out' makes the unit, 'norm' (or a PReLU's 'slope') carries it, 'in' takes it
    index: Tensor  # [units, k] positions along the axis


@dataclass(frozen=True)
class Dimension:
    """A row of removable units. From each of `blocks` equal runs the same number must go."""

    name: str
    target: str
    size: int
    key: str  # model_args entry that holds the width; SHAPES: the tensors themselves have it
    position: int | None  # its place in that entry's list
    members: tuple[Member, ...] = ()
    blocks: int = 1
    tied: tuple[int, ...] = ()  # further places in that list, which hold the same width

    @property
    def width(self) -> int:
        """The number that model_args holds: units in one block."""
        return self.size // self.blocks


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


def without_exits(model_args: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the network alone, without its exits' heads."""
    args = {**model_args, "exits": []}
    if SHAPES in args:
        args[SHAPES] = {k: v for k, v in args[SHAPES].items() if not k.startswith("exits.")}
    return args


def _narrower(
    model_args: dict[str, Any], removed: Sequence[tuple[Dimension, Tensor]]
) -> dict[str, Any]:
    """The arguments with fewer units in each dimension; of layers, their number alone."""
    args = copy.deepcopy(model_args)
    shapes: dict[str, list[int]] = {}
    for dimension, units in removed:
        if dimension.key == SHAPES:
            for member in dimension.members if len(units) else ():
                shape = shapes.setdefault(member.tensor, list(_shapes(model_args)[member.tensor]))
                shape[member.axis] -= member.index[units].numel()
            continue
        gone = len(units) // dimension.blocks
        if dimension.position is None:
            args[dimension.key] -= gone
        else:
            for place in (dimension.position, *dimension.tied):
                args[dimension.key][place] -= gone
    if shapes:
        args[SHAPES] = {**args.get(SHAPES, {}), **shapes}
    return args


def _shapes(model_args: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return _shapes_of(canonical_json(model_args))


@functools.lru_cache(maxsize=64)
def _shapes_of(about: bytes) -> dict[str, tuple[int, ...]]:
    network = blueprint(json.loads(about))
    return {name: tuple(value.shape) for name, value in network.state_dict().items()}


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
