"""A program's graph as an ONNX model, for ONNX Runtime, OpenVINO and others.

torch.onnx.export takes seconds a network, and leaves in it what costs at batch 1: shapes computed
while it runs, slices, constants to be quantized. Here an operation of the graph is one function,
in WRITERS. A graph with an operation that is not among them goes to torch.onnx.export.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import Tensor, fx

from engines.onnx_operations import WRITERS
from engines.onnx_writer import UnknownOperation, Writer, named
from engines.program import LAYERS, layer_name
from machine.noise import silence
from methods.exported import LARGEST_BATCH
from methods.quantization.graph_rewrites import features_as_tokens, scales_that_biases_fit


def onnx_model(
    graph: fx.GraphModule,
    examples: Sequence[Tensor],
    output_names: Sequence[str] = (),
    *,
    for_onnxruntime: bool = False,
) -> onnx.ModelProto:
    """`graph` for any batch size; `examples` are a batch of what it takes, two images or more.

    Inputs are float32 under the graph's names; outputs have `output_names` ('logits', 'output_1',
    ...). int8 layers are QuantizeLinear and DequantizeLinear around a Conv or MatMul (QDQ), in the
    form that ONNX Runtime computes in int8: its optimizer goes by patterns. As it has none for an
    int8 convolution whose output stays float, such a one is a ConvInteger. `for_onnxruntime` takes
    operations that ONNX Runtime alone has, where one does what would be several: attention, an int8
    product with its factors and bias. A layer's weight is named `LAYER.weight`, so that who looks
    at an optimised graph can tell which layers are int8.
    """
    graph = copy.deepcopy(graph)
    scales_that_biases_fit(graph)
    if not for_onnxruntime:
        features_as_tokens(graph)
    try:
        writer = Writer(graph, examples, WRITERS, for_onnxruntime=for_onnxruntime)
        return writer.model(output_names)
    except UnknownOperation:
        if for_onnxruntime:
            features_as_tokens(graph)
        return _by_torch(graph, examples, output_names)


def _by_torch(
    graph: fx.GraphModule, examples: Sequence[Tensor], output_names: Sequence[str]
) -> onnx.ModelProto:
    """The same by torch.onnx.export: slower to write and to run, but it knows every operation.

    There it is the nodes that bear the layers' names, before a slash.
    """
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
            output_names=named(output_names, count),
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # stack traces, with this machine's paths
    model = program.model_proto
    layers = {
        str(_constant(node.args[1]).target): layer_name(node)
        for node in graph.graph.nodes
        if node.target in LAYERS
    }
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.op_type in ("Conv", "MatMul", "Gemm"):
            weight = node.input[1]
            while weight in makers and makers[weight].input:
                weight = makers[weight].input[0]
            if weight in layers:
                node.name = f"{layers[weight]}/{node.name}"
    return model


def _constant(value: Any) -> fx.Node:
    """The constant that a weight is made of."""
    while value.op != "get_attr":
        value = value.args[0]
    return value
