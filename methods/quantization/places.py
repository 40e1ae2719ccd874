"""The places of a graph where int8 rounds values: which they are, observed, given their ranges.

torchao's X86InductorQuantizer decides: inputs of convolutions and linear layers, what is added to a
convolution, what is concatenated, pooled or flattened between them. A place is called by the layer
that reads it, else by the module and the operation that make it ('layer2.0.add').
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from machine.noise import without_warnings
from methods.exported import export, pieces
from methods.layers import LAYERS, called_layer, foldable_norms, module_of
from methods.quantization import fake_quant
from model import HybridCNNTransformer, Network, every_logits

aten = torch.ops.aten

# What the quantizer fuses with the layer before it, by the modules that its patterns name.
FUSED: dict[Any, type[nn.Module]] = {
    **dict.fromkeys((aten.relu.default, aten.relu_.default), nn.ReLU),
    **dict.fromkeys((aten.relu6.default, aten.relu6_.default), nn.ReLU6),
    **dict.fromkeys((aten.hardtanh.default, aten.hardtanh_.default), nn.Hardtanh),
    **dict.fromkeys((aten.hardswish.default, aten.hardswish_.default), nn.Hardswish),
    **dict.fromkeys((aten.silu.default, aten.silu_.default), nn.SiLU),
    **dict.fromkeys((aten.leaky_relu.default, aten.leaky_relu_.default), nn.LeakyReLU),
    aten.gelu.default: nn.GELU,
    aten.tanh.default: nn.Tanh,
}
ADDITIONS = (aten.add.Tensor, aten.add_.Tensor)
# Operations that hand values on as they are, so that a range holds on both sides.
PRESERVING = {
    aten.max_pool2d.default,
    aten.flatten.using_ints,
    aten.permute.default,
    aten.transpose.int,
    aten.dropout.default,
    aten.select.int,
}


class Observed(nn.Module):
    """A copy of a network, and once it is to observe the graphs that int8 runs, in floating point.

    With early exits it gives the logits of all: `[E + 1, B, K]`. `observer` is one of fake_quant's
    OBSERVERS, `levels` are those of weights.
    """

    def __init__(
        self, model: Network, float_layers: list[str], observer: str, levels: tuple[int, int]
    ):
        super().__init__()
        self.network = copy.deepcopy(model).cpu().eval()
        self.float_layers, self.observer, self.levels = float_layers, observer, levels
        self.parts = nn.ModuleList()

    def begin(self) -> None:
        """From here on what runs through is observed."""
        kind = fake_quant.observer_class(self.observer)
        self.parts = nn.ModuleList(
            with_observers(export(part, inputs), self.float_layers, self.levels, kind)
            for part, inputs in pieces(self.network)
        )

    def forward(self, images: Tensor) -> Tensor:
        if len(self.parts) == 1:
            return self.parts[0](images)
        return every_logits(self.parts, images)

    def places(self) -> dict[str, tuple[Any, list[fx.Node]]]:
        """`places` of all graphs."""
        found: dict[str, tuple[Any, list[fx.Node]]] = {}
        for number, part in enumerate(self.parts):
            assert isinstance(part, fx.GraphModule)
            found |= places(part, self.network, number)
        return found

    def ranges(self, trained: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Place → float32 `[scale, zero point]`, of what was observed, or `trained`.

        A layer's trained range is that of its input alone, so it counts where int8 gives no other
        value the same range, as it does to all that is concatenated or averaged. Raises ValueError
        for what saw no image.
        """
        found: dict[str, Tensor] = {}
        for place, (observer, nodes) in self.places().items():
            if not torch.isfinite(observer.min_val).all():
                raise ValueError(f"{place}: saw no image, so its range is unknown")
            scale, zero_point = observer.calculate_qparams()
            found[place] = torch.cat([scale.float(), zero_point.float()]).cpu()
            alone = len({node.args[0] for node in nodes}) == 1
            if trained is not None and place in trained and alone:
                found[place] = trained[place]
        return found


def with_observers(
    graph: fx.GraphModule,
    float_layers: Collection[str],
    levels: tuple[int, int],
    observer: Any,
) -> fx.GraphModule:
    """`graph`, itself changed, with observers where int8 rounds; layers but `float_layers` do.

    `observer` is the class of those of values, `levels` are those of weights.
    """
    with without_warnings():
        from torchao.quantization.pt2e import PerChannelMinMaxObserver
        from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e
        from torchao.quantization.pt2e.quantizer import QuantizationConfig, QuantizationSpec
        from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

        _hide_norms(graph)
        _name_sources(graph, float_layers)
        low, high = fake_quant.ACTIVATION_RANGE
        values = QuantizationSpec(torch.uint8, observer, low, high, torch.per_tensor_affine)
        low, high = levels
        # torchao's own configuration bounds a weight's scale by 2^-12: small channels lie below.
        weights = QuantizationSpec(
            torch.int8,
            PerChannelMinMaxObserver.with_args(eps=fake_quant.SMALLEST_SCALE),
            *(low, high, torch.per_channel_symmetric),
            ch_axis=0,
        )
        quantizer = X86InductorQuantizer()
        quantizer.set_global(QuantizationConfig(values, values, weights, None, False))
        return prepare_pt2e(graph, quantizer)


