"""Networks as graphs of aten operations, by torch.export."""

from __future__ import annotations

import copy
import functools
import json
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from machine.files import canonical_json
from machine.noise import drop_remarks, silence
from model import ARCHITECTURES, Network, architecture_of, build_network
from networks.foreign import NetworkError
from networks.network import in_order

# What torch says on the way to an error, which has it as well.
drop_remarks("torch.fx.experimental.symbolic_shapes")

aten = torch.ops.aten
LARGEST_BATCH = 65536
# What gives its own input back while a network is not trained, though its schema does not say so.
HANDING_ON = {aten.dropout.default, aten.feature_dropout.default, aten.alpha_dropout.default}
# Operations that put values in other places.
MOVING = {aten.flatten.using_ints, aten.permute.default, aten.transpose.int}
CONVERSION = aten._to_copy.default  # to another type: exported again, it brings no assertions
CUTTING = {aten.view.default, aten.reshape.default, aten.unbind.int, operator.getitem}
Inputs = tuple[Tensor, ...]  # of a network, or of a part of one between exits


# The last graphs, by what networks are made of: exporting takes a second, whatever the weights,
# which are not kept.
_EXPORTED: dict[str, fx.GraphModule] = {}
KEPT = 16
WIDTHS = ("shapes",)  # arguments that change no operation
REASON = 200  # characters, at most, of what torch says of a network that it does not export


def export(network: nn.Module, inputs: Inputs) -> fx.GraphModule:
    """The operations of `network` for any batch size, in channels_last, with its own weights."""
    placed = network.eval().to(memory_format=torch.channels_last)
    if not isinstance(network, Network):
        return _exported(placed, inputs)
    plain = {name: value for name, value in vars(network).items() if not name.startswith("_")}
    key = f"{plain} {network}"
    own = {**dict(placed.named_parameters()), **dict(placed.named_buffers())}
    if key not in _EXPORTED:
        if len(_EXPORTED) >= KEPT:
            del _EXPORTED[next(iter(_EXPORTED))]
        made = _exported(placed, inputs)
        _give(made, {name: _weightless(value) for name, value in own.items()})
        _EXPORTED[key] = made
    kept = _EXPORTED[key]
    graph = copy.deepcopy(
        kept, {id(weight): weight for weight in kept.state_dict(keep_vars=True).values()}
    )
    _give(graph, own)
    return graph


def _give(graph: fx.GraphModule, tensors: Mapping[str, Tensor]) -> None:
    """Let a graph hold these tensors in the place of those that have their names."""
    for owner, module in graph.named_modules():
        for held in (module._parameters, module._buffers):
            for leaf in held:
                held[leaf] = tensors.get(f"{owner}.{leaf}".removeprefix("."), held[leaf])


def _weightless(value: Tensor) -> Tensor:
    meta = value.detach().to("meta")
    return nn.Parameter(meta, value.requires_grad) if isinstance(value, nn.Parameter) else meta


def exportable(model_args: Mapping[str, Any]) -> None:
    """Raise NetworkError, with torch's reason, for a network that torch.export does not take."""
    structure(model_args)


def structure(model_args: Mapping[str, Any]) -> tuple[fx.GraphModule, ...]:
    """The graphs of a network of these arguments, or of its parts between exits, to look at.

    Their weights are those of nobody. A second for a new architecture, nothing for other widths.
    Raises NetworkError where torch.export does not take the network.
    """
    own = {key: value for key, value in model_args.items() if key not in WIDTHS}
    return _structure(canonical_json(own))


@functools.lru_cache(maxsize=64)
def _structure(about: bytes) -> tuple[fx.GraphModule, ...]:
    with torch.random.fork_rng(devices=[]):  # initial weights are drawn, which is to move nothing
        network = build_network(json.loads(about))
    try:
        with silence():
            return tuple(export(part, inputs).to("meta") for part, inputs in pieces(network))
    except Exception as error:  # torch raises dozens of kinds
        name = network.model_args.get("architecture", "the network")
        raise NetworkError(
            f"{name} cannot be exported as a graph for any batch size: {_reason(error)}",
            "architecture",
        ) from error


def _reason(error: Exception) -> str:
    """The first sentence of what torch says of the network: one line."""
    lines = [line.strip(" -*") for line in str(error).splitlines()]
    own = [line for line in lines if line and not line.startswith("Constraints violated")]
    said = " ".join(own[0].split()).partition(". ")[0] if own else type(error).__name__
    return said if len(said) <= REASON else f"{said[:REASON]}…"


def _exported(network: nn.Module, inputs: Inputs) -> fx.GraphModule:
    if not isinstance(network, Network) or architecture_of(network.model_args) in ARCHITECTURES:
        return _traced(network, inputs)
    # A `view` of a user's network may know images in order alone; what it means holds in any.
    network.to(memory_format=torch.contiguous_format)
    graph = _traced(network, tuple(in_order(v) if v.ndim == 4 else v.contiguous() for v in inputs))
    network.to(memory_format=torch.channels_last)
    for node in graph.graph.nodes:
        if node.op == "placeholder" and len(inputs) == 1:  # a file's readers go by the name
            node._rename("images")
        elif node.target is aten.view.default:
            node.target = aten.reshape.default
        elif node.target is aten.conv2d.padding:
            _pad_by_numbers(graph, node)
    graph.recompile()
    return graph


