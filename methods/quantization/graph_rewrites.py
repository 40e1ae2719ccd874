"""Changes to an int8 graph that keep its meaning and suit the compiler."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from methods.exported import CONVERSION, MOVING, drop_unused

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed

LARGEST_BIAS = 2**30  # in levels, half of what int32 holds
LARGEST_PATCHES = 2**18  # bytes of patches beyond which oneDNN's convolution is faster


def quantize_early(graph: fx.GraphModule) -> None:
    """Quantize values before they are moved, where the layer that made them can do it."""
    for node in list(graph.graph.nodes):
        if node.target is not quantized.quantize_per_tensor.default:
            continue
        source: Any = node.args[0]
        first = None
        while source.target in MOVING and len(source.users) == 1:
            source, first = source.args[0], source
        if first is None:
            continue
        with graph.graph.inserting_before(first):
            early = graph.graph.call_function(node.target, (source, *node.args[1:]))
        first.replace_input_with(source, early)
        node.replace_all_uses_with(node.args[0])
        graph.graph.erase_node(node)
    graph.recompile()


def products_of_rounded(graph: fx.GraphModule) -> None:
    """Let what multiplies maps read them as rounded where others read them so: a gate's channels.

    A convolution then gives 8 bits a value instead of these and 32 bits beside them.
    """
    place = {node: number for number, node in enumerate(graph.graph.nodes)}
    for node in place:
        if node.target is not aten.mul.Tensor:
            continue
        for maps in [value for value in node.args if isinstance(value, fx.Node)]:
            rounded = [u for u in maps.users if u.target is quantized.quantize_per_tensor.default]
            if len(rounded) != 1 or maps.meta["val"].ndim != 4 or place[rounded[0]] > place[node]:
                continue
            known = next(iter(rounded[0].users))
            with graph.graph.inserting_before(node):
                args = (rounded[0], *known.args[1:])
                read = graph.graph.call_function(
                    quantized.dequantize_per_tensor.default, args, known.kwargs
                )
            read.meta = dict(known.meta)
            node.replace_input_with(maps, read)
    graph.recompile()


def convolutions_as_products(graph: fx.GraphModule) -> None:
    """Write small int8 convolutions as products of patches and weights (im2col), the same values.

    For one image, calling oneDNN's convolution takes longer than the convolution. `graph` is one
    exported for one shape, which its nodes know (`meta`).
    """
    for number, node in enumerate(list(graph.graph.nodes)):
        if node.target is not aten.conv2d.default:
            continue
        defaults = [None, [1, 1], [0, 0], [1, 1], 1]
        arguments: list[Any] = [*node.args, *defaults[len(node.args) - 2 :]]
        images, weight, bias, stride, padding, dilation, groups = arguments
        is_int8 = (
            images.target is quantized.dequantize_per_tensor.default
            and weight.target is quantized.dequantize_per_channel.default
            and weight.args[0].op == "get_attr"
        )
        if not is_int8 or groups != 1 or dilation != [1, 1]:
            continue
        kernel = _attribute(graph, str(weight.args[0].target))  # int8 [O, C, rows, columns]
        lacking = -kernel.shape[1] % 4  # AMX and VNNI multiply four int8 channels at once
        kernel = F.pad(kernel.permute(0, 2, 3, 1), (0, lacking))  # [O, rows, columns, C]
        batch, _, high, wide = node.meta["val"].shape
        if batch * high * wide * kernel[0].numel() > LARGEST_PATCHES:
            continue
        rows, columns, depth = kernel.shape[1:]
        source, zero_point = images.args[0], images.args[2]
        height, width = (
            int(size) + 2 * pad
            for size, pad in zip(source.meta["val"].shape[2:], padding, strict=True)
        )
        line = width * depth
        size = [batch, high, wide, rows, columns * depth]  # one line of a patch lies in one piece
        strides = [height * line, stride[0] * line, stride[1] * depth, line, 1]
        pads = [0, lacking, padding[1], padding[1], padding[0], padding[0]]
        graph.register_buffer(f"_kernel_{number}", kernel.flatten(1).contiguous())

        def call(target: Any, *args: Any, **options: Any) -> fx.Node:
            return graph.graph.call_function(target, args, options)

        with graph.graph.inserting_before(node):
            last = call(aten.permute.default, source, [0, 2, 3, 1])
            last = call(aten.constant_pad_nd.default, last, pads, zero_point)
            last = call(aten.contiguous.default, last)
            patches = call(aten.as_strided.default, last, size, strides)
            patches = call(aten.flatten.using_ints, patches, 3, 4)
            patches = call(images.target, patches, *images.args[1:], **images.kwargs)
            matrix = graph.graph.get_attr(f"_kernel_{number}")
            matrix = call(weight.target, matrix, *weight.args[1:], **weight.kwargs)
            product = call(aten.linear.default, patches, matrix, bias)
            maps = call(aten.permute.default, product, [0, 3, 1, 2])
        node.replace_all_uses_with(maps)
    graph.graph.eliminate_dead_code()
    drop_unused(graph)
    graph.recompile()


def scales_that_biases_fit(graph: fx.GraphModule) -> None:
    """Coarsen the weights of channels that are all but constant: the bias hides what they add.

    ONNX Runtime makes an int32 of a convolution's bias, in units of input scale × weight scale; of
    a channel whose weights are zero or tiny it then overflows, unsaid (seen in 1.32).
    """
    for node in graph.graph.nodes:
        if node.target not in (aten.conv2d.default, aten.linear.default):
            continue
        values, weight, bias = (*node.args, None)[:3]
        is_int8 = weight.target is quantized.dequantize_per_channel.default
        if not is_int8 or values.target is not quantized.dequantize_per_tensor.default or not bias:
            continue
        levels, scales, bias = (
            _attribute(graph, str(one.target)).detach() for one in (*weight.args[:2], bias)
        )
        least = bias.abs() / (values.args[1] * LARGEST_BIAS)
        coarser = torch.maximum(scales, least.to(scales.dtype))
        factors = (scales / coarser).view(-1, *[1] * (levels.ndim - 1))
        levels.copy_((levels * factors).round())
        scales.copy_(coarser)


def features_as_tokens(graph: fx.GraphModule) -> None:
    """Let int8 linear layers on features `[B, C]` take them as one token, `[B, 1, C]`.

    Written as ONNX, such a layer is then a MatMul, which ONNX Runtime computes in int8, and not a
    Gemm, which it does only where the output is int8 as well (seen in 1.32: the head ran in float).
    Features that were a token before, such as a mean over tokens, are taken as they were then.
    """
    value_by_value = {
        quantized.quantize_per_tensor.default,
        quantized.dequantize_per_tensor.default,
        aten.relu.default,
        aten.dropout.default,
    }
    for node in list(graph.graph.nodes):
        if node.target is not aten.linear.default or node.meta["val"].ndim != 2:
            continue
        source: Any = node.args[0]
        if source.target is not quantized.dequantize_per_tensor.default:
            continue
        first = node
        while source.target in value_by_value and len(source.users) == 1:
            first, source = source, source.args[0]
        with graph.graph.inserting_before(first):
            if source.target is aten.squeeze.dim and source.args[1] == 1:
                token = source.args[0]
            elif source.target is aten.select.int and source.args[1:] == (1, 0):
                cut = (source.args[0], 1, 0, 1)
                token = graph.graph.call_function(aten.slice.Tensor, cut)
            else:
                token = graph.graph.call_function(aten.unsqueeze.default, (source, 1))
        first.replace_input_with(source, token)
        with graph.graph.inserting_after(node):
            flat = graph.graph.call_function(aten.squeeze.dim, (node, 1))
        node.replace_all_uses_with(flat, delete_user_cb=lambda user, flat=flat: user is not flat)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def products_give_bf16(graph: fx.GraphModule) -> None:
    """Let int8 linear layers whose values are wanted in bfloat16 alone give them in it themselves.

    That is the form in which torchao recognises it (int8-mixed-bf16). Without bfloat16 in the
    graph nothing changes.
    """
    for node in list(graph.graph.nodes):
        if node.target is not CONVERSION or node.kwargs.get("dtype") is not torch.bfloat16:
            continue
        layer = node.args[0]
        if not _is_int8_linear(layer) or len(layer.users) > 1:
            continue
        for value in layer.all_input_nodes:
            with graph.graph.inserting_before(layer):
                layer.replace_input_with(value, _converted(graph, value, torch.bfloat16))
        node.replace_all_uses_with(layer)
        graph.graph.erase_node(node)
    graph.recompile()


def _is_int8_linear(node: fx.Node) -> bool:
    if node.target is not aten.linear.default:
        return False
    return node.args[0].target is quantized.dequantize_per_tensor.default  # type: ignore[union-attr]


def _converted(graph: fx.GraphModule, value: fx.Node, dtype: torch.dtype) -> fx.Node:
    return graph.graph.call_function(torch.ops.prims.convert_element_type.default, (value, dtype))


def subtract_what_must_stay(graph: fx.GraphModule) -> None:
    """Write x + c as x - (-c) where c is a constant or an input: the same to the bit.

    Inductor (seen in 2.14) fuses linear + add into one kernel that adds in place, and the place may
    be a constant (the position embedding, at batch 1) or an input (the residual stream, in a part
    between exits), which then grows at every call.
    """
    for number, node in enumerate(graph.graph.nodes):
        if node.target is not torch.ops.aten.add.Tensor or node.kwargs:
            continue
        operands = [a for a in node.args[:2] if isinstance(a, fx.Node)]
        fixed = [a for a in operands if a.op in ("get_attr", "placeholder")]
        if len(operands) != 2 or len(fixed) != 1:
            continue
        other = next(a for a in operands if a is not fixed[0])
        with graph.graph.inserting_before(node):
            if fixed[0].op == "get_attr":
                value = _attribute(graph, str(fixed[0].target))
                graph.register_buffer(f"_negated_{number}", -value.detach())
                negated = graph.graph.get_attr(f"_negated_{number}")
            else:
                negated = graph.graph.call_function(torch.ops.aten.neg.default, (fixed[0],))
            new = graph.graph.call_function(torch.ops.aten.sub.Tensor, (other, negated))
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _attribute(graph: fx.GraphModule, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(graph.get_submodule(owner), leaf)
