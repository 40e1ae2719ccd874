"""How an ONNX graph comes about: nodes and constants, with shapes known and the batch left open."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.ao.quantization.fx._decomposed  # defines the operations of int8 graphs
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, fx

OPSET, IR_VERSION = 20, 10  # the first with Gelu; what every runtime of the last years reads
ORT_DOMAIN = "com.microsoft"
aten = torch.ops.aten
quantized = torch.ops.quantized_decomposed
LEVELS = {quantized.dequantize_per_channel.default}  # weights that their layers write
NEW = {aten.new_zeros.default, aten.new_ones.default}
BATCHES = (2, 3)  # a size that differs between these is the batch's


class UnknownOperation(Exception):
    """What cannot be written here, in words."""


class Shapes(fx.Interpreter):
    """The shapes of all that a graph computes for some inputs; values where weights decide them."""

    def __init__(self, graph: fx.GraphModule):
        super().__init__(graph)
        self.found: dict[fx.Node, tuple[int, ...]] = {}
        self.pieces: dict[fx.Node, list[tuple[int, ...]]] = {}  # of what gives several
        self.fixed: dict[fx.Node, Tensor] = {}  # what no image has a part in

    def run_node(self, n: fx.Node) -> Any:
        if n.op == "call_module" and not n.users:  # it only checks the inputs' shapes
            return None
        value = super().run_node(n)
        if isinstance(value, Tensor):
            self.found[n] = tuple(value.shape)
            if self._is_fixed(n):
                self.fixed[n] = value
        elif isinstance(value, list | tuple):
            self.pieces[n] = [tuple(v.shape) for v in value if isinstance(v, Tensor)]
        return value

    def _is_fixed(self, n: fx.Node) -> bool:
        if n.op != "call_function" or n.target in LEVELS:
            return False
        if n.target in NEW:  # takes of a value its type alone
            return not any(one in n.all_input_nodes[1:] for one in n.all_input_nodes)
        return all(one.op == "get_attr" or one in self.fixed for one in n.all_input_nodes)


class Writer:
    """Nodes and constants of an ONNX graph, as functions of `writers` add them.

    Each takes the writer and a node of the graph, and gives the name of its value.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        examples: Sequence[Tensor],
        writers: Mapping[Any, Callable[[Writer, fx.Node], str]],
        *,
        for_onnxruntime: bool,
    ):
        self.graph, self.writers, self.for_onnxruntime = graph, writers, for_onnxruntime
        self.shapes: list[dict[fx.Node, tuple[int, ...]]] = []
        self.runs: list[Shapes] = []
        for batch in BATCHES:
            shapes = Shapes(graph)
            with torch.no_grad():
                shapes.run(*(value[:1].expand(batch, *value.shape[1:]) for value in examples))
            self.shapes.append(shapes.found)
            self.runs.append(shapes)
        self.nodes: list[onnx.NodeProto] = []
        self.produced: set[str] = set()  # names of the nodes' outputs
        self.constants: dict[str, np.ndarray] = {}
        self.names: dict[fx.Node, str] = {}  # of values; those of constants are their own
        self.whole: dict[fx.Node, int] = {}  # attention as one operation: its heads
        self.unmoved: set[fx.Node] = set()  # moves that such an operation has made as well

    def model(self, output_names: Sequence[str]) -> onnx.ModelProto:
        """See `onnx_model`. Raises UnknownOperation."""
        inputs = [node for node in self.graph.graph.nodes if node.op == "placeholder"]
        results: list[fx.Node] = []
        for node in self.graph.graph.nodes:
            if node.op == "placeholder":
                self.names[node] = node.name
            elif node.op == "output":
                results = [*flat(node.args[0])]
            elif node.op == "call_function":
                if node in self.unmoved:
                    self.names[node] = self.names[node.args[0]]
                    continue
                if node in self.runs[0].fixed or self._is_size(node):
                    continue  # see `value` and `sizes`
                if node.target not in self.writers:
                    raise UnknownOperation(f"{node.target}")
                self.names[node] = self.writers[node.target](self, node)
            elif node.op == "call_module" and node.users:
                raise UnknownOperation(f"{node.target}")
        outputs = self._outputs(results, named(output_names, len(results)))
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
        for result, name in zip(results, names, strict=True):
            value = self.value(result)
            if value in self.produced and value not in renamed:
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

    def _is_size(self, node: fx.Node) -> bool:
        return node not in self.shapes[0] and node not in self.runs[0].pieces

    # --- for `writers` ---

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
        if node in self.runs[0].fixed:
            return self.constant(self.array(node), node.name)
        return self.names[node]

    def pieces(self, node: fx.Node) -> list[tuple[int, ...]]:
        """The shapes of what a node gives that gives several, for a batch of BATCHES[0]."""
        return self.runs[0].pieces[node]

    def array(self, node: fx.Node) -> np.ndarray:
        """The values of a constant."""
        value = self.runs[0].fixed.get(node)
        if value is None and node.op != "get_attr":
            raise UnknownOperation(f"{node} where a constant should be")
        if value is None:
            value = operator.attrgetter(str(node.target))(self.graph)
        return value.detach().contiguous().cpu().numpy()

    def constant(self, value: Any, name: str = "") -> str:
        """The name of a constant; those without one are told by their values.

        Raises UnknownOperation for two of one name: a layer that is used twice.
        """
        array = np.asarray(value)
        if not name:
            values = "_".join(map(str, array.ravel())) or "none"
            name = f"{array.dtype}_{'x'.join(map(str, array.shape))}_{values}"
        if not np.array_equal(self.constants.setdefault(name, array), array):
            raise UnknownOperation(f"{name} in two forms")
        return name

    def add(
        self, operation: str, inputs: Sequence[str], name: str, outputs: int = 1, **options: Any
    ) -> str:
        """Add an operation; the name of its first output, others have `.1`, `.2`, ... after it.

        Raises UnknownOperation for a name that is taken: a layer that is used twice.
        """
        names = [name, *(f"{name}.{i}" for i in range(1, outputs))]
        if not self.produced.isdisjoint(names):
            raise UnknownOperation(f"{name} used twice")
        self.produced.update(names)
        self.nodes.append(helper.make_node(operation, inputs, names, name, **options))
        return name

    def reshaped(self, value: str, before: list[int], after: list[int], name: str) -> str:
        """`value` of the shape `before` in another, see `sizes`."""
        if after.count(-1) > 1:
            raise UnknownOperation("view with the batch in two sizes")
        same = before[:1] == after[:1] == [-1] and math.prod(before[1:]) == math.prod(after[1:])
        sizes = [0, *after[1:]] if same else after  # 0: as it is
        return self.add("Reshape", [value, self.constant(np.array(sizes, np.int64))], name)


