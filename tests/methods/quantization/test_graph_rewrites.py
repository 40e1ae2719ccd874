"""Graphs rewritten for the compiler against what they were."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from methods.casting import in_bfloat16
from methods.layers import LAYERS
from methods.quantization import backends, graph_rewrites, pt2e
from methods.quantization.graph_rewrites import (
    convolutions_as_products,
    features_as_tokens,
    products_give_bf16,
    scales_that_biases_fit,
)
from methods.quantization.record import Quant
from model import HybridCNNTransformer
from tests.support.tiny import tiny

aten = torch.ops.aten


quantized = torch.ops.quantized_decomposed


def calibrated_on(model: HybridCNNTransformer, images: Tensor) -> dict[str, Tensor]:
    batches = [(images, images)]
    quant = backends.with_calibrated_ranges(model, Quant("ptq", "inductor"), batches)
    assert quant.ranges is not None
    return quant.ranges


def targets(graph: fx.GraphModule) -> list[Any]:
    return [node.target for node in graph.graph.nodes]


def test_quantizing_early_changes_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny(), torch.randn(16, 1, 8, 8)
    ranges = calibrated_on(model, images)
    early = pt2e.quantized_graph(model, ranges, [])
    monkeypatch.setattr(pt2e, "quantize_early", lambda graph: None)
    late = pt2e.quantized_graph(model, ranges, [])
    assert "relu" in quantized_values(early) and "flatten" not in quantized_values(early)
    assert "flatten" in quantized_values(late)
    with torch.inference_mode():
        assert torch.equal(early(images), late(images))


def quantized_values(graph: fx.GraphModule) -> str:
    quantize = quantized.quantize_per_tensor.default
    return " ".join(str(node.args[0]) for node in graph.graph.nodes if node.target is quantize)


class Int8Convolution(nn.Module):
    """A convolution as torchao's graphs hold it."""

    def __init__(self, channels: int, kernel: tuple[int, int], stride: int, padding: int):
        super().__init__()
        self.settings = ([stride, stride], [padding, padding])
        shape = (5, channels, *kernel)
        self.register_buffer("weight", torch.randint(-127, 128, shape, dtype=torch.int8))
        self.register_buffer("scales", torch.rand(5) / 100)
        self.register_buffer("zeros", torch.zeros(5, dtype=torch.int64))
        self.register_buffer("bias", torch.randn(5))

    def forward(self, images: Tensor) -> Tensor:
        of_images = (0.02, 117, 0, 255, torch.uint8)
        images = quantized.dequantize_per_tensor.default(images, *of_images)
        weight = quantized.dequantize_per_channel.default(
            self.weight, self.scales, self.zeros, 0, -127, 127, torch.int8
        )
        return aten.conv2d.default(images, weight, self.bias, *self.settings)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("kernel", [(3, 3), (3, 5), (1, 1)])
@pytest.mark.parametrize(("stride", "padding"), [(1, 1), (2, 0), (2, 2)])
def test_a_convolution_as_a_product(
    channels: int, kernel: tuple[int, int], stride: int, padding: int
) -> None:
    torch.manual_seed(0)
    module = Int8Convolution(channels, kernel, stride, padding)
    images = torch.randint(0, 256, (2, channels, 11, 9), dtype=torch.uint8)
    placed = images.contiguous(memory_format=torch.channels_last)
    graph = torch.export.export(module, (placed,)).module()
    assert isinstance(graph, fx.GraphModule)
    expected = graph(placed)
    assert aten.conv2d.default in targets(graph)
    convolutions_as_products(graph)
    assert aten.conv2d.default not in targets(graph) and aten.linear.default in targets(graph)
    torch.testing.assert_close(graph(placed), expected)


def test_large_and_float_convolutions_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    model, images = tiny(), torch.randn(16, 1, 8, 8)
    ranges = calibrated_on(model, images)
    graph = pt2e.quantized_graph(model, ranges, ["cnn.blocks.0.conv"])
    placed = images[:1].contiguous(memory_format=torch.channels_last)
    shaped = torch.export.export(graph, (placed,)).module()
    assert isinstance(shaped, fx.GraphModule)
    count = targets(shaped).count(aten.conv2d.default)
    monkeypatch.setattr(graph_rewrites, "LARGEST_PATCHES", 8)
    convolutions_as_products(shaped)
    assert targets(shaped).count(aten.conv2d.default) == count > 1
    monkeypatch.undo()
    expected = shaped(placed)
    convolutions_as_products(shaped)
    assert targets(shaped).count(aten.conv2d.default) == 1
    torch.testing.assert_close(shaped(placed), expected)


def test_features_as_tokens_are_the_same_values() -> None:
    model, images = tiny(fusion="parallel"), torch.randn(16, 1, 8, 8)
    graph = pt2e.quantized_graph(model, calibrated_on(model, images), [])
    with torch.inference_mode():
        expected = graph(images)
        features_as_tokens(graph)
        torch.testing.assert_close(graph(images), expected)
    assert targets(graph).count(aten.unsqueeze.default) == 2  # before the MLP and the head


def test_biases_fit_int32_and_hide_the_difference() -> None:
    model, images = tiny(), torch.randn(16, 1, 8, 8)
    with torch.no_grad():
        model.embed.weight[0] *= 1e-9
        model.embed.bias[0] = 5.0
    graph = pt2e.quantized_graph(model, calibrated_on(model, images), [])
    with torch.inference_mode():
        expected = graph(images)
        assert largest_bias(graph) > 2**31
        scales_that_biases_fit(graph)
        assert largest_bias(graph) <= 2**30
        torch.testing.assert_close(graph(images), expected)


def largest_bias(graph: fx.GraphModule) -> float:
    """In units of input scale × weight scale, as ONNX Runtime stores it in int32."""
    layers = [node for node in graph.graph.nodes if node.target in LAYERS]
    found = []
    for values, weight, bias in (node.args[:3] for node in layers):
        scale = getattr(graph, weight.args[1].target) * values.args[1]
        owner, _, leaf = bias.target.rpartition(".")
        found.append(float((getattr(graph.get_submodule(owner), leaf).abs() / scale).max()))
    return max(found)


def test_int8_products_give_the_bfloat16_that_attention_wants() -> None:
    model, images = tiny(), torch.randn(64, 1, 8, 8)
    ranges = calibrated_on(model, images)
    graph = pt2e.quantized_graph(model, ranges, ["transformer.layers.1.attention.qkv"])
    products_give_bf16(graph)  # nothing is in bfloat16
    assert torch.ops.prims.convert_element_type.default not in targets(graph)
    shaped = torch.export.export(in_bfloat16(graph), (images,)).module()
    assert isinstance(shaped, fx.GraphModule)
    with torch.inference_mode():
        before = shaped(images)
        products_give_bf16(shaped)
        after = shaped(images)
    seen = []

    class Seeing(fx.Interpreter):
        def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
            if target is aten.linear.default:
                seen.append([value.dtype for value in args[:2]])
            return super().call_function(target, args, kwargs)

    with torch.inference_mode():
        Seeing(shaped).run(images)
    # in the first layer the int8 product, in the second the one that is kept float
    narrow = [number for number, types in enumerate(seen) if types == [torch.bfloat16] * 2]
    assert narrow == [1, 5]
    assert before.dtype == after.dtype == torch.float32
    assert 0 < float((after - before).norm() / before.norm()) < 0.006
