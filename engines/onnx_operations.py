"""WRITERS: every operation of a program's graph that is known, and the function that writes it."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from engines.onnx_layers import (
    attention,
    convolution,
    dequantize,
    item,
    linear,
    quantize,
    unbind,
)
from engines.onnx_writer import UnknownOperation, Writer, arguments, is_call

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed


# --- norms, pooling, activations -----------------------------------------------------------------


def _batch_norm(writer: Writer, node: fx.Node) -> str:
    values, weight, bias, mean, var, training, _, eps, *_ = node.args
    if training or any(one is None for one in (weight, bias, mean, var)):
        raise UnknownOperation("a batch norm without fixed values")
    inputs = [writer.value(one) for one in (values, weight, bias, mean, var)]
    return writer.add("BatchNormalization", inputs, node.name, epsilon=eps)


def _layer_norm(writer: Writer, node: fx.Node) -> str:
    values, shape, weight, bias, eps, _ = arguments(node, None, None, 1e-5, True)
    if weight is None:
        raise UnknownOperation("a layer norm without weights")
    inputs = [writer.value(one) for one in (values, weight, bias) if one is not None]
    return writer.add("LayerNormalization", inputs, node.name, axis=-len(shape), epsilon=eps)


def _group_norm(writer: Writer, node: fx.Node) -> str:
    """Each group's values in one row, normalised; then each channel's factor and summand."""
    values, groups, weight, bias, eps, _ = arguments(node, None, None, 1e-5, True)
    sizes = writer.sizes(values)
    rows = [sizes[0], groups, math.prod(sizes[1:]) // groups]
    grouped = writer.reshaped(writer.value(values), sizes, rows, f"{node.name}_rows")
    ones, zeros = (writer.constant(np.full(groups, v, np.float32)) for v in (1.0, 0.0))
    inputs = [grouped, ones, zeros]
    normal = writer.add("InstanceNormalization", inputs, f"{node.name}_normal", epsilon=eps)
    last = writer.reshaped(normal, rows, sizes, f"{node.name}_maps")
    for operation, one in (("Mul", weight), ("Add", bias)):
        if one is not None:
            each = writer.array(one).reshape(-1, *[1] * (len(sizes) - 2))
            name = writer.constant(each, f"{one.target}_{node.name}")
            last = writer.add(operation, [last, name], f"{node.name}_{operation.lower()}")
    return last


def _max_pool(writer: Writer, node: fx.Node) -> str:
    values, kernel, stride, padding, dilation, ceil = arguments(node, [], [0, 0], [1, 1], False)
    return writer.add(
        "MaxPool",
        [writer.value(values)],
        node.name,
        kernel_shape=kernel,
        strides=stride or kernel,
        pads=[*padding, *padding],
        dilations=dilation,
        ceil_mode=int(ceil),
    )


def _adaptive_average(writer: Writer, node: fx.Node) -> str:
    """Means of windows: those of equal size as AveragePool, others as products with factors."""
    values, after = node.args
    before = writer.sizes(values)[2:]  # type: ignore[arg-type]
    source = writer.value(values)
    if list(after) == [1, 1]:  # type: ignore[arg-type]
        return writer.add("GlobalAveragePool", [source], node.name)
    if not any(a % b for a, b in zip(before, after, strict=True)):  # type: ignore[arg-type]
        window = [a // b for a, b in zip(before, after, strict=True)]  # type: ignore[arg-type]
        return writer.add("AveragePool", [source], node.name, kernel_shape=window, strides=window)
    rows, columns = (_averages(a, b) for a, b in zip(before, after, strict=True))  # type: ignore[arg-type]
    left, right = f"{node.name}_rows", f"{node.name}_columns"
    tall = writer.add("MatMul", [writer.constant(rows, left), source], f"{node.name}_tall")
    return writer.add("MatMul", [tall, writer.constant(columns.T.copy(), right)], node.name)


def _averages(before: int, after: int) -> np.ndarray:
    """`[after, before]`: row i is the mean over torch's i-th window."""
    factors = np.zeros((after, before), np.float32)
    for i in range(after):
        first, last = i * before // after, -(-(i + 1) * before // after)
        factors[i, first:last] = 1 / (last - first)
    return factors


