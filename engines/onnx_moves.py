"""MOVES: operations that put values in other places, and the function that writes each."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from engines.onnx_layers import item, unbind
from engines.onnx_writer import UnknownOperation, Writer, arguments, bound, is_call

aten = torch.ops.aten


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
        axes = [axis] if isinstance(axis, int) else list(axis)
        if operation == "Squeeze":  # as torch does: of axes that are longer, nothing
            axes = [one for one in axes if writer.sizes(values)[one] == 1]
        which = writer.constant(np.array(axes, np.int64))
        return writer.add(operation, [writer.value(values), which], node.name)

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


def _split(writer: Writer, node: fx.Node) -> str:
    """Pieces along an axis: `item` takes each."""
    source, axis = node.args[0], bound(node)["dim"]
    lengths = [shape[axis] for shape in writer.pieces(node)]
    sizes = writer.constant(np.array(lengths, np.int64))
    inputs = [writer.value(source), sizes]
    return writer.add("Split", inputs, node.name, outputs=len(lengths), axis=axis)


def _stack(writer: Writer, node: fx.Node) -> str:
    values, axis = arguments(node, 0)
    axes = writer.constant(np.array([axis], np.int64))
    parts = [
        writer.add("Unsqueeze", [writer.value(one), axes], f"{node.name}_{number}")
        for number, one in enumerate(values)
    ]
    return writer.add("Concat", parts, node.name, axis=axis)


def _pad(writer: Writer, node: fx.Node) -> str:
    about = bound(node)
    mode, fill = about.get("mode", "constant"), about["value"]
    modes = {"constant": "constant", "reflect": "reflect", "replicate": "edge"}
    if mode not in modes:
        raise UnknownOperation(f"pad in mode {mode!r}")
    rank = writer.rank(about["self"])
    ends = [0] * (2 * rank)
    pads = about["pad"]
    for place, (left, right) in enumerate(zip(pads[::2], pads[1::2], strict=True), 1):
        ends[rank - place], ends[2 * rank - place] = left, right
    where = writer.constant(np.array(ends, np.int64))
    inputs = [writer.value(about["self"]), where, writer.constant(np.float32(fill or 0.0))]
    return writer.add("Pad", inputs, node.name, mode=modes[mode])


def _roll(writer: Writer, node: fx.Node) -> str:
    """Of each axis its two parts, the other way round."""
    values, steps, axes = arguments(node, [])
    last = writer.value(values)
    for axis, step in zip(axes, steps, strict=True):
        size = writer.sizes(values)[axis]
        if size < 0:
            raise UnknownOperation("roll over the batch")
        cut, name = size - step % size, f"{node.name}_{axis}"
        lengths = writer.constant(np.array([cut, size - cut], np.int64))
        writer.add("Split", [last, lengths], f"{name}_parts", outputs=2, axis=axis)
        last = writer.add("Concat", [f"{name}_parts.1", f"{name}_parts"], name, axis=axis)
    return last


def _pixel_shuffle(writer: Writer, node: fx.Node) -> str:
    values, factor = arguments(node)
    return writer.add(
        "DepthToSpace", [writer.value(values)], node.name, blocksize=factor, mode="CRD"
    )


MOVES: dict[Any, Callable[[Writer, fx.Node], str]] = {
    aten.dropout.default: _same,
    aten.feature_dropout.default: _same,
    aten.contiguous.default: _same,
    aten.clone.default: _same,
    aten.alias.default: _same,
    aten.detach.default: _same,
    aten.view.default: _reshape,
    aten.reshape.default: _reshape,
    aten._unsafe_view.default: _reshape,
    aten.flatten.using_ints: _reshape,
    aten.unflatten.int: _reshape,
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.swapaxes.default: _transpose,
    aten.squeeze.dim: _squeeze("Squeeze"),
    aten.squeeze.dims: _squeeze("Squeeze"),
    aten.unsqueeze.default: _squeeze("Unsqueeze"),
    aten.select.int: _select,
    aten.slice.Tensor: _slice,
    aten.chunk.default: _split,
    aten.split.Tensor: _split,
    aten.split_with_sizes.default: _split,
    aten.unbind.int: unbind,
    operator.getitem: item,
    aten.cat.default: _concatenate,
    aten.stack.default: _stack,
    aten.expand.default: _expand,
    aten.pad.default: _pad,
    aten.constant_pad_nd.default: _pad,
    aten.roll.default: _roll,
    aten.pixel_shuffle.default: _pixel_shuffle,
}
