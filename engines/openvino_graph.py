"""A program as a graph of OpenVINO's operations, in the form that its CPU plugin runs fastest.

An int8 layer is written as FakeQuantize on what it takes and int8 weights with a scale a channel:
of that, and not of every other order of the same operations, OpenVINO makes int8 kernels.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import torch
from torch import Tensor, fx

from engines.program import LAYERS, EngineError, Program, layer_name
from machine.processor import has_vnni
from methods.exported import CONVERSION

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed

Value = Any  # an ov.Node or ov.Output, a Tensor of weights, or numbers
QUANTIZE = quantized.quantize_per_tensor.default
DEQUANTIZE = quantized.dequantize_per_tensor.default
# What leaves values on the levels that they were rounded to.
LEVEL_KEEPING = (
    aten.flatten.using_ints, aten.permute.default, aten.transpose.int, aten.max_pool2d.default,
    aten.unsqueeze.default, aten.squeeze.dim, aten.view.default, QUANTIZE,
)  # fmt: skip


def openvino_model(program: Program, batch: int | None) -> ov.Model:
    """`program` for `batch` images (None: any number), not yet compiled.

    A layer's operation has the layer's name. Raises EngineError for an operation that is not known.
    """
    graph = program.graph
    inputs: list[ov.Node] = []
    values: dict[fx.Node, Value] = {}
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            shape = ov.PartialShape([-1 if batch is None else batch, *program.inputs[len(inputs)]])
            inputs.append(ops.parameter(shape, np.float32, name=node.name))
            values[node] = inputs[-1].output(0)
        elif node.op == "get_attr":
            values[node] = _attribute(graph, str(node.target))
        elif node.op == "output":
            found = fx.map_arg(node.args[0], values.__getitem__)
            outputs = found if isinstance(found, list | tuple) else (found,)
            return ov.Model([ops.result(value) for value in outputs], inputs, "program")
        elif node.users:  # what only guards the shape has none
            values[node] = _operation(node, values)
    raise AssertionError("a graph ends with its output")


def _operation(node: fx.Node, values: dict[fx.Node, Value]) -> Value:
    if node.target is QUANTIZE and _is_rounded(node):
        return values[node.args[0]]  # type: ignore[index]
    write = OPERATIONS.get(node.target)
    if write is None:
        raise EngineError(f"openvino: {node.name}: no way is known to write {node.target}")
    args, options = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    named = (layer_name(node),) if node.target in LAYERS else ()
    return _output(write(*named, *args, **options))


def _is_rounded(node: fx.Node) -> bool:
    """Whether what is quantized already lies on the very same levels."""
    source: Any = node.args[0]
    while source.target in LEVEL_KEEPING:
        source = source.args[0]
    return source.target is DEQUANTIZE and source.args[1:] == node.args[1:]


def _attribute(graph: fx.GraphModule, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(graph.get_submodule(owner), leaf).detach()


def _constant(value: Any) -> Any:
    """Weights and numbers as float32 constants; what is a node stays it."""
    if isinstance(value, Tensor):
        return ops.constant(value.float().contiguous().numpy())
    return ops.constant(np.float32(value)) if isinstance(value, int | float) else value


def _integers(value: Any) -> ov.Node:
    """Numbers, some of which may be known at run time alone (a batch's size), as one int64 list."""
    if not isinstance(value, list | tuple):
        value = [value]
    if all(isinstance(number, int) for number in value):
        return ops.constant(np.array(value, dtype=np.int64))
    return ops.concat([_integers(n) if isinstance(n, int) else n for n in value], 0)


def _rank(value: Value) -> int:
    return len(value.get_partial_shape())


def _output(value: Value) -> Value:
    """What an operation gives, where it gives one thing: of that a shape can be asked."""
    return value.output(0) if isinstance(value, ov.Node) else value


# --- layers ------------------------------------------------------------------------------------


class _Int8(NamedTuple):
    """An int8 weight: its levels `[O, ...]`, and a scale for each output channel."""

    levels: Tensor
    scales: Tensor


def _int8_weight(levels: Tensor, scales: Tensor, zero_points: Tensor, *place: Any) -> _Int8:
    if zero_points.any():
        raise EngineError("openvino: int8 weights with zero points are not known here")
    return _Int8(levels, scales)


def _weight(weight: Tensor | _Int8, groups: int = 1) -> ov.Node:
    """`[O, ...]`, or with groups `[groups, O / groups, ...]`."""
    levels = weight.levels if isinstance(weight, _Int8) else weight
    leading = (len(levels),) if groups == 1 else (groups, len(levels) // groups)
    shaped = levels.reshape(*leading, *levels.shape[1:])
    if not isinstance(weight, _Int8):
        return _constant(shaped)
    scales = weight.scales.reshape(*leading, *[1] * (shaped.ndim - len(leading)))
    values = ops.convert(ops.constant(shaped.contiguous().numpy()), np.float32)
    return ops.multiply(values, _constant(scales))


def _convolution(
    name: str,
    maps: Value,
    weight: Tensor | _Int8,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1, 1),
    padding: Sequence[int] = (0, 0),
    dilation: Sequence[int] = (1, 1),
    groups: int = 1,
) -> Value:
    write = ops.convolution if groups == 1 else ops.group_convolution
    where = list(stride), list(padding), list(padding), list(dilation)
    found = write(maps, _weight(weight, groups), *where)
    found.set_friendly_name(name)
    return found if bias is None else ops.add(found, _constant(bias.reshape(1, -1, 1, 1)))


def _linear(name: str, values: Value, weight: Tensor | _Int8, bias: Tensor | None = None) -> Value:
    """An int8 layer on tokens `[B, N, C]` is a 1×1 convolution where the CPU has no VNNI.

    OpenVINO (seen in 2026.4 on AVX2) multiplies int8 matrices more slowly than float ones, but its
    convolutions are fast: a network of the default size takes 0.7 of the time, at batch 1 and 64.
    What moves the tokens moves nothing in memory, where convolutions have their channels last.
    """
    if isinstance(weight, _Int8) and _rank(values) == 3 and not has_vnni():
        maps = ops.transpose(ops.unsqueeze(values, _integers(1)), _integers([0, 3, 1, 2]))
        maps = _convolution(
            name, maps, weight._replace(levels=weight.levels[..., None, None]), bias
        )
        return ops.squeeze(ops.transpose(maps, _integers([0, 2, 3, 1])), _integers(1))
    found = ops.matmul(values, _weight(weight), False, True)
    found.set_friendly_name(name)
    return found if bias is None else ops.add(found, _constant(bias))


def _rounded(values: Value, scale: float, zero_point: int, low: int, high: int, _: Any) -> Value:
    ends = [_constant((level - zero_point) * scale) for level in (low, high)]
    return ops.fake_quantize(values, *ends, *ends, high - low + 1)


# --- all else ----------------------------------------------------------------------------------


def _attention(query: Value, key: Value, value: Value) -> Value:
    """Written out, which OpenVINO fuses into one kernel."""
    width = query.get_partial_shape()[3].get_length()
    scores = ops.matmul(query, key, False, True)
    scores = ops.softmax(ops.multiply(scores, _constant(width**-0.5)), 3)
    return ops.matmul(scores, value, False, False)


def _layer_norm(
    values: Value, shape: Sequence[int], weight: Value, bias: Value, eps: float, *_: Any
) -> Value:
    normal = ops.mvn(values, _integers([-1]), True, eps, "inside_sqrt")
    return ops.add(ops.multiply(normal, _constant(weight)), _constant(bias))


def _batch_norm(
    maps: Value, weight: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *rest: Any
) -> Value:
    eps = rest[2]
    return ops.batch_norm_inference(maps, *map(_constant, (weight, bias, mean, var)), eps)


def _group_norm(maps: Value, groups: int, weight: Value, bias: Value, eps: float, _: Any) -> Value:
    return ops.group_normalization(maps, _constant(weight), _constant(bias), groups, eps)


def _max_pool(maps: Value, kernel: list[int], stride: list[int]) -> Value:
    return ops.max_pool(maps, stride, [1, 1], [0, 0], [0, 0], kernel).output(0)


def _reduced(reduce: Callable[..., ov.Node]) -> Callable[..., Value]:
    """Over axes that are dropped by an operation of its own: what OpenVINO (seen in 2026.4) makes
    of a reduction that drops them, a factor and a rounding, gives wrong values."""

    def write(values: Value, axes: Sequence[int], keep: bool = False) -> Value:
        found = reduce(values, _integers(list(axes)), keep_dims=True)
        return found if keep else ops.squeeze(found, _integers(list(axes)))

    return write


def _average_pool(maps: Value, size: Sequence[int]) -> Value:
    if list(size) == [1, 1]:
        return _reduced(ops.reduce_mean)(maps, [2, 3], True)
    return ops.adaptive_avg_pool(maps, _integers(list(size)))


def _lengths(values: ov.Output) -> list[int | ov.Node]:
    """The length of each axis; a batch's size may be known at run time alone."""
    shape = values.get_partial_shape()
    return [
        length.get_length() if length.is_static else _length(values, axis)
        for axis, length in enumerate(shape)
    ]


def _length(values: ov.Output, axis: int) -> ov.Node:
    return ops.gather(ops.shape_of(values), _integers(axis), _axis(0))


def _axis(axis: int) -> ov.Node:
    return ops.constant(np.int64(axis))


def _reshaped(values: ov.Output, shape: Sequence[int | ov.Node]) -> Value:
    """-1 is found here where it can be: OpenVINO would not know it beside an open batch."""
    shape = list(shape)
    if -1 in shape and any(not isinstance(n, int) for n in shape):
        known = math.prod(n for n in _lengths(values) if isinstance(n, int))
        shape[shape.index(-1)] = known // math.prod(
            n for n in shape if isinstance(n, int) and n != -1
        )
    return ops.reshape(values, _integers(shape), False)