def _silu(writer: Writer, node: fx.Node) -> str:
    source = writer.value(node.args[0])
    gate = writer.add("Sigmoid", [source], f"{node.name}_gate")
    return writer.add("Mul", [source, gate], node.name)


def _gelu(writer: Writer, node: fx.Node) -> str:
    how = node.kwargs.get("approximate", "none")
    return writer.add("Gelu", [writer.value(node.args[0])], node.name, approximate=how)


def _softmax(writer: Writer, node: fx.Node) -> str:
    values, axis, dtype = arguments(node, None)
    if dtype is not None:
        raise UnknownOperation("softmax of another type")
    return writer.add("Softmax", [writer.value(values)], node.name, axis=axis)


def _plain(operation: str, **options: Any) -> Callable[[Writer, fx.Node], str]:
    """An operation of one value, by its ONNX name."""

    def write(writer: Writer, node: fx.Node) -> str:
        (values,) = arguments(node)
        return writer.add(operation, [writer.value(values)], node.name, **options)

    return write


def _arithmetic(operation: str) -> Callable[[Writer, fx.Node], str]:
    def write(writer: Writer, node: fx.Node) -> str:
        left, right = arguments(node)
        return writer.add(operation, [writer.value(left), writer.value(right)], node.name)

    return write


def _subtract(writer: Writer, node: fx.Node) -> str:
    """What torch's compiler has subtracted (see `subtract_what_must_stay`) is added here: runtimes
    fuse sums with what comes after them."""
    left, right = arguments(node)
    if is_call(right, aten.neg.default):
        return writer.add("Add", [writer.value(left), writer.value(right.args[0])], node.name)
    if isinstance(right, fx.Node) and right.op == "get_attr":
        negated = writer.constant(-writer.array(right), f"{right.target}_added")
        return writer.add("Add", [writer.value(left), negated], node.name)
    return writer.add("Sub", [writer.value(left), writer.value(right)], node.name)


def _reduce(operation: str) -> Callable[[Writer, fx.Node], str]:
    """The axes are kept, and dropped afterwards: what OpenVINO (seen in 2026.4) makes of a
    reduction that drops them, a factor and a rounding gives wrong values."""

    def write(writer: Writer, node: fx.Node) -> str:
        values, axes, keep = arguments(node, False)
        if not axes:
            raise UnknownOperation("a mean over all axes")
        inputs = [writer.value(values), writer.constant(np.array(axes, np.int64))]
        if keep:
            return writer.add(operation, inputs, node.name, keepdims=1)
        kept = writer.add(operation, inputs, f"{node.name}_kept", keepdims=1)
        return writer.add("Squeeze", [kept, inputs[1]], node.name)

    return write


# --- what moves values ---------------------------------------------------------------------------


def _same(writer: Writer, node: fx.Node) -> str:
    return writer.value(node.args[0])


def _reshape(writer: Writer, node: fx.Node) -> str:
    source: Any = node.args[0]
    before, after = writer.sizes(source), writer.sizes(node)
    return writer.reshaped(writer.value(source), before, after, node.name)


def _permute(writer: Writer, node: fx.Node) -> str:
    values, axes = arguments(node)
    order = [axis % writer.rank(values) for axis in axes]
    return writer.add("Transpose", [writer.value(values)], node.name, perm=order)


def _transpose(writer: Writer, node: fx.Node) -> str:
    values, first, second = arguments(node)
    order = list(range(writer.rank(values)))
    order[first], order[second] = order[second], order[first]
    return writer.add("Transpose", [writer.value(values)], node.name, perm=order)


def _squeeze(operation: str) -> Callable[[Writer, fx.Node], str]:
    def write(writer: Writer, node: fx.Node) -> str:
        values, axis = arguments(node)
        axes = writer.constant(np.array([axis], np.int64))
        return writer.add(operation, [writer.value(values), axes], node.name)

    return write


