"""What a network's graph says of its layers: which are called, what follows them, which are last.

A layer is a module that is exactly an nn.Conv2d or nn.Linear and is called as such: functions on
bare parameters (the projections in nn.MultiheadAttention) and subclasses with a `forward` of their
own are none. The hybrid's are known without a graph.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import fx, nn

from machine.files import canonical_json
from methods.exported import WIDTHS, structure

aten = torch.ops.aten
LAYERS: dict[Any, type[nn.Module]] = {
    aten.conv2d.default: nn.Conv2d,
    aten.linear.default: nn.Linear,
}
PRODUCTS = {  # of weights, of which int8 computes those of layers alone
    *LAYERS,
    *(aten.conv1d.default, aten.conv3d.default, aten.conv1d.padding, aten.conv2d.padding),
    *(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input),
}
NORMS = (nn.BatchNorm2d, nn.BatchNorm1d)


class Layers(NamedTuple):
    """By name, the layers of a network in the order in which it calls them."""

    called: tuple[str, ...]
    norms: dict[str, str]  # layer → the batch norm behind it, which can be folded into it
    heads: tuple[str, ...]  # those whose products become logits, without another between
    products_beside: int  # how many products with weights are of no layer


def layers_of(model_args: Mapping[str, Any]) -> Layers:
    """The layers of a network of these arguments. Raises NetworkError where it has no graph."""
    own = {key: value for key, value in model_args.items() if key not in WIDTHS}
    return _layers_of(canonical_json(own))


@functools.lru_cache(maxsize=64)
def _layers_of(about: bytes) -> Layers:
    called: dict[str, None] = {}
    norms: dict[str, str] = {}
    heads: dict[str, None] = {}
    beside = 0
    for graph in structure(json.loads(about)):
        norms |= foldable_norms(graph)
        last = last_products(graph)
        for node in graph.graph.nodes:
            if node.target in LAYERS and (name := called_layer(node)) is not None:
                called[name] = None
                heads |= {name: None} if node in last else {}
            else:
                beside += node.target in PRODUCTS
    return Layers(tuple(called), norms, tuple(heads), beside)


def called_layer(node: fx.Node) -> str | None:
    """The layer whose product a node of an exported graph is; None for all else."""
    kind = LAYERS.get(node.target)
    name, innermost = _innermost(node)
    return name if kind is not None and innermost == _full_name(kind) else None


def module_of(node: fx.Node) -> str:
    """The name of the innermost module that called the operation; '' for the network itself."""
    return _innermost(node)[0]


def foldable_norms(graph: fx.GraphModule) -> dict[str, str]:
    """Layer → the batch norm behind it, where nothing else reads what the layer gives or holds."""
    found = {}
    for node in graph.graph.nodes:
        if (norm := norm_behind(node)) is not None:
            found[str(called_layer(node))] = norm
    return found


def last_products(graph: fx.GraphModule) -> set[fx.Node]:
    """The products from which a graph's logits come, its first output where it has several."""
    waiting: list[Any] = [node for node in graph.graph.nodes if node.op == "output"]
    waiting = list(waiting[0].all_input_nodes[:1])
    found, seen = set(), set()
    while waiting:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        if node.target in PRODUCTS:
            found.add(node)
        else:
            waiting += node.all_input_nodes
    return found


def norm_behind(layer: fx.Node) -> str | None:
    """The name of the batch norm that can be folded into a layer's product; None without one."""
    if called_layer(layer) is None:
        return None
    norm, weight = next(iter(layer.users)), layer.args[1]
    assert isinstance(weight, fx.Node)
    if len(layer.users) > 1 or len(weight.users) > 1 or norm.target is not aten.batch_norm.default:
        return None
    name, kind = _innermost(norm)
    known = kind in map(_full_name, NORMS)
    still = norm.args[3] is not None and norm.args[5] is False  # by its running statistics
    # Of a linear layer torch folds one on features `[B, C]` alone, and with a gain.
    fits = layer.target is aten.conv2d.default or (
        layer.meta["val"].ndim == 2 and norm.args[1] is not None
    )
    return name if known and still and fits else None


def _innermost(node: fx.Node) -> tuple[str, str]:
    stack = list(node.meta.get("nn_module_stack", {}).values())
    name, kind = stack[-1] if stack else ("", "")
    return name, kind if isinstance(kind, str) else _full_name(kind)


def _full_name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
