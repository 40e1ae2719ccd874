"""A program as a graph of OpenVINO's operations, in the form that its CPU plugin runs fastest.

An int8 layer is written as FakeQuantize on what it takes and int8 weights with a scale a channel:
of that, and not of every other order of the same operations, OpenVINO makes int8 kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import torch
from torch import Tensor, fx

from engines.openvino_moves import Value, constant, integers, output, rank
from engines.openvino_operations import OPERATIONS
from engines.program import LAYERS, EngineError, Program, layer_name
from machine.processor import has_vnni

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed

QUANTIZE = quantized.quantize_per_tensor.default
DEQUANTIZE = quantized.dequantize_per_tensor.default
# What leaves values on the levels that they were rounded to.
LEVEL_KEEPING = (
    aten.flatten.using_ints, aten.permute.default, aten.transpose.int, aten.max_pool2d.default,
    aten.unsqueeze.default, aten.squeeze.dim, aten.view.default, aten.reshape.default, QUANTIZE,
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
    args, options = fx.map_arg((node.args, node.kwargs), values.__getitem__)
    if _depends_on_weights_alone(node, values):  # what follows from them is computed here
        return node.target(*args, **options)  # type: ignore[operator]
    write = WRITERS.get(node.target)
    if write is None:
        raise EngineError(f"openvino: {node.name}: no way is known to write {node.target}")
    named = (layer_name(node),) if node.target in LAYERS else ()
    return output(write(*named, *args, **options))


def _depends_on_weights_alone(node: fx.Node, values: dict[fx.Node, Value]) -> bool:
    if node.target is quantized.dequantize_per_channel.default:
        return False
    return all(isinstance(values[one], Tensor | int) for one in node.all_input_nodes)


def _is_rounded(node: fx.Node) -> bool:
    """Whether what is quantized already lies on the very same levels."""
    source: Any = node.args[0]
    while source.target in LEVEL_KEEPING:
        if source.target is aten.max_pool2d.default and source.args[5:] == (True,):
            return False  # what OpenVINO (2026.4) makes of ceil_mode hides the levels from it
        source = source.args[0]
    return source.target is DEQUANTIZE and source.args[1:] == node.args[1:]


def _attribute(graph: fx.GraphModule, name: str) -> Tensor:
    owner, _, leaf = name.rpartition(".")
    return getattr(graph.get_submodule(owner), leaf).detach()


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
        return constant(shaped)
    scales = weight.scales.reshape(*leading, *[1] * (shaped.ndim - len(leading)))
    values = ops.convert(ops.constant(shaped.contiguous().numpy()), np.float32)
    return ops.multiply(values, constant(scales))


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
    return found if bias is None else ops.add(found, constant(bias.reshape(1, -1, 1, 1)))


def _linear(name: str, values: Value, weight: Tensor | _Int8, bias: Tensor | None = None) -> Value:
    """An int8 layer on features `[B, C]` or tokens `[B, N, C]` is a 1×1 convolution without VNNI.

    OpenVINO (seen in 2026.4 on AVX2) multiplies int8 matrices more slowly than float ones, but its
    convolutions are fast: a network of the default size takes 0.7 of the time, at batch 1 and 64;
    the last layers of MobileNetV3 0.4. What moves the tokens moves nothing in memory, where
    convolutions have their channels last.
    """
    if isinstance(weight, _Int8) and rank(values) in (2, 3) and not has_vnni():
        weight = weight._replace(levels=weight.levels[..., None, None])
        if rank(values) == 2:
            maps = _convolution(name, ops.unsqueeze(values, integers([2, 3])), weight, bias)
            return ops.squeeze(maps, integers([2, 3]))
        maps = ops.transpose(ops.unsqueeze(values, integers(1)), integers([0, 3, 1, 2]))
        maps = _convolution(name, maps, weight, bias)
        return ops.squeeze(ops.transpose(maps, integers([0, 2, 3, 1])), integers(1))
    found = ops.matmul(values, _weight(weight), False, True)
    found.set_friendly_name(name)
    if bias is not None:
        found = ops.add(found, constant(bias))
        found.set_friendly_name(f"{name}/bias")  # with AMX all that a compiled layer is known by
    return found


def _rounded(values: Value, scale: float, zero_point: int, low: int, high: int, _: Any) -> Value:
    ends = [constant((level - zero_point) * scale) for level in (low, high)]
    return ops.fake_quantize(values, *ends, *ends, high - low + 1)


WRITERS: dict[Any, Callable[..., Value]] = {
    aten.conv2d.default: _convolution,
    aten.linear.default: _linear,
    quantized.dequantize_per_channel.default: _int8_weight,
    QUANTIZE: _rounded,
    DEQUANTIZE: lambda values, *_: values,
    **OPERATIONS,
}