def _flatten(values: ov.Output, first: int = 0, last: int = -1) -> Value:
    lengths = _lengths(values)
    behind = lengths[last + 1 :] if last != -1 else []
    return _reshaped(values, [*lengths[:first], -1, *behind])


def _transpose(values: ov.Output, one: int, other: int) -> Value:
    order = list(range(_rank(values)))
    order[one], order[other] = order[other], order[one]
    return ops.transpose(values, _integers(order))


def _unbind(values: ov.Output, axis: int = 0) -> list[Value]:
    pieces = ops.split(values, _axis(axis), values.get_partial_shape()[axis].get_length())
    return [ops.squeeze(piece, _integers(axis)) for piece in pieces.outputs()]


def _expand(values: Value, shape: Sequence[int | ov.Node]) -> Value:
    values = _output(_constant(values))
    pairs = zip(shape, _lengths(values), strict=True)
    return ops.broadcast(values, _integers([own if n == -1 else n for n, own in pairs]))


def _elementwise(write: Callable[..., ov.Node]) -> Callable[..., Value]:
    return lambda *values: write(*map(_constant, values))


def _itself(values: Value, *_: Any, **__: Any) -> Value:
    return values


OPERATIONS: dict[Any, Callable[..., Value]] = {
    aten.conv2d.default: _convolution,
    aten.linear.default: _linear,
    quantized.dequantize_per_channel.default: _int8_weight,
    QUANTIZE: _rounded,
    DEQUANTIZE: _itself,
    aten.scaled_dot_product_attention.default: _attention,
    aten.layer_norm.default: _layer_norm,
    aten.batch_norm.default: _batch_norm,
    aten.group_norm.default: _group_norm,
    aten.relu.default: ops.relu,
    aten.gelu.default: lambda values: ops.gelu(values, "erf"),
    aten.silu.default: ops.swish,
    aten.hardswish.default: ops.hswish,
    aten.softmax.int: ops.softmax,
    aten.max_pool2d.default: _max_pool,
    aten.adaptive_avg_pool2d.default: _average_pool,
    aten.mean.dim: _reduced(ops.reduce_mean),
    aten.sum.dim_IntList: _reduced(ops.reduce_sum),
    aten.add.Tensor: _elementwise(ops.add),
    aten.sub.Tensor: _elementwise(ops.subtract),
    aten.div.Tensor: _elementwise(ops.divide),
    aten.mul.Tensor: _elementwise(ops.multiply),
    aten.neg.default: _elementwise(ops.negative),
    aten.cat.default: lambda values, axis=0: ops.concat([*map(_constant, values)], axis),
    aten.dropout.default: _itself,
    CONVERSION: _itself,  # the type that is computed in is a setting
    aten.sym_size.int: lambda values, axis: _lengths(values)[axis],
    aten.view.default: _reshaped,
    aten.flatten.using_ints: _flatten,
    aten.permute.default: lambda values, order: ops.transpose(values, _integers(order)),
    aten.transpose.int: _transpose,
    aten.unsqueeze.default: lambda values, axis: ops.unsqueeze(values, _integers(axis)),
    aten.squeeze.dim: lambda values, axis: ops.squeeze(values, _integers(axis)),
    aten.select.int: lambda values, axis, at: ops.gather(values, _axis(at), _axis(axis)),
    aten.unbind.int: _unbind,
    operator.getitem: operator.getitem,
    aten.expand.default: _expand,
}
