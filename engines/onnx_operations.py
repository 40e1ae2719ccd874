"""WRITERS: every operation of a program's graph that is known, and the function that writes it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from engines.onnx_layers import attention, convolution, dequantize, linear, quantize
from engines.onnx_moves import MOVES
from engines.onnx_writer import UnknownOperation, Writer, arguments, bound, is_call

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed


# --- norms, pooling, activations -----------------------------------------------------------------


def _batch_norm(writer: Writer, node: fx.Node) -> str:
    values, weight, bias, mean, var, training, _, eps, *_ = node.args
    if training or mean is None or var is None:
        raise UnknownOperation("a batch norm without fixed values")
    scale = np.ones(writer.sizes(mean), np.float32) if weight is None else writer.array(weight)  # type: ignore[arg-type]
    shift = np.zeros(writer.sizes(mean), np.float32) if bias is None else writer.array(bias)  # type: ignore[arg-type]
    inputs = [writer.value(values)]
    inputs += [writer.constant(scale, f"{node.name}.scale")]
    inputs += [writer.constant(shift, f"{node.name}.shift")]
    inputs += [writer.value(mean), writer.value(var)]
    return writer.add("BatchNormalization", inputs, node.name, epsilon=eps)


def _layer_norm(writer: Writer, node: fx.Node) -> str:
    values, shape, weight, bias, eps, _ = arguments(node, None, None, 1e-5, True)
    scale = np.ones(shape, np.float32) if weight is None else writer.array(weight)
    inputs = [writer.value(values), writer.constant(scale, f"{node.name}.scale")]
    inputs += [] if bias is None else [writer.value(bias)]
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


def _pairs(value: Sequence[int]) -> list[int]:
    """One number for both directions, or one for each."""
    return [*value, *value] if len(value) == 1 else list(value)


def _max_pool(writer: Writer, node: fx.Node) -> str:
    about = bound(node)
    return writer.add(
        "MaxPool",
        [writer.value(about["self"])],
        node.name,
        **_windows(about),
        dilations=_pairs(about["dilation"]),
    )


def _average_pool(writer: Writer, node: fx.Node) -> str:
    about = bound(node)
    if about["divisor_override"] is not None:
        raise UnknownOperation("avg_pool2d with a divisor")
    return writer.add(
        "AveragePool",
        [writer.value(about["self"])],
        node.name,
        **_windows(about),
        count_include_pad=int(about["count_include_pad"]),
    )


def _windows(about: dict[str, Any]) -> dict[str, Any]:
    padding = _pairs(about["padding"])
    return {
        "kernel_shape": _pairs(about["kernel_size"]),
        "strides": _pairs(about["stride"] or about["kernel_size"]),
        "pads": [*padding, *padding],
        "ceil_mode": int(about["ceil_mode"]),
    }


def _adaptive_average(writer: Writer, node: fx.Node) -> str:
    """Means of windows: those of equal size as AveragePool, others as products with factors."""
    values, size = arguments(node)
    after, before = _pairs(size), writer.sizes(values)[2:]
    source = writer.value(values)
    if after == [1, 1]:
        return writer.add("GlobalAveragePool", [source], node.name)
    if not any(a % b for a, b in zip(before, after, strict=True)):
        window = [a // b for a, b in zip(before, after, strict=True)]
        return writer.add("AveragePool", [source], node.name, kernel_shape=window, strides=window)
    rows, columns = (_averages(a, b) for a, b in zip(before, after, strict=True))
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


def _resize(mode: str) -> Callable[[Writer, fx.Node], str]:
    """Nearest and bilinear `interpolate`."""

    def write(writer: Writer, node: fx.Node) -> str:
        about = bound(node)
        corners = about.get("align_corners")
        how = {None: "asymmetric", False: "half_pixel", True: "align_corners"}[corners]
        size = writer.constant(np.array(writer.sizes(node)[2:], np.int64))
        return writer.add(
            "Resize",
            [writer.value(node.args[0]), "", "", size],
            node.name,
            mode=mode,
            coordinate_transformation_mode=how,
            nearest_mode="floor",
            axes=[2, 3],
        )

    return write


def _silu(writer: Writer, node: fx.Node) -> str:
    source = writer.value(node.args[0])
    gate = writer.add("Sigmoid", [source], f"{node.name}_gate")
    return writer.add("Mul", [source, gate], node.name)


def _arithmetic(operation: str) -> Callable[[Writer, fx.Node], str]:
    def write(writer: Writer, node: fx.Node) -> str:
        left, right = (writer.value(one) for one in node.args)
        factor = node.kwargs.get("alpha", 1)
        if factor != 1:
            right = writer.add("Mul", [right, writer.value(factor)], f"{node.name}_scaled")
        return writer.add(operation, [left, right], node.name)

    return write


def _subtract(writer: Writer, node: fx.Node) -> str:
    """What torch's compiler has subtracted (see `subtract_what_must_stay`) is added here: runtimes
    fuse sums with what comes after them."""
    left: Any = node.args[0]
    right: Any = node.args[1]
    if node.kwargs:
        return _arithmetic("Sub")(writer, node)
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


# --- value by value, and products ----------------------------------------------------------------


def _with(operation: str, **names: str) -> Callable[[Writer, fx.Node], str]:
    """An operation of one value, by its ONNX name; `names` of its options in torch."""

    def write(writer: Writer, node: fx.Node) -> str:
        about = bound(node)
        options = {name: about[its] for name, its in names.items()}
        if about.get("dtype") is not None:
            raise UnknownOperation(f"{node.target} of another type")
        return writer.add(operation, [writer.value(node.args[0])], node.name, **options)

    return write


def _clip(writer: Writer, node: fx.Node) -> str:
    values, *ends = arguments(node, -1.0, 1.0)
    bounds = [writer.constant(np.float32(end)) if end is not None else "" for end in ends]
    return writer.add("Clip", [writer.value(values), *bounds], node.name)


def _clamp(writer: Writer, node: fx.Node) -> str:
    about = bound(node)
    ends = about["min"], about.get("max")
    bounds = [writer.constant(np.float32(end)) if end is not None else "" for end in ends]
    return writer.add("Clip", [writer.value(node.args[0]), *bounds], node.name)


def _elu(writer: Writer, node: fx.Node) -> str:
    values, alpha, scale, input_scale = arguments(node, 1.0, 1.0, 1.0)
    if (scale, input_scale) != (1, 1):
        raise UnknownOperation("elu with a scale")
    return writer.add("Elu", [writer.value(values)], node.name, alpha=float(alpha))


def _prelu(writer: Writer, node: fx.Node) -> str:
    values, weight = arguments(node)
    slopes = writer.array(weight).reshape(-1, *[1] * (writer.rank(values) - 2))
    name = writer.constant(slopes, f"{weight}_{node.name}")
    return writer.add("PRelu", [writer.value(values), name], node.name)


def _einsum(writer: Writer, node: fx.Node) -> str:
    equation, values = node.args[:2]
    inputs = [writer.value(one) for one in values]  # type: ignore[union-attr]
    return writer.add("Einsum", inputs, node.name, equation=str(equation).replace(" ", ""))


def _nothing(writer: Writer, node: fx.Node) -> str:
    """A weight, which its layer writes, see `_weight`."""
    return ""


WRITERS: dict[Any, Callable[[Writer, fx.Node], str]] = {
    # layers
    aten.linear.default: linear,
    aten.conv2d.default: convolution,
    quantized.quantize_per_tensor.default: quantize,
    quantized.dequantize_per_tensor.default: dequantize,
    quantized.dequantize_per_channel.default: _nothing,
    aten.scaled_dot_product_attention.default: attention,
    # norms and pooling
    aten.batch_norm.default: _batch_norm,
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _average_pool,
    aten.adaptive_avg_pool2d.default: _adaptive_average,
    aten.mean.dim: _reduce("ReduceMean"),
    aten.sum.dim_IntList: _reduce("ReduceSum"),
    aten.amax.default: _reduce("ReduceMax"),
    aten.upsample_nearest2d.vec: _resize("nearest"),
    aten.upsample_bilinear2d.vec: _resize("linear"),
    # value by value, and products
    aten.relu.default: _with("Relu"),
    aten.hardswish.default: _with("HardSwish"),
    aten.hardsigmoid.default: lambda w, n: w.add(
        "HardSigmoid", [w.value(n.args[0])], n.name, alpha=1 / 6
    ),
    aten.hardtanh.default: _clip,
    aten.relu6.default: lambda w, n: w.add(
        "Clip", [w.value(n.args[0]), w.value(0.0), w.value(6.0)], n.name
    ),
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.leaky_relu.default: _with("LeakyRelu", alpha="negative_slope"),
    aten.prelu.default: _prelu,
    aten.elu.default: _elu,
    aten.gelu.default: _with("Gelu", approximate="approximate"),
    aten.silu.default: _silu,
    aten.mish.default: _with("Mish"),
    aten.sigmoid.default: _with("Sigmoid"),
    aten.tanh.default: _with("Tanh"),
    aten.exp.default: _with("Exp"),
    aten.sqrt.default: _with("Sqrt"),
    aten.abs.default: _with("Abs"),
    aten.neg.default: _with("Neg"),
    aten.softmax.int: _with("Softmax", axis="dim"),
    aten.log_softmax.int: _with("LogSoftmax", axis="dim"),
    aten.add.Tensor: _arithmetic("Add"),
    aten.mul.Tensor: _arithmetic("Mul"),
    aten.div.Tensor: _arithmetic("Div"),
    aten.sub.Tensor: _subtract,
    aten.pow.Tensor_Scalar: _arithmetic("Pow"),
    aten.maximum.default: _arithmetic("Max"),
    aten.minimum.default: _arithmetic("Min"),
    aten.matmul.default: _arithmetic("MatMul"),
    aten.bmm.default: _arithmetic("MatMul"),
    aten.einsum.default: _einsum,
    **MOVES,
}
