"""Networks in bfloat16: a graph of which convolutions, linear layers and attention are cast.

bfloat16 is float32 with 8 bits of mantissa for 24, which matrix units multiply into float32 sums.
What adds up or normalises many values stays float32, as under autocast: residual sums and
positions, layer and group norms, softmax, means over tokens. So do the heads, whose logits could
else be equal by rounding. Batch norms are folded into their convolutions before these are rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._pytree import tree_map_only

from methods.exported import CONVERSION, CUTTING, MOVING, drop_unused
from methods.layers import LAYERS, NORMS, last_products, layers_of, norm_behind
from methods.quantization.record import Quant, float_layer_names, quantizable_layers
from model import HybridCNNTransformer, Network

FLOAT32, BFLOAT16 = "float32", "bfloat16"
HEADS = ("head", "score")  # last part of the names of the layers that stay float32

aten = torch.ops.aten
ATTENTION = aten.scaled_dot_product_attention.default
# What else is computed in bfloat16 where it follows a product: it looks at each value by itself, or
# chooses one of some.
BETWEEN = {
    *(aten.relu.default, aten.gelu.default, aten.silu.default, aten.hardswish.default),
    *(aten.dropout.default, aten.max_pool2d.default, aten.hardtanh.default, aten.relu6.default),
    *(aten.leaky_relu.default, aten.elu.default, aten.hardsigmoid.default, aten.sigmoid.default),
    *(aten.tanh.default, aten.mul.Tensor, aten.cat.default, aten.chunk.default),
    *(aten.split.Tensor, aten.split_with_sizes.default, aten.slice.Tensor, aten.select.int),
    *(aten.contiguous.default, aten.clone.default, aten.unsqueeze.default, aten.squeeze.dim),
    *(aten.unflatten.int, aten.pad.default, aten.constant_pad_nd.default),
}


def cast_layers(model: Network, quant: Quant | None = None) -> list[str]:
    """Names of the layers that are computed in bfloat16, those apart that `quant` makes int8."""
    layers = quantizable_layers(model)
    names = layers if quant is None else float_layer_names(model, quant.float_layers)
    heads = () if isinstance(model, HybridCNNTransformer) else layers_of(model.model_args).heads
    return [
        name
        for name in layers
        if name in names and name not in heads and name.rpartition(".")[2] not in HEADS
    ]


def float32_layers(model: Network, quant: Quant | None = None) -> list[str]:
    """Names of the layers that stay float32: heads, and norms that are not folded away."""
    folded = (
        ()
        if isinstance(model, HybridCNNTransformer)
        else layers_of(model.model_args).norms.values()
    )
    layers = quantizable_layers(model)
    names = layers if quant is None else float_layer_names(model, quant.float_layers)
    cast = cast_layers(model, quant)
    norms = (
        nn.LayerNorm,
        nn.GroupNorm,
        *(() if isinstance(model, HybridCNNTransformer) else NORMS),
    )
    return [
        name
        for name, module in model.named_modules()
        if (isinstance(module, norms) and name not in folded)
        or (name in names and name not in cast)
    ]


def in_bfloat16(graph: fx.GraphModule) -> fx.GraphModule:
    """`graph` itself, with its products in bfloat16; int8 layers stay int8, inputs and outputs
    float32. Of a float network or of an int8 one, exported for any batch size.

    The weights of cast layers are bfloat16 from here on.
    """
    heads = last_products(graph)
    _fold_batch_norms(graph, heads)
    attended = {
        _origin(value)
        for node in graph.graph.nodes
        if node.target is ATTENTION
        for value in node.args[:3]
    }
    narrow: set[fx.Node] = set()  # nodes whose values are bfloat16
    for node in list(graph.graph.nodes):
        if _is_cast(node) and node not in heads:
            _narrow_weights(graph, node)
            narrow |= {value for value in node.all_input_nodes if value.op == "get_attr"}
            computes = True
        elif node.target in MOVING | CUTTING | BETWEEN:
            computes = all(value in narrow for value in _values(node))
        else:
            computes = node.target is ATTENTION
        for value in _values(node):
            if computes and value not in narrow:
                narrow.add(_converted(graph, value, torch.bfloat16, for_=node))
            elif not computes and value in narrow:
                _converted(graph, value, torch.float32, for_=node)
        if computes:
            narrow.add(node)
            node.meta = _meta(node, torch.bfloat16)
        elif node in attended:  # before its values are moved, so that these are half as many bytes
            narrow.add(_converted(graph, node, torch.bfloat16))
    graph.graph.eliminate_dead_code()
    drop_unused(graph)
    graph.recompile()
    return graph


def _is_cast(node: fx.Node) -> bool:
    weight: Any = node.args[1] if node.target in LAYERS else None
    if weight is None or weight.op != "get_attr":
        return False
    return weight.target.removesuffix(".weight").rpartition(".")[2] not in HEADS


def _values(node: fx.Node) -> list[fx.Node]:
    """What a node takes, without sizes."""
    return [v for v in node.all_input_nodes if not isinstance(v.meta.get("val"), torch.SymInt)]


def _origin(value: fx.Node) -> fx.Node:
    """Where values come from that were only moved."""
    while value.target in MOVING | CUTTING:
        value = value.args[0]  # type: ignore[assignment]
    return value


def _converted(
    graph: fx.GraphModule, value: fx.Node, dtype: torch.dtype, for_: fx.Node | None = None
) -> fx.Node:
    """`value` in another type right behind it, for one of its users (None: for all)."""
    known = [n for n in value.users if n.target is CONVERSION and n.kwargs["dtype"] is dtype]
    if known:
        new = known[0]
    else:
        with graph.graph.inserting_after(value):
            new = graph.graph.call_function(CONVERSION, (value,), {"dtype": dtype})
        new.meta = _meta(value, dtype)
    for user in [for_] if for_ is not None else list(value.users):
        if user is not new:
            user.replace_input_with(value, new)
    return new


def _meta(node: fx.Node, dtype: torch.dtype) -> dict[str, Any]:
    """What a node says of itself, with values of another type."""
    retyped = tree_map_only(Tensor, lambda value: value.to(dtype), node.meta.get("val"))
    return {**node.meta, "val": retyped}


def _narrow_weights(graph: fx.GraphModule, node: fx.Node) -> None:
    for value in node.all_input_nodes:
        if value.op == "get_attr":
            place = str(value.target)
            _set(graph, place, _get(graph, place).to(torch.bfloat16))
            value.meta = _meta(value, torch.bfloat16)


def _fold_batch_norms(graph: fx.GraphModule, heads: set[fx.Node]) -> None:
    """Into the layers before them that are cast."""
    for norm in list(graph.graph.nodes):
        if norm.target is not aten.batch_norm.default:
            continue
        conv = norm.args[0]
        if not _is_cast(conv) or conv in heads or norm_behind(conv) is None:
            continue
        weight, bias = (*conv.args, None)[1:3]
        scale, shift, mean, var = (
            None if value is None else _get(graph, str(value.target)) for value in norm.args[1:5]
        )
        assert mean is not None and var is not None
        old = None if bias is None else _get(graph, str(bias.target))
        folded = fuse_conv_bn_weights(
            _get(graph, str(weight.target)), old, mean, var, norm.args[7], scale, shift
        )
        place = str(weight.target).removesuffix("weight") + "bias"
        for name, value in zip((str(weight.target), place), folded, strict=True):
            _set(graph, name, value)
        if bias is None:
            with graph.graph.inserting_before(conv):
                bias = graph.graph.get_attr(place)
            bias.meta = norm.args[3].meta
            conv.args = (*conv.args[:2], bias, *conv.args[3:])
        norm.replace_all_uses_with(conv)
        graph.graph.erase_node(norm)


def _get(graph: fx.GraphModule, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(graph.get_submodule(owner), leaf).detach()


def _set(graph: fx.GraphModule, name: str, value: Tensor) -> None:
    """Another tensor in the place of one, or where there is none yet."""
    owner, _, leaf = name.rpartition(".")
    module = graph.get_submodule(owner)
    module.register_parameter(leaf, None)
    module.register_parameter(leaf, nn.Parameter(value.detach(), requires_grad=False))
