"""What OpenVINO puts in other places: MOVES, and what all operations here are made of."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
import openvino.opset15 as ops
import torch
from torch import Tensor

from engines.program import EngineError
from methods.exported import CONVERSION

aten = torch.ops.aten

Value = Any  # an ov.Node or ov.Output, a Tensor of weights, or numbers


def constant(value: Any) -> Any:
    """Weights and numbers as float32 constants; what is a node stays it."""
    if isinstance(value, Tensor):
        return ops.constant(value.float().contiguous().numpy())
    return ops.constant(np.float32(value)) if isinstance(value, int | float) else value


def integers(value: Any) -> ov.Node:
    """Numbers, some of which may be known at run time alone (a batch's size), as one int64 list."""
    if not isinstance(value, list | tuple):
        value = [value]
    if len(value) == 1 and not isinstance(value[0], int):
        return value[0]
    if all(isinstance(number, int) for number in value):
        return ops.constant(np.array(value, dtype=np.int64))
    return ops.concat([integers(n) if isinstance(n, int) else n for n in value], 0)


def rank(value: Value) -> int:
    return len(value.get_partial_shape())


def output(value: Value) -> Value:
    """What an operation gives, where it gives one thing: of that a shape can be asked."""
    return value.output(0) if isinstance(value, ov.Node) else value


def lengths_of(values: ov.Output) -> list[int | ov.Node]:
    """The length of each axis; a batch's size may be known at run time alone."""
    shape = values.get_partial_shape()
    return [
        length.get_length() if length.is_static else _length(values, axis)
        for axis, length in enumerate(shape)
    ]


def _length(values: ov.Output, axis: int) -> ov.Node:
    return ops.gather(ops.shape_of(values), integers(axis), _axis(0))


def _axis(axis: int) -> ov.Node:
    return ops.constant(np.int64(axis))


def _reshaped(values: ov.Output, shape: Sequence[int | ov.Node]) -> Value:
    """-1 is found here where it can be: OpenVINO would not know it beside an open batch."""
    shape = list(shape)
    if -1 in shape and any(not isinstance(n, int) for n in shape):
        known = math.prod(n for n in lengths_of(values) if isinstance(n, int))
        shape[shape.index(-1)] = known // math.prod(
            n for n in shape if isinstance(n, int) and n != -1
        )
    return ops.reshape(values, integers(shape), False)


def _flatten(values: ov.Output, first: int = 0, last: int = -1) -> Value:
    lengths = lengths_of(values)
    behind = lengths[last + 1 :] if last != -1 else []
    return _reshaped(values, [*lengths[:first], -1, *behind])


def _transpose(values: ov.Output, one: int, other: int) -> Value:
    order = list(range(rank(values)))
    order[one], order[other] = order[other], order[one]
    return ops.transpose(values, integers(order))


def _permute(values: Value, order: Sequence[int]) -> Value:
    return ops.transpose(values, integers([axis % len(order) for axis in order]))


def _unbind(values: ov.Output, axis: int = 0) -> list[Value]:
    pieces = ops.split(values, _axis(axis), values.get_partial_shape()[axis].get_length())
    return [ops.squeeze(piece, integers(axis)) for piece in pieces.outputs()]


def _stacked(values: Sequence[Value], axis: int = 0) -> Value:
    return ops.concat([ops.unsqueeze(constant(v), integers(axis)) for v in values], axis)


def _expand(values: Value, shape: Sequence[int | ov.Node]) -> Value:
    values = output(constant(values))
    pairs = zip(shape, lengths_of(values), strict=True)
    return ops.broadcast(values, integers([own if n == -1 else n for n, own in pairs]))


def _split(values: ov.Output, size: Any, axis: int = 0) -> list[Value]:
    """Pieces of one size, the last one smaller where it does not divide; or of several sizes."""
    length: Any = lengths_of(values)[axis]
    if isinstance(size, int):
        size = [min(size, length - start) for start in range(0, length, size)]
    return ops.variadic_split(values, _axis(axis), integers(list(size))).outputs()