def _select(writer: Writer, node: fx.Node) -> str:
    values, axis, index = arguments(node)
    which = writer.constant(np.array(index, np.int64))
    return writer.add("Gather", [writer.value(values), which], node.name, axis=axis)


def _slice(writer: Writer, node: fx.Node) -> str:
    values, axis, start, end, step = arguments(node, 0, None, None, 1)
    ends = [start or 0, np.iinfo(np.int64).max if end is None else end, axis, step]
    inputs = [writer.constant(np.array([one], np.int64)) for one in ends]
    return writer.add("Slice", [writer.value(values), *inputs], node.name)


def _concatenate(writer: Writer, node: fx.Node) -> str:
    """A class token before tokens is a row of zeros that the token is added to: what is repeated
    for each image would need the batch's size, computed while it runs."""
    values, axis = arguments(node, 0)
    first = values[0]
    if len(values) == 2 and axis == 1 and is_call(first, aten.expand.default):
        token, sizes = first.args[0], writer.sizes(node)
        if token.op == "get_attr" and len(sizes) == 3 and writer.rank(token) == 3:
            ahead = writer.sizes(first)[1]
            pads = writer.constant(np.array([0, ahead, 0, 0, 0, 0], np.int64))
            padded = writer.add("Pad", [writer.value(values[1]), pads], f"{node.name}_room")
            rows = np.zeros((1, *sizes[1:]), np.float32)
            rows[:, :ahead] = writer.array(token)
            name = writer.constant(rows, f"{token.target}_{node.name}")
            return writer.add("Add", [padded, name], node.name)
    return writer.add("Concat", [writer.value(one) for one in values], node.name, axis=axis)


def _expand(writer: Writer, node: fx.Node) -> str:
    values, *_ = node.args
    sizes = writer.sizes(node)
    parts = [writer.constant(np.array([size], np.int64)) for size in sizes]
    some = next(n for n in writer.graph.graph.nodes if n.op == "placeholder")
    if -1 in sizes:
        batch = writer.add("Shape", [writer.value(some)], f"{node.name}_batch", start=0, end=1)
        parts[sizes.index(-1)] = batch
    shape = writer.add("Concat", parts, f"{node.name}_shape", axis=0)
    return writer.add("Expand", [writer.value(values), shape], node.name)


def _nothing(writer: Writer, node: fx.Node) -> str:
    """A size, which what is written here knows."""
    return ""


WRITERS: dict[Any, Callable[[Writer, fx.Node], str]] = {
    # layers
    aten.linear.default: linear,
    aten.conv2d.default: convolution,
    quantized.quantize_per_tensor.default: quantize,
    quantized.dequantize_per_tensor.default: dequantize,
    quantized.dequantize_per_channel.default: _nothing,  # by its layer, see `_weight`
    aten.scaled_dot_product_attention.default: attention,
    # norms and pooling
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.max_pool2d.default: _max_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_average,
    aten.mean.dim: _reduce("ReduceMean"),
    aten.sum.dim_IntList: _reduce("ReduceSum"),
    # value by value
    aten.relu.default: _plain("Relu"),
    aten.hardswish.default: _plain("HardSwish"),
    aten.neg.default: _plain("Neg"),
    aten.gelu.default: _gelu,
    aten.silu.default: _silu,
    aten.softmax.int: _softmax,
    aten.add.Tensor: _arithmetic("Add"),
    aten.mul.Tensor: _arithmetic("Mul"),
    aten.div.Tensor: _arithmetic("Div"),
    aten.sub.Tensor: _subtract,
    # the same values
    aten.dropout.default: _same,
    aten.contiguous.default: _same,
    aten.clone.default: _same,
    aten.sym_size.int: _nothing,
    # values in other places
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten.flatten.using_ints: _reshape,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.squeeze.dim: _squeeze("Squeeze"),
    aten.unsqueeze.default: _squeeze("Unsqueeze"),
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.unbind.int: unbind,
    operator.getitem: item,
    aten.cat.default: _concatenate,
    aten.expand.default: _expand,
}
