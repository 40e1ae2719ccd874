"""A program's graph as an ONNX model, for ONNX Runtime, OpenVINO and others.

torch.onnx.export takes seconds a network, and leaves in it what costs at batch 1: shapes computed
while it runs, slices, constants to be quantized. Here an operation of the graph is one function,
in WRITERS. A graph with an operation that is not among them goes to torch.onnx.export.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.ao.quantization.fx._decomposed  # defines the operations of int8 graphs
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx

from engines.program import layer_name
from machine.noise import silence
from methods.exported import LARGEST_BATCH
from methods.quantization.graph_rewrites import features_as_tokens, scales_that_biases_fit

aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed

OPSET, IR_VERSION = 20, 10  # the first with Gelu; what every runtime of the last years reads
ORT_DOMAIN = "com.microsoft"
BATCHES = (2, 3)  # a size that differs between these is the batch's


class UnknownOperation(Exception):
    """What no function here can write, a whole sentence's end."""


def onnx_model(
    graph: fx.GraphModule,
    examples: Sequence[Tensor],
    output_names: Sequence[str] = (),
    *,
    integer_convolutions: bool = True,
    for_onnxruntime: bool = False,
) -> onnx.ModelProto:
    """`graph` for any batch size; `examples` are a batch of what it takes, two images or more.

    Inputs are float32 under the graph's names; outputs have `output_names` ('logits', 'output_1',
    ...). int8 layers are QuantizeLinear and DequantizeLinear around a Conv or MatMul (QDQ), in the
    form that ONNX Runtime computes in int8: its optimizer goes by patterns. As it has none for an
    int8 convolution whose output stays float, such a one is a ConvInteger, which OpenVINO would
    take for a float one (`integer_convolutions` False: QDQ all the same). `for_onnxruntime` takes
    operations that ONNX Runtime alone has, where these do what would be several. A layer's weight
    is named `LAYER.weight`, so that who looks at an optimised graph can tell which are int8.
    """
    graph = copy.deepcopy(graph)
    scales_that_biases_fit(graph)
    if not for_onnxruntime:
        features_as_tokens(graph)
    try:
        writer = _Writer(graph, examples, integer_convolutions, for_onnxruntime)
        return writer.model(output_names)
    except UnknownOperation:
        return _by_torch(graph, examples, output_names)


