"""Convolutions, linear layers and attention as ONNX, in the forms that run in int8."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.ao.quantization.fx._decomposed  # defines the operations of int8 graphs
from onnx import TensorProto
from torch import fx

from engines.onnx_writer import ORT_DOMAIN, UnknownOperation, Writer, arguments, is_call
from engines.program import layer_name

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed


def _is_int8(node: fx.Node) -> bool:
    """Whether a layer takes int8 values and has an int8 weight."""
    return is_call(node.args[0], quantized.dequantize_per_tensor.default) and is_call(
        node.args[1], quantized.dequantize_per_channel.default
    )


def _int8_weight(writer: Writer, weight: Any) -> tuple[np.ndarray, np.ndarray]:
    """The levels `[outputs, ...]` of an int8 weight, and its outputs' scales."""
    levels, scales, zero_points, axis, *_ = weight.args
    if axis != 0 or writer.array(zero_points).any():
        raise UnknownOperation("a weight that is not symmetric by its outputs")
    return writer.array(levels), writer.array(scales).astype(np.float32)


def _weight(writer: Writer, node: fx.Node, transpose: bool = False) -> str:
    """A layer's weight, int8 or not, from its graph's `[outputs, ...]`."""
    layer = layer_name(node)
    weight: Any = node.args[1]
    if is_call(weight, quantized.dequantize_per_channel.default):
        levels, scales = _int8_weight(writer, weight)
        small = writer.constant(levels.T.copy() if transpose else levels, f"{layer}.weight")
        inputs = [small, writer.constant(scales, f"{layer}.weight_scale")]
        axis = int(transpose)
        return writer.add("DequantizeLinear", inputs, f"{layer}.weight_value", axis=axis)
    array = writer.array(weight)
    return writer.constant(array.T.copy() if transpose else array, f"{layer}.weight")


def linear(writer: Writer, node: fx.Node) -> str:
    """A Gemm on features, a MatMul on tokens, or ONNX Runtime's product of int8 values."""
    values, weight, bias = arguments(node, None)
    layer, added = layer_name(node), [] if bias is None else [writer.value(bias)]
    if _is_int8(node) and writer.for_onnxruntime:
        small, *place = values.args
        scale, zero_point = _place(writer, place)
        levels, scales = _int8_weight(writer, weight)
        columns = writer.constant(levels.T.copy(), f"{layer}.weight")
        factors = writer.constant(scales, f"{layer}.weight_scale")
        inputs = [writer.value(small), columns, scale, factors, zero_point, "", *added]
        return writer.add("MatMulIntegerToFloat", inputs, layer, domain=ORT_DOMAIN)
    if writer.rank(values) == 2 and not is_call(weight, quantized.dequantize_per_channel.default):
        inputs = [writer.value(values), _weight(writer, node), *added]
        return writer.add("Gemm", inputs, layer, transB=1)
    inputs = [writer.value(values), _weight(writer, node, transpose=True)]
    product = writer.add("MatMul", inputs, f"{layer}.product")
    return writer.add("Add", [product, *added], layer) if added else product


def convolution(writer: Writer, node: fx.Node) -> str:
    """A Conv, of int8 values between (de)quantizing; or a ConvInteger where the output is float."""
    values, weight, bias, stride, padding, dilation, groups = arguments(
        node, None, [1, 1], [0, 0], [1, 1], 1
    )
    layer = layer_name(node)
    how: dict[str, Any] = {
        "kernel_shape": writer.shapes[0][weight][2:],
        "strides": stride,
        "pads": [*padding, *padding],
        "dilations": dilation,
        "group": groups,
    }
    if not _is_int8(node):
        added = [] if bias is None else [writer.value(bias)]
        return writer.add(
            "Conv", [writer.value(values), _weight(writer, node), *added], layer, **how
        )
    small, *place = values.args
    levels, scales = _int8_weight(writer, weight)
    units = (scales * place[0]).astype(np.float32)  # of the sums of products
    if _is_quantized(node):
        inputs = [writer.value(values), _weight(writer, node)]
        if bias is not None:
            counts = np.round(writer.array(bias).astype(np.float64) / units).astype(np.int32)
            parts = [writer.constant(counts, f"{layer}.bias")]
            parts += [writer.constant(units, f"{layer}.bias_scale")]
            inputs += [writer.add("DequantizeLinear", parts, f"{layer}.bias_value", axis=0)]
        return writer.add("Conv", inputs, layer, **how)
    _, zero_point = _place(writer, place)
    # Of signed weights ONNX Runtime (1.32, AVX2) multiplies 2 to 5 times more slowly.
    shifted = (levels.astype(np.int16) + 128).astype(np.uint8)
    inputs = [writer.value(small), writer.constant(shifted, f"{layer}.weight"), zero_point]
    inputs += [writer.constant(np.array(128, np.uint8))]
    sums = writer.add("ConvInteger", inputs, f"{layer}.sums", **how)
    last = writer.add("Cast", [sums], f"{layer}.cast", to=TensorProto.FLOAT)
    factors = writer.constant(units.reshape(-1, 1, 1), f"{layer}.scale")
    last = writer.add("Mul", [last, factors], f"{layer}.scaled")
    if bias is None:
        return last
    each = writer.constant(writer.array(bias).reshape(-1, 1, 1), f"{layer}.bias")
    return writer.add("Add", [last, each], layer)


