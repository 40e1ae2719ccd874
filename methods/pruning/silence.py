"""Which tensors are zero where an output channel is silent, in any network: by its graph."""

from __future__ import annotations

import torch
from torch import fx
from torch.export import ExportedProgram

from methods.pruning.nodes import argument, is_layer, named, shape_of, tensors_of

NORMS = ("batch_norm", "layer_norm", "group_norm")


def silent_tensors_of(program: ExportedProgram) -> dict[str, list[str]]:
    """Layer → what to zero with a filter, weight first, so that what follows sees nothing.

    Left out: what makes the logits, depthwise filters, single ones, and those before a function
    that makes something of nothing (a sigmoid's gate would stand half open).
    """
    tensors = tensors_of(program)
    last: dict[fx.Node, bool] = {}
    found: dict[str, list[str]] = {}
    never: set[str] = set()
    for node in program.graph.nodes:
        if not is_layer(node) or node.args[1] not in tensors:
            continue
        weight = tensors[node.args[1]]
        layer = weight.rpartition(".")[0]
        after, norm = list(node.users), None
        if len(after) == 1 and named(after[0]) in NORMS:
            norm = after[0]
            after = list(norm.users)
        filters, channels = shape_of(node.args[1])[0], shape_of(node.args[0])[1]
        depthwise = named(node) != "linear" and argument(node, "groups") == channels > 1
        if filters == 1 or depthwise or _is_last(node, last) or any(map(_wakes, after)):
            never.add(layer)
        wanted = [weight, tensors.get(argument(node, "bias"))]
        if norm is not None:
            still = "running_mean" if named(norm) == "batch_norm" else "weight"
            wanted += [tensors.get(argument(norm, name)) for name in ("bias", still)]
        owned = found.setdefault(layer, [])
        owned += [tensor for tensor in wanted if tensor is not None and tensor not in owned]
    return {layer: owned for layer, owned in found.items() if layer not in never}


def _is_last(node: fx.Node, known: dict[fx.Node, bool]) -> bool:
    """Whether no other layer lies between this one and the network's output, on some way."""
    if node not in known:
        users = [user for user in node.users if not is_layer(user)]
        known[node] = any(user.op == "output" or _is_last(user, known) for user in users)
    return known[node]


def _wakes(node: fx.Node) -> bool:
    """Whether a function of one value makes something of zero."""
    target, name = node.target, named(node).rstrip("_")
    if not isinstance(target, torch._ops.OpOverload) or len(node.all_input_nodes) != 1:
        return False
    if torch.Tag.pointwise in target.tags or name in ("hardsigmoid", "sigmoid", "softplus"):
        return bool(target(torch.zeros(1), *node.args[1:], **node.kwargs))
    return name == "softmax"
