"""Networks as graphs of aten operations, by torch.export."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx, nn

from model import HybridCNNTransformer

aten = torch.ops.aten
LARGEST_BATCH = 65536
# Operations that put values in other places.
MOVING = {aten.flatten.using_ints, aten.permute.default, aten.transpose.int}
CONVERSION = aten._to_copy.default  # to another type: exported again, it brings no assertions
CUTTING = {aten.view.default, aten.unbind.int, operator.getitem}
Inputs = tuple[Tensor, ...]  # of a network, or of a part of one between exits


def export(network: nn.Module, inputs: Inputs) -> fx.GraphModule:
    """The operations of `network` for any batch size, in channels_last."""
    placed = network.eval().to(memory_format=torch.channels_last)
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    exported = torch.export.export(placed, inputs, dynamic_shapes=({0: batch},) * len(inputs))
    graph = exported.module()
    assert isinstance(graph, fx.GraphModule)
    return graph


def example_inputs(model: HybridCNNTransformer) -> Inputs:
    """Two black images in channels_last."""
    shape = (2, model.model_args["in_channels"], *model.model_args["image_size"])
    return (torch.zeros(shape).to(memory_format=torch.channels_last),)


@torch.no_grad()
def pieces(model: HybridCNNTransformer) -> list[tuple[HybridCNNTransformer, Inputs]]:
    """The network, or its parts between exits, each with an example of what it takes."""
    inputs = example_inputs(model)
    if not model.model_args["exits"]:
        return [(model, inputs)]
    found: list[tuple[HybridCNNTransformer, Inputs]] = []
    for part in model.parts():
        found.append((part, inputs))
        inputs = part(*inputs)[1:]
    return found


def drop_unused(graph: fx.GraphModule) -> None:
    """Delete the weights that nothing uses any more, as others have replaced them."""
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name in [*dict(graph.named_parameters()), *dict(graph.named_buffers())]:
        if name not in used:
            owner, _, leaf = name.rpartition(".")
            delattr(graph.get_submodule(owner), leaf)
