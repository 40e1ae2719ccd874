"""Networks as graphs of aten operations, by torch.export."""

from __future__ import annotations

import copy
import operator

import torch
from torch import Tensor, fx, nn

from model import HybridCNNTransformer, ModelPart

aten = torch.ops.aten
LARGEST_BATCH = 65536
# Operations that put values in other places.
MOVING = {aten.flatten.using_ints, aten.permute.default, aten.transpose.int}
CONVERSION = aten._to_copy.default  # to another type: exported again, it brings no assertions
CUTTING = {aten.view.default, aten.unbind.int, operator.getitem}
Inputs = tuple[Tensor, ...]  # of a network, or of a part of one between exits


# The last graphs, by what networks are made of: exporting takes a second, whatever the weights.
_EXPORTED: dict[str, fx.GraphModule] = {}
KEPT = 16


def export(network: nn.Module, inputs: Inputs) -> fx.GraphModule:
    """The operations of `network` for any batch size, in channels_last, with its own weights."""
    placed = network.eval().to(memory_format=torch.channels_last)
    if type(network) not in (HybridCNNTransformer, ModelPart):
        return _exported(placed, inputs)
    plain = {name: value for name, value in vars(network).items() if not name.startswith("_")}
    key = f"{plain} {network}"
    if key not in _EXPORTED:
        if len(_EXPORTED) >= KEPT:
            del _EXPORTED[next(iter(_EXPORTED))]
        _EXPORTED[key] = _exported(placed, inputs)
    kept = _EXPORTED[key]
    graph = copy.deepcopy(
        kept, {id(weight): weight for weight in kept.state_dict(keep_vars=True).values()}
    )
    own = {**dict(placed.named_parameters()), **dict(placed.named_buffers())}
    for owner, module in graph.named_modules():
        for held in (module._parameters, module._buffers):
            for leaf in held:
                name = f"{owner}.{leaf}".removeprefix(".")
                held[leaf] = own.get(name, held[leaf])
    return graph


def _exported(network: nn.Module, inputs: Inputs) -> fx.GraphModule:
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    exported = torch.export.export(network, inputs, dynamic_shapes=({0: batch},) * len(inputs))
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