def _pad_by_numbers(graph: fx.GraphModule, node: fx.Node) -> None:
    """A convolution with padding 'same' or 'valid' as the one operation that all else here knows.

    Where 'same' is one more on the right or below, that one is padded before.
    """
    defaults = [None, [1, 1], "valid", [1, 1], 1]
    arguments: list[Any] = [*node.args, *defaults[len(node.args) - 2 :]]
    images, weight, bias, stride, how, dilation, groups = arguments
    extents = [(n - 1) * d for n, d in zip(weight.meta["val"].shape[2:], dilation, strict=True)]
    padding = [n // 2 for n in extents] if how == "same" else [0, 0]
    if how == "same" and any(n % 2 for n in extents):
        before = images.meta["val"]  # [B, C, H, W]
        with graph.graph.inserting_before(node):
            one_more = [0, extents[1] % 2, 0, extents[0] % 2]
            args = (images, one_more)
            images = graph.graph.call_function(aten.constant_pad_nd.default, args)
        sizes = [size + n % 2 for size, n in zip(before.shape[2:], extents, strict=True)]
        images.meta = {**node.meta, "val": before.new_empty((*before.shape[:2], *sizes))}
    node.target = aten.conv2d.default
    node.args = (images, weight, bias, stride, padding, dilation, groups)


def _traced(network: nn.Module, inputs: Inputs) -> fx.GraphModule:
    batch = torch.export.Dim("batch", min=1, max=LARGEST_BATCH)
    exported = torch.export.export(network, inputs, dynamic_shapes=({0: batch},) * len(inputs))
    graph = exported.module()
    assert isinstance(graph, fx.GraphModule)
    if not without_overwriting(graph):
        graph = exported.run_decompositions({}).module()
        assert isinstance(graph, fx.GraphModule)
        _whole_batch_norms(graph)
    return graph


def without_overwriting(graph: fx.GraphModule) -> bool:
    """Let operations that overwrite a value (`relu_`) give a new one, which all read from there on.

    The input's own memory then stays what it was. False, with `graph` not to be used, where another
    value in the same memory is read afterwards, which takes more than that (`x[:, 0] = 0`). What
    overwrites a network's own tensors stays as it is: no engine but PyTorch does that.
    """
    place = {node: number for number, node in enumerate(graph.graph.nodes)}
    changed = False
    for node in list(graph.graph.nodes):
        schema = getattr(node.target, "_schema", None)
        if node.op != "call_function" or schema is None or not schema.is_mutable:
            continue
        old = node.args[0]
        others = _same_memory(old, node)
        if any(one.op == "get_attr" for one in others):
            continue
        others.discard(old)
        plain = _functional(node.target)
        if plain is None or any(place[user] > place[node] for o in others for user in o.users):
            return False
        node.target, changed = plain, True
        old.replace_all_uses_with(
            node, delete_user_cb=lambda user, node=node: place[user] > place[node]
        )
    if changed:
        graph.graph.eliminate_dead_code()
        graph.recompile()
    return True


def _functional(target: torch._ops.OpOverload) -> torch._ops.OpOverload | None:
    """The operation that gives what `target` writes into its first argument."""
    name = target._schema.name.partition("::")[2]
    packet = getattr(aten, name.removesuffix("_"), None)
    written = [a.alias_info is not None and a.alias_info.is_write for a in target._schema.arguments]
    if not name.endswith("_") or written.index(True) != 0 or sum(written) > 1:
        return None
    return getattr(packet, target._overloadname, None)


def _same_memory(value: fx.Node, without: fx.Node) -> set[fx.Node]:
    """All values of a graph that may lie in the memory of `value`, itself among them.

    But those that `without` gives, or that are views of this one.
    """
    found: set[fx.Node] = set()
    waiting = [value]
    while waiting:
        node = waiting.pop()
        if node not in found and node is not without:
            found.add(node)
            waiting += [*_viewed(node), *(user for user in node.users if node in _viewed(user))]
    return found


def _viewed(node: fx.Node) -> list[fx.Node]:
    """Those of a node's arguments in whose memory what it gives may lie."""
    if node.target is operator.getitem or node.target in HANDING_ON:
        return [node.args[0]]  # type: ignore[list-item]
    schema = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return []
    pairs = zip(schema.arguments, node.args, strict=False)
    return [v for about, v in pairs if about.alias_info is not None and isinstance(v, fx.Node)]


def _whole_batch_norms(graph: fx.GraphModule) -> None:
    """Batch norms as the one operation that all else here knows."""
    for node in list(graph.graph.nodes):
        if node.target is not aten._native_batch_norm_legit_no_training.default:
            continue
        *values, momentum, eps = node.args
        with graph.graph.inserting_before(node):
            args = (*values, False, momentum, eps, True)
            norm = graph.graph.call_function(aten.batch_norm.default, args)
        for item in list(node.users):  # the first of three; the others are of training
            norm.meta = item.meta
            item.replace_all_uses_with(norm)
            graph.graph.erase_node(item)
        graph.graph.erase_node(node)
    graph.recompile()


def example_inputs(model: Network) -> Inputs:
    """Two black images in channels_last."""
    shape = (2, model.model_args["in_channels"], *model.model_args["image_size"])
    device = next(iter(model.parameters())).device
    return (torch.zeros(shape, device=device).to(memory_format=torch.channels_last),)


@torch.no_grad()
def pieces(model: Network) -> list[tuple[Network, Inputs]]:
    """The network, or its parts between exits, each with an example of what it takes."""
    inputs = example_inputs(model)
    if not model.model_args["exits"]:
        return [(model, inputs)]
    found: list[tuple[Network, Inputs]] = []
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
