"""What the nodes of an exported graph say: names, shapes, arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind


def tensors_of(program: ExportedProgram) -> dict[fx.Node, str]:
    """The nodes that are parameters, or buffers that a state_dict keeps, with their names."""
    nodes = {node.name: node for node in program.graph.nodes}
    found = {}
    for spec in program.graph_signature.input_specs:
        kept = spec.kind is InputKind.PARAMETER or (
            spec.kind is InputKind.BUFFER and spec.persistent
        )
        if kept and spec.target is not None:
            found[nodes[spec.arg.name]] = spec.target
    return found


def is_layer(node: fx.Node) -> bool:
    """Whether it is a convolution or linear layer, or a call of their functions."""
    return named(node) in ("linear", "conv1d", "conv2d", "conv3d")


def named(node: fx.Node) -> str:
    """An operation's name, whatever its overload; none of what is no operation."""
    target = node.target
    return target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else ""


def shape_of(node: Any) -> tuple[int, ...]:
    """The shape of what a node gives; none of what is no tensor."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return tuple(int(size) for size in value.shape) if isinstance(value, torch.Tensor) else ()


def argument(node: fx.Node, name: str) -> Any:
    """What an operation was called with under a name of its schema, or that name's default."""
    for position, formal in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if formal.name == name:
            given = node.args[position] if position < len(node.args) else None
            return given if given is not None else node.kwargs.get(name, formal.default_value)
    return None


def blocks(old: Sequence[int], new: Sequence[int]) -> list[tuple[list[int], list[int]]]:
    """The axes of two shapes of one size in the smallest runs with equal products."""
    found, i, j = [], 0, 0
    while i < len(old) or j < len(new):
        before, after = list(range(i, min(i + 1, len(old)))), list(range(j, min(j + 1, len(new))))
        i, j = i + len(before), j + len(after)
        while (mine := math.prod(old[a] for a in before)) != (
            theirs := math.prod(new[a] for a in after)
        ):
            if mine < theirs:
                before.append(i)
                i += 1
            else:
                after.append(j)
                j += 1
        found.append((before, after))
    return found
