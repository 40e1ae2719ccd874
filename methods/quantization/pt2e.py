"""int8 through torchao's PT2E export quantization: backend `pt2e`.

Observing and training happen on the float network (fake_quant.py); here it is exported and
quantized by torchao's X86InductorQuantizer with the ranges found. Engines run the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from machine.noise import without_warnings
from methods.exported import Inputs, drop_unused, example_inputs, export
from methods.quantization import fake_quant
from methods.quantization.fake_quant import (
    OBSERVERS,
    begin_observing,
    observed_ranges,
    set_observing,
)
from methods.quantization.graph_rewrites import quantize_early, subtract_what_must_stay
from methods.quantization.record import Quant
from model import HybridCNNTransformer

__all__ = ["OBSERVERS", "begin_observing", "observed_ranges", "set_observing"]
TRAINS_IN_BF16 = True
RUN_IN_TORCH = False  # PyTorch by itself would only simulate the graph, and slowly

# Operations that hand values on as they are, so that a range holds on both sides.
PRESERVING = {
    torch.ops.aten.max_pool2d.default,
    torch.ops.aten.flatten.using_ints,
    torch.ops.aten.permute.default,
    torch.ops.aten.transpose.int,
    torch.ops.aten.dropout.default,
    torch.ops.aten.select.int,
}
LAYERS = {torch.ops.aten.conv2d.default, torch.ops.aten.linear.default}


def unavailable(backend: str) -> str | None:
    """None: graphs are made wherever torch runs."""
    return None


def prepare(
    model: HybridCNNTransformer,
    backend: str,
    float_layers: list[str],
    observer: str,
    *,
    qat: bool,
    reduce_range: bool,
) -> nn.Module:
    """A copy of `model`: in eval mode with observers, or in train mode with fake quantization."""
    observer = "moving_average" if qat else observer
    return fake_quant.prepare(model, float_layers, observer, train=qat, reduce_range=reduce_range)


def master_names(prepared: nn.Module, model: HybridCNNTransformer) -> dict[str, str]:
    """Every parameter and buffer keeps its name."""
    return {name: name for name in model.state_dict()}


def simulated(prepared: nn.Module, backend: str) -> nn.Module:
    """The observed network itself, rounding from now on; deployed logits differ by 0.2 %."""
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
    model, float_layers = fake_quant.float_copy(prepared), fake_quant.float_layers_of(prepared)
    levels = fake_quant.levels_of(prepared)
    parts = model.parts() if model.model_args["exits"] else [model]
    return [
        (quantized_graph(part, ranges, float_layers, each, levels=levels), None)
        for part, each in zip(parts, inputs, strict=True)
    ]


def quantized_graph(
    model: HybridCNNTransformer,
    ranges: dict[str, Tensor],
    float_layers: list[str],
    inputs: tuple[Tensor, ...] | None = None,
    *,
    levels: tuple[int, int] = fake_quant.WEIGHT_RANGE,
) -> fx.GraphModule:
    """`model` with int8 weights and quantize/dequantize operations, as torchao's graph.

    `inputs` are an example of what a part of a network takes (None: images); `levels` of weights.

    Run as it is, it gives the int8 network's logits slowly: a reference for what is compiled.
    """
    with without_warnings():
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        inputs = inputs or example_inputs(model)
        prepared = prepare_pt2e(export(model, inputs), _quantizer(float_layers, levels))
        _set_ranges(prepared, ranges)
        with torch.no_grad():
            prepared(*inputs)  # the observers of the weights have to see them
        for node in prepared.graph.nodes:
            if node.target in LAYERS:
                node.meta["layer"] = _layer(node)  # int8 weights have no names
        graph = convert_pt2e(prepared)
    quantize_early(graph)
    subtract_what_must_stay(graph)
    drop_unused(graph)
    return graph


def recorded(prepared: nn.Module) -> tuple[HybridCNNTransformer, Quant]:
    """The float network that was prepared, and how it is quantized, by the ranges seen."""
    reduced = fake_quant.levels_of(prepared) == fake_quant.REDUCED_WEIGHT_RANGE
    quant = Quant(
        "ptq",
        "pt2e",
        float_layers=tuple(fake_quant.float_layers_of(prepared)),
        ranges=observed_ranges(prepared),
        reduce_range=reduced,
    )
    return fake_quant.float_copy(prepared), quant


def _quantizer(float_layers: list[str], levels: tuple[int, int]) -> Any:
    from torchao.quantization.pt2e import observer as torchao
    from torchao.quantization.pt2e.quantizer import QuantizationConfig, QuantizationSpec
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer

    low, high = fake_quant.ACTIVATION_RANGE
    activation = QuantizationSpec(
        torch.uint8, torchao.MinMaxObserver, low, high, torch.per_tensor_affine
    )
    low, high = levels
    # torchao's own configuration bounds a weight's scale by 2^-12, which small channels are below.
    observer = torchao.PerChannelMinMaxObserver.with_args(eps=fake_quant.SMALLEST_SCALE)
    weight = QuantizationSpec(
        torch.int8, observer, low, high, torch.per_channel_symmetric, ch_axis=0
    )
    quantizer = X86InductorQuantizer()
    quantizer.set_global(QuantizationConfig(activation, activation, weight, None, False))
    for name in float_layers:
        quantizer.set_module_name_qconfig(name, None)
    return quantizer


def _set_ranges(prepared: fx.GraphModule, ranges: dict[str, Tensor]) -> None:
    """Give every activation observer the range of the place that it stands at."""
    from torchao.quantization.pt2e.observer import FixedQParamsObserver, PerChannelMinMaxObserver

    modules = dict(prepared.named_modules(remove_duplicate=False))
    fixed: dict[int, nn.Module] = {}  # one observer may stand at several nodes: the first says
    for node in prepared.graph.nodes:
        if node.op != "call_module" or node.target not in modules:
            continue
        observer = modules[node.target]
        if not hasattr(observer, "calculate_qparams") or isinstance(
            observer, PerChannelMinMaxObserver
        ):
            continue
        if id(observer) not in fixed:
            place = _place(node)
            if place not in ranges:
                known = ", ".join(ranges)
                raise ValueError(f"the stored ranges do not fit this network: {place} of {known}")
            scale, zero_point = ranges[place].tolist()
            low, high = fake_quant.ACTIVATION_RANGE
            fixed[id(observer)] = FixedQParamsObserver(
                scale, int(zero_point), torch.uint8, torch.per_tensor_affine, low, high
            )
        prepared.add_submodule(node.target, fixed[id(observer)])


def _place(observer: fx.Node) -> str:
    """The layer whose input an observer sees, else that it sees the CNN's output."""
    waiting = list(observer.users)
    while waiting:
        node = waiting.pop(0)
        if node.target in LAYERS:
            return _layer(node)
        if node.op == "call_module" or node.target in PRESERVING:
            waiting += node.users
    return fake_quant.FEATURES


def _layer(node: fx.Node) -> str:
    """The name of the layer that a convolution or linear node belongs to, by its weight."""
    weight = node.args[1]
    while isinstance(weight, fx.Node) and weight.op != "get_attr":
        weight = weight.args[0]
    assert isinstance(weight, fx.Node)
    return str(weight.target).removesuffix(".weight")