def flat(values: Any) -> Sequence[fx.Node]:
    """One node, or several, as a sequence."""
    return list(values) if isinstance(values, list | tuple) else [values]


def arguments(node: fx.Node, *defaults: Any) -> list[Any]:
    """All positional arguments; the last of them have `defaults`. Options by name are unknown."""
    if any(value is not None for value in node.kwargs.values()):
        raise UnknownOperation(f"{node.target} with {', '.join(node.kwargs)}")
    count = len(node.target._schema.arguments)  # type: ignore[union-attr]
    positional = count - sum(a.kwarg_only for a in node.target._schema.arguments)  # type: ignore[union-attr]
    lacking = positional - len(node.args)
    return [*node.args, *(defaults[len(defaults) - lacking :] if lacking else ())]


def bound(node: fx.Node) -> dict[str, Any]:
    """All arguments of a node by their names in the operation's schema, defaults filled in."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    given = dict(zip((about.name for about in schema), node.args, strict=False))
    return {**{a.name: a.default_value for a in schema}, **given, **node.kwargs}


def is_call(value: Any, target: Any) -> bool:
    """Whether `value` is what a call of `target` gives."""
    return isinstance(value, fx.Node) and value.target is target


def named(names: Sequence[str], count: int) -> list[str]:
    """The names of a graph's outputs."""
    return list(names) or ["logits", *(f"output_{i}" for i in range(1, count))]