def _by_torch(
    graph: fx.GraphModule, examples: Sequence[Tensor], output_names: Sequence[str]
) -> onnx.ModelProto:
    """The same by torch.onnx.export: slower to write and to run, but it knows every operation."""
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    with torch.no_grad(), silence():
        exported = torch.export.export(
            graph, tuple(examples), dynamic_shapes=({0: batch},) * len(examples)
        )
        names = [n.name for n in graph.graph.nodes if n.op == "placeholder"]
        count = len(exported.graph_signature.user_outputs)
        program = torch.onnx.export(
            exported,
            dynamo=True,
            input_names=names,
            output_names=_named(output_names, count),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with this machine's paths
    return program.model_proto


def _named(names: Sequence[str], count: int) -> list[str]:
    return list(names) or ["logits", *(f"output_{i}" for i in range(1, count))]


class _Shapes(fx.Interpreter):
    """The shapes of all that a graph computes for some inputs."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__(graph)
        self.found: dict[fx.Node, tuple[int, ...]] = {}

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module":  # checks of the inputs' shapes, which nothing takes
            return None
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n] = tuple(value.shape)
        return value


class _Writer:
    """Nodes and constants of an ONNX graph, as WRITERS add them."""

    def __init__(
        self,
        graph: fx.GraphModule,
        examples: Sequence[Tensor],
        integer_convolutions: bool,
        for_onnxruntime: bool,
    ):
        self.graph, self.integer_convolutions = graph, integer_convolutions
        self.for_onnxruntime = for_onnxruntime
        self.shapes: list[dict[fx.Node, tuple[int, ...]]] = []
        for batch in BATCHES:
            shapes = _Shapes(graph)
            with torch.no_grad():
                shapes.run(*(value[:1].expand(batch, *value.shape[1:]) for value in examples))
            self.shapes.append(shapes.found)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.names: dict[fx.Node, str] = {}  # of values; those of constants are their own
        self.whole: dict[fx.Node, int] = {}  # attention as one operation: its heads
        self.unmoved: set[fx.Node] = set()  # moves that such an operation has made as well

    def model(self, output_names: Sequence[str]) -> onnx.ModelProto:
        inputs = [node for node in self.graph.graph.nodes if node.op == "placeholder"]
        results: list[fx.Node] = []
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.names[node] = node.name
            elif node.op == "output":
                results = [*_flat(node.args[0])]
            elif node.op == "call_function":
                write = WRITERS.get(node.target)
                if node in self.unmoved:
                    write = _same
                if write is None:
                    raise UnknownOperation(f"{node.target}")
                self.names[node] = write(self, node)
            elif node.op == "call_module" and node.users:
                raise UnknownOperation(f"{node.target}")
        outputs = self._outputs(results, _named(output_names, len(results)))
        self._drop_unused({value.name for value in outputs})
        graph = helper.make_graph(
            self.nodes,
            "network",
            [self._described(node, self.names[node]) for node in inputs],
            outputs,
            [numpy_helper.from_array(value, name) for name, value in self.constants.items()],
        )
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain for node in self.nodes):
            opsets.append(helper.make_opsetid(ORT_DOMAIN, 1))
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)

    def _outputs(self, results: list[fx.Node], names: list[str]) -> list[onnx.ValueInfoProto]:
        """Give results their names; what is also an input, or given twice, is handed on."""
        renamed: dict[str, str] = {}
        produced = {name for node in self.nodes for name in node.output}
        for result, name in zip(results, names, strict=True):
            value = self.value(result)
            if value in produced and value not in renamed:
                renamed[value] = name
            else:
                self.nodes.append(helper.make_node("Identity", [value], [name], name))
        for node in self.nodes:
            for values in (node.input, node.output):
                values[:] = [renamed.get(value, value) for value in values]
        return [self._described(n, name) for n, name in zip(results, names, strict=True)]

    def _described(self, node: fx.Node, name: str) -> onnx.ValueInfoProto:
        sizes = [size if size >= 0 else "batch" for size in self.sizes(node)]
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)

    def _drop_unused(self, needed: set[str]) -> None:
        kept = []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]
        self.constants = {name: v for name, v in self.constants.items() if name in needed}

    # --- for WRITERS ---

    def sizes(self, node: fx.Node) -> list[int]:
        """The shape of what a node gives, -1 where it is for the batch to say."""
        few, more = (shapes[node] for shapes in self.shapes)
        return [a if a == b else -1 for a, b in zip(few, more, strict=True)]

    def rank(self, node: fx.Node) -> int:
        return len(self.shapes[0][node])

    def value(self, node: Any) -> str:
        """The name of a value, or of a constant."""
        if not isinstance(node, fx.Node):
            return self.constant(np.float32(node))
        if node.op == "get_attr":
            return self.constant(self.array(node), str(node.target))
        return self.names[node]

    def array(self, node: fx.Node) -> np.ndarray:
        """The values of a constant."""
        value = operator.attrgetter(str(node.target))(self.graph)
        return value.detach().contiguous().cpu().numpy()

    def constant(self, value: Any, name: str = "") -> str:
        """The name of a constant; those without one are told by their values."""
        array = np.asarray(value)
        if not name:
            values = "_".join(map(str, array.ravel())) or "none"
            name = f"{array.dtype}_{'x'.join(map(str, array.shape))}_{values}"
        self.constants[name] = array
        return name

    def add(
        self, operation: str, inputs: Sequence[str], name: str, outputs: int = 1, **options: Any
    ) -> str:
        """Add an operation; the name of its first output, others have `.1`, `.2`, ... after it."""
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        self.nodes.append(helper.make_node(operation, inputs, names, name, **options))
        return name

    def reshaped(self, value: str, before: list[int], after: list[int], name: str) -> str:
        """`value` of the shape `before` in another, see `sizes`."""
        if after.count(-1) > 1:
            raise UnknownOperation("view with the batch in two sizes")
        same = before[:1] == after[:1] == [-1]
        sizes = [0, *after[1:]] if same else after  # 0: as it is
        return self.add("Reshape", [value, self.constant(np.array(sizes, np.int64))], name)


def _flat(values: Any) -> Sequence[fx.Node]:
    return list(values) if isinstance(values, list | tuple) else [values]


def _arguments(node: fx.Node, *defaults: Any) -> list[Any]:
    """All positional arguments; the last of them have `defaults`. Options by name are unknown."""
    if any(value is not None for value in node.kwargs.values()):
        raise UnknownOperation(f"{node.target} with {', '.join(node.kwargs)}")
    count = len(node.target._schema.arguments)  # type: ignore[union-attr]
    positional = count - sum(a.kwarg_only for a in node.target._schema.arguments)  # type: ignore[union-attr]
    lacking = positional - len(node.args)
    return [*node.args, *(defaults[len(defaults) - lacking :] if lacking else ())]


# --- layers --------------------------------------------------------------------------------------


def _is(value: Any, target: Any) -> bool:
    return isinstance(value, fx.Node) and value.target is target


def _weight(writer: _Writer, node: fx.Node, transpose: bool) -> str:
    """A layer's weight, int8 or not, from its graph's `[outputs, ...]`."""
    layer, weight = layer_name(node), node.args[1]
    if not _is(weight, quantized.dequantize_per_channel.default):
        if not (isinstance(weight, fx.Node) and weight.op == "get_attr"):
            raise UnknownOperation("a layer whose weight is computed")
        array = writer.array(weight)
        return writer.constant(array.T.copy() if transpose else array, f"{layer}.weight")
    levels, scales, zero_points, axis, *_ = weight.args  # type: ignore[union-attr]
    array = writer.array(levels)  # type: ignore[arg-type]
    inputs = [
        writer.constant(array.T.copy() if transpose else array, f"{layer}.weight"),
        writer.constant(writer.array(scales).astype(np.float32), f"{layer}.weight_scale"),  # type: ignore[arg-type]
    ]
    offsets = writer.array(zero_points)  # type: ignore[arg-type]
    if axis != 0 or offsets.any():
        raise UnknownOperation("a weight that is not symmetric by its outputs")
    axis = 1 if transpose else 0
    return writer.add("DequantizeLinear", inputs, f"{layer}.weight_value", axis=axis)


def _linear(writer: _Writer, node: fx.Node) -> str:
    values, weight, bias = _arguments(node, None)
    layer, source = layer_name(node), writer.value(values)
    is_int8 = _is(weight, quantized.dequantize_per_channel.default)
    if is_int8 and writer.for_onnxruntime and _is(values, quantized.dequantize_per_tensor.default):
        levels, scales = (writer.array(one) for one in weight.args[:2])
        scale, zero_point = _place(writer, values.args[1:])
        inputs = [
            writer.value(values.args[0]),
            writer.constant(levels.T.copy(), f"{layer}.weight"),
            scale,
            writer.constant(scales.astype(np.float32), f"{layer}.weight_scale"),
            zero_point,
        ]
        inputs += ["", writer.value(bias)] if bias is not None else []
        return writer.add("MatMulIntegerToFloat", inputs, layer, domain=ORT_DOMAIN)
    if writer.rank(values) == 2 and not is_int8:
        inputs = [source, _weight(writer, node, False)]
        inputs += [writer.value(bias)] if bias is not None else []
        return writer.add("Gemm", inputs, layer, transB=1)
    product = writer.add("MatMul", [source, _weight(writer, node, True)], f"{layer}.product")
    if bias is None:
        return product
    return writer.add("Add", [product, writer.value(bias)], layer)


def _convolution(writer: _Writer, node: fx.Node) -> str:
    values, weight, bias, stride, padding, dilation, groups = _arguments(
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
    is_int8 = _is(weight, quantized.dequantize_per_channel.default) and _is(
        values, quantized.dequantize_per_tensor.default
    )
    if not is_int8:
        inputs = [writer.value(values), _weight(writer, node, False)]
        inputs += [writer.value(bias)] if bias is not None else []
        return writer.add("Conv", inputs, layer, **how)
    # An output is in units of input scale x weight scale.
    scales = (writer.array(weight.args[1]) * values.args[1]).astype(np.float32)
    if writer.integer_convolutions and not _is_quantized(node):
        levels = writer.constant(writer.array(weight.args[0]), f"{layer}.weight")
        _, zero_point = _place(writer, values.args[1:])
        inputs = [writer.value(values.args[0]), levels, zero_point]
        sums = writer.add("ConvInteger", inputs, f"{layer}.sums", **how)
        last = writer.add("Cast", [sums], f"{layer}.cast", to=TensorProto.FLOAT)
        factors = writer.constant(scales.reshape(-1, 1, 1), f"{layer}.scale")
        last = writer.add("Mul", [last, factors], f"{layer}.scaled")
        if bias is None:
            return last
        each = writer.constant(writer.array(bias).reshape(-1, 1, 1), f"{layer}.bias")
        return writer.add("Add", [last, each], layer)
    inputs = [writer.value(values), _weight(writer, node, False)]
    if bias is not None:
        levels = np.round(writer.array(bias).astype(np.float64) / scales).astype(np.int32)
        parts = [
            writer.constant(levels, f"{layer}.bias"),
            writer.constant(scales, f"{layer}.bias_scale"),
        ]
        inputs.append(writer.add("DequantizeLinear", parts, f"{layer}.bias_value", axis=0))
    return writer.add("Conv", inputs, layer, **how)


def _is_quantized(node: fx.Node) -> bool:
    """Whether all that is made of a value, or of its ReLU, is one quantized value."""
    users = list(node.users)
    if len(users) == 1 and users[0].target is aten.relu.default:
        users = list(users[0].users)
    return len(users) == 1 and users[0].target is quantized.quantize_per_tensor.default


def _quantize(writer: _Writer, node: fx.Node) -> str:
    values, *place = node.args
    if _is(values, quantized.dequantize_per_tensor.default) and [*values.args[1:]] == place:  # type: ignore[union-attr]
        return writer.value(values.args[0])  # type: ignore[union-attr]
    return writer.add("QuantizeLinear", [writer.value(values), *_place(writer, place)], node.name)


def _dequantize(writer: _Writer, node: fx.Node) -> str:
    small, *place = node.args
    return writer.add("DequantizeLinear", [writer.value(small), *_place(writer, place)], node.name)


def _place(writer: _Writer, place: Sequence[Any]) -> list[str]:
    scale, zero_point, low, high, dtype = place
    limits = torch.iinfo(dtype)
    if (low, high) != (limits.min, limits.max):
        raise UnknownOperation("quantize to less than all levels")
    small = np.uint8 if dtype is torch.uint8 else np.int8
    return [writer.constant(np.float32(scale)), writer.constant(np.array(zero_point, small))]


# --- norms, pooling, activations -----------------------------------------------------------------


def _batch_norm(writer: _Writer, node: fx.Node) -> str:
    values, weight, bias, mean, var, training, _, eps, *_ = node.args
    if training or any(one is None for one in (weight, bias, mean, var)):
        raise UnknownOperation("a batch norm without fixed values")
    inputs = [writer.value(one) for one in (values, weight, bias, mean, var)]
    return writer.add("BatchNormalization", inputs, node.name, epsilon=eps)


def _layer_norm(writer: _Writer, node: fx.Node) -> str:
    values, shape, weight, bias, eps, _ = _arguments(node, None, None, 1e-5, True)
    if weight is None:
        raise UnknownOperation("a layer norm without weights")
    inputs = [writer.value(one) for one in (values, weight, bias) if one is not None]
    return writer.add("LayerNormalization", inputs, node.name, axis=-len(shape), epsilon=eps)


def _group_norm(writer: _Writer, node: fx.Node) -> str:
    """Each group's values in one row, normalised; then each channel's factor and summand."""
    values, groups, weight, bias, eps, _ = _arguments(node, None, None, 1e-5, True)
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


def _max_pool(writer: _Writer, node: fx.Node) -> str:
    values, kernel, stride, padding, dilation, ceil = _arguments(node, [], [0, 0], [1, 1], False)
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


def _adaptive_average(writer: _Writer, node: fx.Node) -> str:
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


def _silu(writer: _Writer, node: fx.Node) -> str:
    source = writer.value(node.args[0])
    gate = writer.add("Sigmoid", [source], f"{node.name}_gate")
    return writer.add("Mul", [source, gate], node.name)


def _gelu(writer: _Writer, node: fx.Node) -> str:
    how = node.kwargs.get("approximate", "none")
    return writer.add("Gelu", [writer.value(node.args[0])], node.name, approximate=how)


def _softmax(writer: _Writer, node: fx.Node) -> str:
    values, axis, dtype = _arguments(node, None)
    if dtype is not None:
        raise UnknownOperation("softmax of another type")
    return writer.add("Softmax", [writer.value(values)], node.name, axis=axis)


def _plain(operation: str, **options: Any) -> Callable[[_Writer, fx.Node], str]:
    """An operation of one value, by its ONNX name."""

    def write(writer: _Writer, node: fx.Node) -> str:
        (values,) = _arguments(node)
        return writer.add(operation, [writer.value(values)], node.name, **options)

    return write


def _arithmetic(operation: str) -> Callable[[_Writer, fx.Node], str]:
    def write(writer: _Writer, node: fx.Node) -> str:
        left, right = _arguments(node)
        return writer.add(operation, [writer.value(left), writer.value(right)], node.name)

    return write


def _subtract(writer: _Writer, node: fx.Node) -> str:
    """What torch's compiler has subtracted (see `subtract_what_must_stay`) is added here: runtimes
    fuse sums with what comes after them."""
    left, right = _arguments(node)
    if _is(right, aten.neg.default):
        return writer.add("Add", [writer.value(left), writer.value(right.args[0])], node.name)
    if isinstance(right, fx.Node) and right.op == "get_attr":
        negated = writer.constant(-writer.array(right), f"{right.target}_added")
        return writer.add("Add", [writer.value(left), negated], node.name)
    return writer.add("Sub", [writer.value(left), writer.value(right)], node.name)


def _reduce(operation: str) -> Callable[[_Writer, fx.Node], str]:
    """The axes are kept, and dropped afterwards: what OpenVINO (seen in 2026.4) makes of a
    reduction that drops them, a factor and a rounding gives wrong values."""

    def write(writer: _Writer, node: fx.Node) -> str:
        values, axes, keep = _arguments(node, False)
        if not axes:
            raise UnknownOperation("a mean over all axes")
        inputs = [writer.value(values), writer.constant(np.array(axes, np.int64))]
        if keep:
            return writer.add(operation, inputs, node.name, keepdims=1)
        kept = writer.add(operation, inputs, f"{node.name}_kept", keepdims=1)
        return writer.add("Squeeze", [kept, inputs[1]], node.name)

    return write


# --- what moves values ---------------------------------------------------------------------------


def _same(writer: _Writer, node: fx.Node) -> str:
    return writer.value(node.args[0])


def _reshape(writer: _Writer, node: fx.Node) -> str:
    source: Any = node.args[0]
    before, after = writer.sizes(source), writer.sizes(node)
    return writer.reshaped(writer.value(source), before, after, node.name)


def _permute(writer: _Writer, node: fx.Node) -> str:
    values, axes = _arguments(node)
    order = [axis % writer.rank(values) for axis in axes]
    return writer.add("Transpose", [writer.value(values)], node.name, perm=order)


def _transpose(writer: _Writer, node: fx.Node) -> str:
    values, first, second = _arguments(node)
    order = list(range(writer.rank(values)))
    order[first], order[second] = order[second], order[first]
    return writer.add("Transpose", [writer.value(values)], node.name, perm=order)


def _squeeze(operation: str) -> Callable[[_Writer, fx.Node], str]:
    def write(writer: _Writer, node: fx.Node) -> str:
        values, axis = _arguments(node)
        axes = writer.constant(np.array([axis], np.int64))
        return writer.add(operation, [writer.value(values), axes], node.name)

    return write


def _select(writer: _Writer, node: fx.Node) -> str:
    values, axis, index = _arguments(node)
    which = writer.constant(np.array(index, np.int64))
    return writer.add("Gather", [writer.value(values), which], node.name, axis=axis)


def _slice(writer: _Writer, node: fx.Node) -> str:
    values, axis, start, end, step = _arguments(node, 0, None, None, 1)
    ends = [start or 0, np.iinfo(np.int64).max if end is None else end, axis, step]
    inputs = [writer.constant(np.array([one], np.int64)) for one in ends]
    return writer.add("Slice", [writer.value(values), *inputs], node.name)


def _unbind(writer: _Writer, node: fx.Node) -> str:
    """Queries, keys and values of `[B, N, 3*heads*d]` by one Transpose and a Split; what else is
    unbound waits for `_item`."""
    permuted: Any = node.args[0]
    viewed: Any = permuted.args[0] if _is(permuted, aten.permute.default) else None
    if not (_is(viewed, aten.view.default) and list(permuted.args[1]) == [2, 0, 3, 1, 4]):
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


def _whole_attention(writer: _Writer, node: fx.Node, heads: int) -> bool:
    """Whether ONNX Runtime's own operation takes all between the unbound node and the tokens that
    attention gives; if so, it is noted for `_attention`."""
    cores = {user for item in node.users for user in item.users}
    if not writer.for_onnxruntime or len(cores) != 1:
        return False
    (core,) = cores
    if not _is(core, aten.scaled_dot_product_attention.default) or len(node.users) != 3:
        return False
    if [value.args[1] for value in core.args[:3]] != [0, 1, 2]:  # type: ignore[union-attr]
        return False
    last = core
    while len(last.users) == 1:
        (last,) = last.users
        if _is(last, aten.transpose.int) and last.args[1:] == (1, 2) and len(last.users) == 1:
            (flat,) = last.users
            if _is(flat, aten.flatten.using_ints) and flat.args[1:] == (2,):
                writer.whole[core] = heads
                writer.unmoved |= {last, flat}
                return True
        if not _is(last, quantized.quantize_per_tensor.default):
            break
    return False


def _item(writer: _Writer, node: fx.Node) -> str:
    unbound, index = node.args
    if not _is(unbound, aten.unbind.int):
        raise UnknownOperation("a part of several results")
    whole = writer.names[unbound]  # type: ignore[index]
    if whole == unbound.name:  # type: ignore[union-attr]
        return f"{whole}.{index}" if index else whole
    axis = (*unbound.args[1:], 0)[0]  # type: ignore[union-attr]
    which = writer.constant(np.array(index, np.int64))
    return writer.add("Gather", [whole, which], node.name, axis=axis)


def _concatenate(writer: _Writer, node: fx.Node) -> str:
    """A class token before tokens is a row of zeros that the token is added to: what is repeated
    for each image would need the batch's size, computed while it runs."""
    values, axis = _arguments(node, 0)
    first = values[0]
    if len(values) == 2 and axis == 1 and _is(first, aten.expand.default):
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


def _expand(writer: _Writer, node: fx.Node) -> str:
    values, *_ = node.args
    sizes = writer.sizes(node)
    parts = [writer.constant(np.array([size], np.int64)) for size in sizes]
    some = next(n for n in writer.graph.graph.nodes if n.op == "placeholder")
    if -1 in sizes:
        batch = writer.add("Shape", [writer.value(some)], f"{node.name}_batch", start=0, end=1)
        parts[sizes.index(-1)] = batch
    shape = writer.add("Concat", parts, f"{node.name}_shape", axis=0)
    return writer.add("Expand", [writer.value(values), shape], node.name)


def _attention(writer: _Writer, node: fx.Node) -> str:
    """softmax(q·kᵀ/√d)·v, in the form that runtimes fuse."""
    query, key, value, mask, dropout, causal = _arguments(node, None, 0.0, False)
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


def _nothing(writer: _Writer, node: fx.Node) -> str:
    """A size, which what is written here knows."""
    return ""


WRITERS: dict[Any, Callable[[_Writer, fx.Node], str]] = {
    # layers
    aten.linear.default: _linear,
    aten.conv2d.default: _convolution,
    quantized.quantize_per_tensor.default: _quantize,
    quantized.dequantize_per_tensor.default: _dequantize,
    quantized.dequantize_per_channel.default: _nothing,  # by its layer, see `_weight`
    aten.scaled_dot_product_attention.default: _attention,
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
    aten.unbind.int: _unbind,
    operator.getitem: _item,
    aten.cat.default: _concatenate,
    aten.expand.default: _expand,
}
