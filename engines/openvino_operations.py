"""What a graph's operations are in OpenVINO, but for layers: norms, pooling, activations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import openvino as ov
import openvino.opset15 as ops
import torch
from torch import Tensor

from engines.openvino_moves import MOVES, Value, constant, integers, lengths_of, rank
from engines.program import EngineError

aten = torch.ops.aten


# --- attention, norms, pooling -------------------------------------------------------------------


def _attention(
    query: Value,
    key: Value,
    value: Value,
    mask: Any = None,
    dropout: float = 0.0,
    causal: bool = False,
    *,
    scale: float | None = None,
) -> Value:
    """Written out, which OpenVINO fuses into one kernel."""
    if mask is not None or dropout or causal:
        raise EngineError("openvino: attention with a mask is not known here")
    if scale is None:
        scale = lengths_of(query)[-1] ** -0.5
    scores = ops.matmul(query, key, False, True)
    scores = ops.softmax(ops.multiply(scores, constant(scale)), rank(query) - 1)
    return ops.matmul(scores, value, False, False)


def _layer_norm(
    values: Value,
    shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    *_: Any,
) -> Value:
    axes = list(range(-len(shape), 0))
    normal = ops.mvn(values, integers(axes), True, eps, "inside_sqrt")
    return _scaled(normal, weight, bias)


def _scaled(values: Value, weight: Any, bias: Any) -> Value:
    if weight is not None:
        values = ops.multiply(values, constant(weight))
    return values if bias is None else ops.add(values, constant(bias))


def _batch_norm(
    maps: Value, weight: Any, bias: Any, mean: Tensor, var: Tensor, *rest: Any
) -> Value:
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    return ops.batch_norm_inference(maps, *map(constant, (weight, bias, mean, var)), rest[2])


def _group_norm(
    maps: Value, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5, *_: Any
) -> Value:
    channels = lengths_of(maps)[1]
    weight = torch.ones(channels) if weight is None else weight
    bias = torch.zeros(channels) if bias is None else bias
    return ops.group_normalization(maps, constant(weight), constant(bias), groups, eps)


def _pairs(value: Sequence[int]) -> list[int]:
    """One number for both directions, or one for each."""
    return [*value, *value] if len(value) == 1 else list(value)


def _max_pool(
    maps: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil: bool = False,
) -> Value:
    around, window = _pairs(padding), _pairs(kernel)
    found = ops.max_pool(
        maps,
        _pairs(stride or kernel),
        _pairs(dilation),
        around,
        around,
        window,
        "ceil_torch" if ceil else "floor",
    )
    return found.output(0)


def _windows(
    maps: Value,
    kernel: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    ceil: bool = False,
    count_padding: bool = True,
    divisor: int | None = None,
) -> Value:
    if divisor is not None:
        raise EngineError("openvino: avg_pool2d with a divisor is not known here")
    around, window = _pairs(padding), _pairs(kernel)
    rounding = "ceil_torch" if ceil else "floor"
    where = _pairs(stride or kernel), around, around, window
    return ops.avg_pool(maps, *where, not count_padding, rounding)


def _average_pool(maps: Value, size: Sequence[int]) -> Value:
    """Windows of equal size are averaged as such, which is faster."""
    after, before = _pairs(size), lengths_of(maps)[2:]
    if after == [1, 1]:
        return _reduced(ops.reduce_mean)(maps, [2, 3], True)
    if not any(a % b for a, b in zip(before, after, strict=True)):
        window = [a // b for a, b in zip(before, after, strict=True)]
        return _windows(maps, window)
    return ops.adaptive_avg_pool(maps, integers(after))


def _resized(mode: str) -> Callable[..., Value]:
    """Nearest and bilinear `interpolate`."""

    def write(maps: Value, size: Any, *rest: Any) -> Value:
        *corners, factors = rest
        height, width = lengths_of(maps)[2:]
        if size is None:
            size = [int(height * factors[0]), int(width * factors[1])]
        aligned = bool(corners and corners[0])
        how = "align_corners" if aligned else "half_pixel" if corners else "asymmetric"
        return ops.interpolate(
            maps,
            integers(list(size)),
            mode,
            "sizes",
            coordinate_transformation_mode=how,
            nearest_mode="floor",
            axes=integers([2, 3]),
        )

    return write


def _reduced(reduce: Callable[..., ov.Node]) -> Callable[..., Value]:
    """Over axes that are dropped by an operation of its own: what OpenVINO (seen in 2026.4) makes
    of a reduction that drops them, a factor and a rounding, gives wrong values."""

    def write(values: Value, axes: Sequence[int], keep: bool = False) -> Value:
        found = reduce(values, integers(list(axes)), keep_dims=True)
        return found if keep else ops.squeeze(found, integers(list(axes)))

    return write


# --- value by value ------------------------------------------------------------------------------


def _added(write: Callable[..., ov.Node]) -> Callable[..., Value]:
    """A sum or difference, its second operand times `alpha`."""

    def found(left: Value, right: Value, *, alpha: float = 1) -> Value:
        right = constant(right)
        if alpha != 1:
            right = ops.multiply(right, constant(alpha))
        return write(constant(left), right)

    return found


def _elementwise(write: Callable[..., ov.Node]) -> Callable[..., Value]:
    return lambda *values: write(*map(constant, values))


def _clamp(values: Value, low: float | None = None, high: float | None = None) -> Value:
    if low is not None and high is not None:
        return ops.clamp(values, low, high)
    if low is not None:
        values = ops.maximum(values, constant(low))
    return values if high is None else ops.minimum(values, constant(high))


def _elu(values: Value, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Value:
    if (scale, input_scale) != (1, 1):
        raise EngineError("openvino: elu with a scale is not known here")
    return ops.elu(values, alpha)


def _prelu(values: Value, weight: Tensor) -> Value:
    shape = [1, -1, *[1] * (rank(values) - 2)]
    return ops.prelu(values, constant(weight.reshape(shape) if weight.numel() > 1 else weight))


OPERATIONS: dict[Any, Callable[..., Value]] = {
    # attention, norms, pooling
    aten.scaled_dot_product_attention.default: _attention,
    aten.layer_norm.default: _layer_norm,
    aten.batch_norm.default: _batch_norm,
    aten.group_norm.default: _group_norm,
    aten.max_pool2d.default: _max_pool,
    aten.avg_pool2d.default: _windows,
    aten.adaptive_avg_pool2d.default: _average_pool,
    aten.mean.dim: _reduced(ops.reduce_mean),
    aten.sum.dim_IntList: _reduced(ops.reduce_sum),
    aten.amax.default: _reduced(ops.reduce_max),
    aten.upsample_nearest2d.vec: _resized("nearest"),
    aten.upsample_bilinear2d.vec: _resized("linear_onnx"),
    # products
    aten.matmul.default: lambda left, right: ops.matmul(
        *map(constant, (left, right)), False, False
    ),
    aten.bmm.default: lambda left, right: ops.matmul(*map(constant, (left, right)), False, False),
    aten.einsum.default: lambda equation, values: ops.einsum(
        [*map(constant, values)], equation.replace(" ", "")
    ),
    # value by value
    aten.relu.default: ops.relu,
    aten.gelu.default: lambda values, approximate="none": ops.gelu(
        values, "erf" if approximate == "none" else "tanh"
    ),
    aten.silu.default: ops.swish,
    aten.sigmoid.default: ops.sigmoid,
    aten.tanh.default: ops.tanh,
    aten.hardswish.default: ops.hswish,
    aten.hardsigmoid.default: ops.hsigmoid,
    aten.hardtanh.default: lambda values, low=-1.0, high=1.0: ops.clamp(values, low, high),
    aten.relu6.default: lambda values: ops.clamp(values, 0.0, 6.0),
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _clamp,
    aten.leaky_relu.default: lambda values, slope=0.01: ops.prelu(values, constant(slope)),
    aten.prelu.default: _prelu,
    aten.elu.default: _elu,
    aten.mish.default: ops.mish,
    aten.exp.default: ops.exp,
    aten.sqrt.default: ops.sqrt,
    aten.abs.default: ops.abs,
    aten.neg.default: _elementwise(ops.negative),
    aten.pow.Tensor_Scalar: _elementwise(ops.power),
    aten.softmax.int: lambda values, axis, *_: ops.softmax(values, axis),
    aten.log_softmax.int: lambda values, axis, *_: ops.log_softmax(values, axis),
    aten.add.Tensor: _added(ops.add),
    aten.sub.Tensor: _added(ops.subtract),
    aten.div.Tensor: _elementwise(ops.divide),
    aten.mul.Tensor: _elementwise(ops.multiply),
    aten.maximum.default: _elementwise(ops.maximum),
    aten.minimum.default: _elementwise(ops.minimum),
    **MOVES,
}
