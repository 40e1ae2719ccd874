"""The arithmetic of students: a network's arguments scaled, and its weights in parts."""

from __future__ import annotations

import copy
import fnmatch
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from methods.pruning.dimensions import TARGETS, Weights, cut, dimensions
from methods.quantization.record import Quant, quantizable_layers
from model import blueprint
from networks.args import ModelArgs, exit_places

MULTIPLE = 8  # widths of a scaled student are multiples of this
FROM_DATA = ("image_size", "in_channels", "num_classes")
PER_LAYER = ("num_heads", "head_dim", "ffn_dim")
WIDTHS = ("cnn_channels", "mlp_dims", "embed_dim", "num_layers", *PER_LAYER)
FREE = (*WIDTHS, "exits", "dropout", "stochastic_depth")  # where a part may differ from the whole


def student_args(
    model_args: dict[str, Any], width: float, depth: float, own: dict[str, Any]
) -> dict[str, Any]:
    """Resolved `model_args` scaled by `width` and `depth`, then with a student's `own` over them.

    Widths become multiples of 8, at least 8, but never more than they were. Layers that go are
    spread evenly over the depth. Heads keep their size and become fewer, as in DeiT's family
    (arXiv:2012.12877); what that cannot give, head_dim does. Raises ValueError.
    """
    for key in FROM_DATA:
        if key in own:
            raise ValueError(f"student.{key} comes from the data; remove the key")
    if "exits" in own:
        raise ValueError("student.exits: remove the key; early_exit after distill adds exits")
    args, own = copy.deepcopy(model_args), dict(own)
    layers = args["num_layers"]
    args = _with_layers(args, max(1, round(depth * layers)) if layers else 0)
    if isinstance(own.get("num_layers"), int) and 0 <= own["num_layers"] <= 256:
        args = _with_layers(args, own["num_layers"])  # lists fit the number that is asked for
    if width < 1:
        parallel = own.get("fusion", args["fusion"]) == "parallel"
        for key in ("cnn_channels", "mlp_dims" if parallel else "ffn_dim"):
            args[key] = [_scaled(value, width) for value in args[key]]
        if not parallel:
            args["embed_dim"] = _scaled(args["embed_dim"], width)
            for i, (heads, dim) in enumerate(zip(args["num_heads"], args["head_dim"], strict=True)):
                args["num_heads"][i] = fewer = max(1, round(width * heads))
                args["head_dim"][i] = _scaled(dim, width * heads / fewer)
    if own.keys() & {"embed_dim", "num_heads"} and "head_dim" not in own:
        own["head_dim"] = None  # embed_dim / num_heads, as in any model_args
    resolved = ModelArgs(**{**args, **own, "exits": []}).resolved()
    there = exit_places(resolved["fusion"], resolved["num_layers"])
    return {**resolved, "exits": [place for place in args["exits"] if place in there]}


def _with_layers(args: dict[str, Any], count: int) -> dict[str, Any]:
    """With `count` encoder layers, the per-layer widths taken from evenly spaced ones."""
    layers = args["num_layers"]
    if count == layers or not layers:
        return args
    lists = {key: [args[key][i] for i in _taken(layers, count)] for key in PER_LAYER}
    return {**args, "num_layers": count, **lists}


def _taken(size: int, count: int) -> list[int]:
    """`count` evenly spaced ones of `size`."""
    return [int((i + 0.5) * size / count) for i in range(count)]


def _scaled(value: int, factor: float) -> int:
    return min(value, max(MULTIPLE, MULTIPLE * round(factor * value / MULTIPLE)))


def inherited(teacher_args: dict[str, Any], weights: Weights, args: dict[str, Any]) -> Weights:
    """A part of a teacher's weights in the shapes of `args`: weight selection, arXiv:2311.18823.

    Of each width evenly spaced units are taken, as of the layers. Early exits are left out.
    """
    now = {**teacher_args, "exits": []}
    weights = {name: value for name, value in weights.items() if not name.startswith("exits.")}
    for targets in (["depth"], [target for target in TARGETS if target != "depth"]):
        removed = []
        for dimension in dimensions(blueprint(now), targets):
            wanted = args[dimension.key]
            wanted = wanted if dimension.position is None else wanted[dimension.position]
            goes = torch.ones(dimension.width, dtype=torch.bool)
            goes[_taken(dimension.width, wanted)] = False
            removed.append((dimension, goes.repeat(dimension.blocks).nonzero().flatten()))
        now, weights = cut(now, weights, removed)
    return weights


def why_no_part(args: dict[str, Any], teacher_args: dict[str, Any]) -> str | None:
    """Why a network of `args` is not a narrower or shallower one of `teacher_args`."""
    for key, theirs in teacher_args.items():
        if key not in FREE and args[key] != theirs:
            return f"{key} is {args[key]}, the teacher's {theirs}"
    shallow = _with_layers(teacher_args, min(args["num_layers"], teacher_args["num_layers"]))
    for key in WIDTHS:
        mine, theirs = np.atleast_1d(args[key]), np.atleast_1d(shallow[key])
        if len(mine) != len(theirs) or (mine > theirs).any():
            return f"{key} is {args[key]}, the teacher's {teacher_args[key]}"
    return None


def quant_of_student(quant: Quant, args: dict[str, Any]) -> Quant:
    """The same quantization, with masters; of layers that were found to stay float, those that it
    has too."""
    layers = quantizable_layers(blueprint(args))
    there = tuple(p for p in quant.float_layers if fnmatch.filter(layers, p))
    return replace(quant, float_layers=there, ranges=None, frozen=False)
