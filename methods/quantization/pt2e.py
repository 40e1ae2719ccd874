"""int8 through torchao's PT2E export quantization: backend `pt2e`.

Training happens on the float network (fake_quant.py), and the hybrid is observed there as well,
others on their graph (places.py). Here a network is exported and quantized by torchao's
X86InductorQuantizer with the ranges found. Engines run the graph.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, fx, nn

from machine.noise import without_warnings
from methods.early_exit.exits import SplitNetwork
from methods.exported import Inputs, drop_unused, example_inputs, export, pieces
from methods.layers import called_layer
from methods.quantization import fake_quant
from methods.quantization.fake_quant import OBSERVERS, set_observing
from methods.quantization.graph_rewrites import (
    products_of_rounded,
    quantize_early,
    subtract_what_must_stay,
)
from methods.quantization.places import Observed, set_ranges, show_norms, with_observers
from methods.quantization.record import Quant
from model import HybridCNNTransformer, Network

__all__ = ["OBSERVERS", "set_observing"]
TRAINS_IN_BF16 = True
TRAINS_RECORDED = True  # no step of training looks at a value
RUN_IN_TORCH = False  # PyTorch by itself would only simulate the graph, and slowly
TAKES_ANY_NETWORK = True  # that torch.export takes


def unavailable(backend: str) -> str | None:
    """None: graphs are made wherever torch runs."""
    return None


def prepare(
    model: Network,
    backend: str,
    float_layers: list[str],
    observer: str,
    *,
    qat: bool,
    reduce_range: bool,
) -> nn.Module:
    """A copy of `model`: in eval mode with observers, or in train mode with fake quantization."""
    if not qat:
        return observing(model, backend, float_layers, observer, qat=qat, reduce_range=reduce_range)
    return fake_quant.prepare(
        model, float_layers, "moving_average", train=True, reduce_range=reduce_range
    )


def observing(
    model: Network,
    backend: str,
    float_layers: list[str],
    observer: str,
    *,
    qat: bool,
    reduce_range: bool,
) -> nn.Module:
    """A copy of `model` that observes the ranges of all places at which its int8 form rounds."""
    observer = "moving_average" if qat else observer
    if isinstance(model, HybridCNNTransformer):
        return fake_quant.prepare(
            model, float_layers, observer, train=False, reduce_range=reduce_range
        )
    return Observed(model, float_layers, observer, fake_quant.levels(reduce_range))


def begin_observing(prepared: nn.Module) -> None:
    """From here on what runs through is observed, in floating point."""
    if isinstance(prepared, Observed):
        prepared.begin()
    else:
        fake_quant.begin_observing(prepared)


def observed_ranges(prepared: nn.Module) -> dict[str, Tensor]:
    """Place → float32 `[scale, zero point]`. Raises ValueError for what was never observed."""
    if isinstance(prepared, Observed):
        return prepared.ranges()
    return fake_quant.observed_ranges(prepared)


def lacks_ranges(model: Network, quant: Quant) -> bool:
    """Whether places at which `model` rounds are without a range: training knows layers alone."""
    if quant.ranges is None:
        return True
    if quant.scheme != "qat" or isinstance(model, HybridCNNTransformer):
        return False
    graphs = Observed(model, list(quant.float_layers), "minmax", fake_quant.WEIGHT_RANGE)
    graphs.begin()
    return not graphs.places().keys() <= quant.ranges.keys()


def master_names(prepared: nn.Module, model: Network) -> dict[str, str]:
    """Every parameter and buffer keeps its name."""
    return {name: name for name in model.state_dict()}


def simulated(prepared: nn.Module, backend: str) -> nn.Module:
    """The observed network itself, rounding from now on; deployed logits differ by 0.2 %.

    Of others than the hybrid it is the graph that is deployed, which PyTorch runs slowly.
    """
    if isinstance(prepared, Observed):
        graphs = _graphs(prepared, prepared.ranges())
        return graphs[0] if len(graphs) == 1 else SplitNetwork(graphs)
    set_observing(prepared, False)
    fake_quant.set_quantizing(prepared, True)
    return prepared


def native_int8(prepared: nn.Module, backend: str, ranges: dict[str, Tensor]) -> None:
    """PyTorch by itself would only simulate the graph."""


def int8_forms(
    prepared: nn.Module, backend: str, ranges: dict[str, Tensor], inputs: Sequence[Inputs]
) -> list[tuple[fx.GraphModule, nn.Module | None]]:
    """The int8 network, or its parts between exits, with activations quantized as `ranges` says.

    Raises ValueError for ranges that do not fit the network.
    """
    return [(graph, None) for graph in _graphs(prepared, ranges)]


def _graphs(prepared: nn.Module, ranges: dict[str, Tensor]) -> list[fx.GraphModule]:
    model, float_layers, levels = _parts_of(prepared)
    return [
        quantized_graph(part, ranges, float_layers, inputs, levels=levels, number=number)
        for number, (part, inputs) in enumerate(pieces(model))
    ]


def _parts_of(prepared: nn.Module) -> tuple[Network, list[str], tuple[int, int]]:
    """The float network that was prepared, the layers kept float, the levels of weights."""
    if isinstance(prepared, Observed):
        return prepared.network, prepared.float_layers, prepared.levels
    layers = fake_quant.float_layers_of(prepared)
    return fake_quant.float_copy(prepared), layers, fake_quant.levels_of(prepared)


def quantized_graph(
    model: Network,
    ranges: dict[str, Tensor],
    float_layers: list[str],
    inputs: tuple[Tensor, ...] | None = None,
    *,
    levels: tuple[int, int] = fake_quant.WEIGHT_RANGE,
    number: int = 0,
) -> fx.GraphModule:
    """`model` with int8 weights and quantize/dequantize operations, as torchao's graph.

    `inputs` are an example of what a part of a network takes (None: images), `number` is the
    part's; `levels` of weights.

    Run as it is, it gives the int8 network's logits slowly: a reference for what is compiled.
    """
    with without_warnings():
        from torchao.quantization.pt2e import MinMaxObserver
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

        inputs = inputs or example_inputs(model)
        prepared = with_observers(export(model, inputs), float_layers, levels, MinMaxObserver)
        set_ranges(prepared, model, ranges, number)
        with torch.no_grad():
            prepared(*inputs)  # the observers of the weights have to see them
        for node in prepared.graph.nodes:
            if (layer := called_layer(node)) is not None:
                node.meta["layer"] = layer  # int8 weights have no names
        graph = convert_pt2e(prepared)
    show_norms(graph)
    quantize_early(graph)
    products_of_rounded(graph)
    subtract_what_must_stay(graph)
    drop_unused(graph)
    return graph


def recorded(prepared: nn.Module) -> tuple[Network, Quant]:
    """The float network that was prepared, and how it is quantized, by the ranges seen."""
    model, float_layers, levels = _parts_of(prepared)
    quant = Quant(
        "ptq",
        "pt2e",
        float_layers=tuple(float_layers),
        ranges=observed_ranges(prepared),
        reduce_range=levels == fake_quant.REDUCED_WEIGHT_RANGE,
    )
    return model, quant