def places(
    graph: fx.GraphModule, model: Network, part: int = 0
) -> dict[str, tuple[Any, list[fx.Node]]]:
    """Place → its observer and the nodes at which this one stands, in a graph that has them.

    `model` is the network, or the one whose part number `part` the graph is.
    """
    found: dict[str, tuple[Any, list[fx.Node]]] = {}
    for observer, nodes in _observers(graph):
        if isinstance(model, HybridCNNTransformer):  # places of old files, which two may share
            name = _hybrids_place(nodes[0])
        else:
            name = _place(nodes, part)
            same = sum(other.partition(" ")[0] == name for other in found)
            name = f"{name} ({same + 1})" if same else name
        found.setdefault(name, (observer, []))[1].extend(nodes)
    return found


def set_ranges(
    graph: fx.GraphModule, model: Network, ranges: Mapping[str, Tensor], part: int = 0
) -> None:
    """Give every observer of values the range of its place. Raises ValueError for one without."""
    from torchao.quantization.pt2e.observer import FixedQParamsObserver

    for place, (_, nodes) in places(graph, model, part).items():
        if place not in ranges:
            known = ", ".join(ranges)
            raise ValueError(f"the stored ranges do not fit this network: {place} of {known}")
        scale, zero_point = ranges[place].tolist()
        low, high = fake_quant.ACTIVATION_RANGE
        fixed = FixedQParamsObserver(
            scale, int(zero_point), torch.uint8, torch.per_tensor_affine, low, high
        )
        for node in nodes:
            graph.add_submodule(str(node.target), fixed)


def _observers(graph: fx.GraphModule) -> Iterator[tuple[Any, list[fx.Node]]]:
    """The observers of values, each with its nodes: one may stand at several."""
    from torchao.quantization.pt2e.observer import PerChannelMinMaxObserver

    modules = dict(graph.named_modules(remove_duplicate=False))
    found: dict[int, tuple[Any, list[fx.Node]]] = {}
    for node in graph.graph.nodes:
        observer = modules.get(str(node.target)) if node.op == "call_module" else None
        if hasattr(observer, "calculate_qparams") and not isinstance(
            observer, PerChannelMinMaxObserver
        ):
            found.setdefault(id(observer), (observer, []))[1].append(node)
    yield from found.values()


def _place(nodes: list[fx.Node], part: int) -> str:
    """The layer that reads what an observer sees, else what makes it."""
    for node in nodes:
        for user in node.users:
            if (layer := called_layer(user)) is not None:
                return layer
    made: Any = nodes[0].args[0]
    if made.op != "call_function":  # an input of the graph, or a parameter
        return f"{made.target} of part {part}" if part else str(made.target)
    operation = made.target.__name__.partition(".")[0].removesuffix("_")
    return f"{module_of(made)}.{operation}".removeprefix(".")


def _hybrids_place(observer: fx.Node) -> str:
    """The layer whose input an observer sees, else that it sees the CNN's output."""
    waiting = list(observer.users)
    while waiting:
        node = waiting.pop(0)
        if node.target in LAYERS:
            name = called_layer(node)
            assert name is not None
            return name
        if node.op == "call_module" or node.target in PRESERVING:
            waiting += node.users
    return fake_quant.FEATURES


def _name_sources(graph: fx.GraphModule, float_layers: Collection[str]) -> None:
    """Let the quantizer's patterns see single operations, and as layers those that become int8.

    By itself it goes by modules: it then takes two calls of one nn.ReLU for one operation (an
    error in torchao 0.18), and sees neither functions nor additions to numbers for what they are.
    """
    for node in graph.graph.nodes:
        if node.op != "call_function":
            continue
        source = FUSED.get(node.target, node.target)
        if node.target in LAYERS:
            stays_float = called_layer(node) in (None, *float_layers)
            source = "product" if stays_float else LAYERS[node.target]
        elif node.target in ADDITIONS:
            plain = not node.kwargs and all(isinstance(value, fx.Node) for value in node.args)
            source = operator.add if plain else "addition"
        node.meta["source_fn_stack"] = [(node.name, source)]


def _hide_norms(graph: fx.GraphModule) -> None:
    """Keep batch norms that cannot be folded from torchao (0.18) under another name.

    It would fold them whatever else reads the product before them or shares its weight, and where
    one stays in a graph it looks for patterns of training, a minute long.
    """
    foldable = set(foldable_norms(graph).values())
    for node in graph.graph.nodes:
        if node.target is aten.batch_norm.default and module_of(node) not in foldable:
            node.target = batch_norm
    graph.recompile()


def show_norms(graph: fx.GraphModule) -> None:
    """Give these batch norms their name again."""
    for node in graph.graph.nodes:
        if node.target is batch_norm:
            node.target = aten.batch_norm.default
    graph.recompile()


def batch_norm(*args: Any) -> Tensor:
    """aten's."""
    return aten.batch_norm.default(*args)
