"""The arithmetic of students: a network's arguments scaled, and its weights in parts."""

from __future__ import annotations

import copy
import fnmatch
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from methods.pruning.amounts import Removed
from methods.pruning.cutting import SHAPES, TARGETS, Weights, cut, cut_args
from methods.pruning.dimensions import dimensions
from methods.quantization.record import Quant, quantizable_layers
from model import HYBRID, architecture_of, blueprint, places_of, resolved_args
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
    (arXiv:2012.12877); what that cannot give, head_dim does. Of a network that is no hybrid `width`
    scales what its graph shows, and its `own` arguments make it anew before. `own` may name another
    architecture, and is then all of the student's arguments. Raises ValueError.
    """
    for key in FROM_DATA:
        if key in own:
            raise ValueError(f"student.{key} comes from the data; remove the key")
    if "exits" in own:
        raise ValueError("student.exits: remove the key; early_exit after distill adds exits")
    entering = architecture_of(model_args)
    if own.get("architecture", entering) != entering:
        if width < 1 or depth < 1:
            raise ValueError(
                f"{'width' if width < 1 else 'depth'} is of the network that enters, a {entering}; "
                "remove it, as a student of another architecture has its own arguments"
            )
        return resolved_args({**own, **{key: model_args[key] for key in FROM_DATA}})
    if entering != HYBRID:
        return _narrower(model_args, width, depth, own)
    own = {key: value for key, value in own.items() if key != "architecture"}
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


def _narrower(
    model_args: dict[str, Any], width: float, depth: float, own: dict[str, Any]
) -> dict[str, Any]:
    """As `student_args`, of a network that is no hybrid."""
    if depth < 1:
        raise ValueError(
            f"depth is of the hybrid's encoder layers; of a {architecture_of(model_args)} set "
            "width, or its own arguments in student"
        )
    args = copy.deepcopy(model_args)
    if own:  # what was pruned was of other widths
        args = resolved_args({k: v for k, v in args.items() if k not in (SHAPES, "exits")} | own)
        there = places_of(args)
        args["exits"] = [place for place in model_args["exits"] if place in there]
    if width == 1:
        return args
    widths = {d.name: _scaled(d.width, width) for d in dimensions(blueprint(args), TARGETS)}
    return cut_args(args, _spread(args, widths))


def _spread(args: dict[str, Any], widths: dict[str, int]) -> Removed:
    """What goes where evenly spaced units of each dimension stay, as many as `widths` says."""
    removed = []
    for dimension in dimensions(blueprint(args), TARGETS):
        goes = torch.ones(dimension.width, dtype=torch.bool)
        goes[_taken(dimension.width, widths[dimension.name])] = False
        removed.append((dimension, goes.repeat(dimension.blocks).nonzero().flatten()))
    return removed


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
    if architecture_of(args) != HYBRID:
        return cut(teacher_args, weights, _part(teacher_args, args))[1]
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


def _part(teacher_args: dict[str, Any], args: dict[str, Any]) -> Removed:
    """What of a network that is no hybrid goes in a narrower one."""
    return _spread(teacher_args, {d.name: d.width for d in dimensions(blueprint(args), TARGETS)})


def why_no_part(args: dict[str, Any], teacher_args: dict[str, Any]) -> str | None:
    """Why a network of `args` is not a narrower or shallower one of `teacher_args`."""
    student, teacher = architecture_of(args), architecture_of(teacher_args)
    if student != teacher:
        return f"it is a {student}, the teacher a {teacher}"
    if student != HYBRID:
        return _why_no_narrower(args, teacher_args)
    for key in {**teacher_args, **args}:
        mine, theirs = args.get(key), teacher_args.get(key)
        if key not in FREE and mine != theirs:
            return f"{key} is {mine}, the teacher's {theirs}"
    shallow = _with_layers(teacher_args, min(args["num_layers"], teacher_args["num_layers"]))
    for key in WIDTHS:
        widths, of_theirs = np.atleast_1d(args[key]), np.atleast_1d(shallow[key])
        if len(widths) != len(of_theirs) or (widths > of_theirs).any():
            return f"{key} is {args[key]}, the teacher's {teacher_args[key]}"
    return None


def _why_no_narrower(args: dict[str, Any], teacher_args: dict[str, Any]) -> str | None:
    for key in args.keys() | teacher_args.keys():
        if key not in (SHAPES, *FREE) and args.get(key) != teacher_args.get(key):
            return f"{key} is {args.get(key)}, the teacher's {teacher_args.get(key)}"
    mine, theirs = (
        {d.name: d.width for d in dimensions(blueprint(a), TARGETS)} for a in (args, teacher_args)
    )
    for name, width in mine.items():
        if width > theirs.get(name, 0):
            return f"{name} has {width} units, the teacher's {theirs.get(name, 'none')}"
    if mine.keys() != theirs.keys():
        return "its dimensions are others"
    left = cut_args(teacher_args, _part(teacher_args, args))
    return None if left.get(SHAPES) == args.get(SHAPES) else "its layers have other shapes"


def quant_of_student(quant: Quant, args: dict[str, Any]) -> Quant:
    """The same quantization, with masters; of layers that were found to stay float, those that it
    has too."""
    layers = quantizable_layers(blueprint(args))
    there = tuple(p for p in quant.float_layers if fnmatch.filter(layers, p))
    return replace(quant, float_layers=there, ranges=None, frozen=False)