def _is_quantized(node: fx.Node) -> bool:
    """Whether all that is made of a value, or of its ReLU, is one quantized value."""
    users = list(node.users)
    if len(users) == 1 and users[0].target is aten.relu.default:
        users = list(users[0].users)
    return len(users) == 1 and users[0].target is quantized.quantize_per_tensor.default


def quantize(writer: Writer, node: fx.Node) -> str:
    values, *place = node.args
    if is_call(values, quantized.dequantize_per_tensor.default) and [*values.args[1:]] == place:  # type: ignore[union-attr]
        return writer.value(values.args[0])  # type: ignore[union-attr]
    return writer.add("QuantizeLinear", [writer.value(values), *_place(writer, place)], node.name)


def dequantize(writer: Writer, node: fx.Node) -> str:
    small, *place = node.args
    return writer.add("DequantizeLinear", [writer.value(small), *_place(writer, place)], node.name)


def _place(writer: Writer, place: Sequence[Any]) -> list[str]:
    scale, zero_point, low, high, dtype = place
    limits = torch.iinfo(dtype)
    if (low, high) != (limits.min, limits.max):
        raise UnknownOperation("quantize to less than all levels")
    small = np.uint8 if dtype is torch.uint8 else np.int8
    return [writer.constant(np.float32(scale)), writer.constant(np.array(zero_point, small))]


def unbind(writer: Writer, node: fx.Node) -> str:
    """Queries, keys and values of `[B, N, 3*heads*d]` by one Transpose and a Split; what else is
    unbound waits for `item`."""
    permuted: Any = node.args[0]
    viewed: Any = permuted.args[0] if is_call(permuted, aten.permute.default) else None
    first = (*node.args[1:], 0)[0] == 0
    if not (first and is_call(viewed, aten.view.default) and permuted.args[1] == [2, 0, 3, 1, 4]):
        return writer.value(permuted)
    source = viewed.args[0]
    _, count, three, heads, size = writer.sizes(viewed)
    if _whole_attention(writer, node, heads):
        value = writer.value(source)
        return writer.add("Split", [value], node.name, three, axis=2, num_outputs=three)
    after = [-1, count, three * heads, size]
    name = f"{node.name}_heads"
    rows = writer.reshaped(writer.value(source), writer.sizes(source), after, f"{name}_rows")
    moved = writer.add("Transpose", [rows], name, perm=[0, 2, 1, 3])
    return writer.add("Split", [moved], node.name, outputs=three, axis=1, num_outputs=three)


def _whole_attention(writer: Writer, node: fx.Node, heads: int) -> bool:
    """Whether ONNX Runtime's own operation takes all between the unbound node and the tokens that
    attention gives; if so, it is noted for `attention`."""
    cores = {user for item in node.users for user in item.users}
    if not writer.for_onnxruntime or len(cores) != 1:
        return False
    (core,) = cores
    if not is_call(core, aten.scaled_dot_product_attention.default) or len(node.users) != 3:
        return False
    if [value.args[1] for value in core.args[:3]] != [0, 1, 2]:  # type: ignore[union-attr]
        return False
    last = core
    while len(last.users) == 1:
        (last,) = last.users
        if is_call(last, aten.transpose.int) and last.args[1:] == (1, 2) and len(last.users) == 1:
            (flat,) = last.users
            if is_call(flat, aten.flatten.using_ints) and flat.args[1:] == (2,):
                writer.whole[core] = heads
                writer.unmoved |= {last, flat}
                return True
        if not is_call(last, quantized.quantize_per_tensor.default):
            break
    return False


def item(writer: Writer, node: fx.Node) -> str:
    unbound, index = node.args
    whole = writer.names[unbound]  # type: ignore[index]
    if whole == unbound.name:  # type: ignore[union-attr]
        return f"{whole}.{index}" if index else whole
    if not is_call(unbound, aten.unbind.int):
        raise UnknownOperation("a part of several results")
    axis = (*unbound.args[1:], 0)[0]  # type: ignore[union-attr]
    which = writer.constant(np.array(index, np.int64))
    return writer.add("Gather", [whole, which], node.name, axis=axis)


def attention(writer: Writer, node: fx.Node) -> str:
    """softmax(q·kᵀ/√d)·v, in the form that runtimes fuse."""
    query, key, value, mask, dropout, causal = arguments(node, None, 0.0, False)
    if mask is not None or dropout or causal:
        raise UnknownOperation("attention with a mask")
    if node in writer.whole:
        inputs = [writer.value(one) for one in (query, key, value)]
        heads = writer.whole[node]
        return writer.add(
            "MultiHeadAttention", inputs, node.name, domain=ORT_DOMAIN, num_heads=heads
        )
    name, scale = node.name, writer.constant(np.float32(writer.sizes(query)[-1] ** -0.5))
    order = [*range(writer.rank(key) - 2), writer.rank(key) - 1, writer.rank(key) - 2]
    keys = writer.add("Transpose", [writer.value(key)], f"{name}_keys", perm=order)
    scores = writer.add("MatMul", [writer.value(query), keys], f"{name}_scores")
    scores = writer.add("Mul", [scores, scale], f"{name}_scaled")
    shares = writer.add("Softmax", [scores], f"{name}_shares", axis=-1)
    return writer.add("MatMul", [shares, writer.value(value)], name)