def _chunk(values: ov.Output, count: int, axis: int = 0) -> list[Value]:
    length: Any = lengths_of(values)[axis]
    return _split(values, -(-length // count), axis)


def _slice(
    values: Value, axis: int = 0, first: int | None = None, end: int | None = None, step: int = 1
) -> Value:
    bounds = first or 0, np.iinfo(np.int64).max if end is None else end, step, axis
    return ops.slice(values, *map(integers, bounds))


def _padded(values: Value, pads: Sequence[int], *how: Any) -> Value:
    mode, fill = how if len(how) == 2 else (how[0] if how else "constant", None)
    if not isinstance(mode, str):  # constant_pad_nd says the value alone
        mode, fill = "constant", mode
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    before, after = [0] * rank(values), [0] * rank(values)
    for place, (left, right) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        before[-place], after[-place] = left, right
    ends = integers(before), integers(after)
    if mode not in modes:
        raise EngineError(f"openvino: pad in mode {mode!r} is not known here")
    return ops.pad(values, *ends, modes[mode], constant(float(fill or 0.0)))


def _unflatten(values: ov.Output, axis: int, sizes: Sequence[int]) -> Value:
    lengths = lengths_of(values)
    axis %= len(lengths)
    return _reshaped(values, [*lengths[:axis], *sizes, *lengths[axis + 1 :]])


def _squeezed(values: Value, axis: int | Sequence[int]) -> Value:
    axes = [axis] if isinstance(axis, int) else list(axis)
    return ops.squeeze(values, integers([a for a in axes if lengths_of(values)[a] == 1]))


def _itself(values: Value, *_: Any, **__: Any) -> Value:
    return values


def _ones(values: Value, size: Sequence[int], *, of: float, **_: Any) -> Tensor:
    if not all(isinstance(length, int) for length in size):
        raise EngineError("openvino: a tensor made for each image is not known here")
    return torch.full(tuple(size), of)


def _of_sizes(known: Callable[..., int], write: Callable[..., ov.Node]) -> Callable[..., Any]:
    def found(left: Any, right: Any) -> Any:
        if isinstance(left, int) and isinstance(right, int):
            return known(left, right)
        return write(integers(left), integers(right))

    return found


MOVES: dict[Any, Callable[..., Value]] = {
    # the same values
    aten.dropout.default: _itself,
    aten.feature_dropout.default: _itself,
    aten.contiguous.default: _itself,
    aten.clone.default: _itself,
    aten.alias.default: _itself,
    aten.detach.default: _itself,
    CONVERSION: _itself,  # the type that is computed in is a setting
    # sizes, some of them known at run time alone
    operator.mul: _of_sizes(operator.mul, ops.multiply),
    operator.add: _of_sizes(operator.add, ops.add),
    operator.floordiv: _of_sizes(operator.floordiv, ops.divide),
    # values in other places
    aten.sym_size.int: lambda values, axis: lengths_of(values)[axis],
    aten.view.default: _reshaped,
    aten.reshape.default: _reshaped,
    aten._unsafe_view.default: _reshaped,
    aten.flatten.using_ints: _flatten,
    aten.unflatten.int: _unflatten,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.swapaxes.default: _transpose,
    aten.unsqueeze.default: lambda values, axis: ops.unsqueeze(values, integers(axis)),
    aten.squeeze.dim: _squeezed,
    aten.squeeze.dims: _squeezed,
    aten.select.int: lambda values, axis, at: ops.gather(values, _axis(at), _axis(axis)),
    aten.slice.Tensor: _slice,
    aten.cat.default: lambda values, axis=0: ops.concat([*map(constant, values)], axis),
    aten.stack.default: _stacked,
    aten.chunk.default: _chunk,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.unbind.int: _unbind,
    operator.getitem: operator.getitem,
    aten.expand.default: _expand,
    aten.pad.default: _padded,
    aten.constant_pad_nd.default: _padded,
    aten.roll.default: lambda values, by, axes: ops.roll(values, integers(by), integers(axes)),
    aten.pixel_shuffle.default: lambda v, n: ops.depth_to_space(v, "depth_first", n),
    aten.channel_shuffle.default: lambda v, n: ops.shuffle_channels(v, 1, n),
    aten.new_zeros.default: functools.partial(_ones, of=0.0),
    aten.new_ones.default: functools.partial(_ones, of=1.0),
}
