"""Counts against hand formulas and other libraries; metrics of the network that is deployed."""

from __future__ import annotations

import importlib
import io
import itertools

import pytest
import torch
from torch import nn

from dataset import get_dataloaders
from experiment.running import measure
from machine import processor
from machine.environment import environment
from methods.costs import count_macs
from methods.quantization import backends
from methods.quantization.record import Quant
from model import HybridCNNTransformer
from stages.deployment import deploy
from stages.stage import Context
from stages.state import state_of
from tests.conftest import FUSIONS, TINY, tiny


def macs_by_hand(args: dict) -> int:
    """Multiply-accumulates of a network with 3×3 convolutions, from its arguments alone."""
    size, before, macs = args["image_size"], args["in_channels"], 0
    for channels, pool in zip(args["cnn_channels"], args["cnn_pools"], strict=True):
        macs += size * size * channels * before * 9
        size, before = size // pool, channels
    dim, classes = args["embed_dim"], args["num_classes"]
    tokens = size * size
    if args["fusion"] == "serial":
        macs += tokens * before * dim
        features = dim
    elif args["fusion"] == "parallel":
        widths = [before * 4, *args["mlp_dims"]]
        macs += sum(a * b for a, b in itertools.pairwise(widths))
        features, tokens = before + widths[-1], 0
    else:
        patch = args["patch_size"]
        tokens = (args["image_size"] // patch) ** 2
        macs += tokens * dim * args["in_channels"] * patch * patch
        features = before + dim
    if tokens:
        for _ in range(args["num_layers"]):
            macs += tokens * dim * 3 * dim  # qkv
            macs += 2 * tokens * tokens * dim  # q·kᵀ and ·v, over all heads
            macs += tokens * dim * dim  # proj
            macs += 2 * tokens * dim * args["ffn_dim"]
    return macs + features * classes


@pytest.mark.parametrize("fusion", FUSIONS)
def test_macs_equal_a_hand_count_with_attention(fusion: str) -> None:
    args = {**TINY, "fusion": fusion, "num_classes": 10}
    model = HybridCNNTransformer(**args).eval()
    macs, layers = count_macs(model)
    assert macs == macs_by_hand(args)
    attention = 0
    if fusion != "parallel":
        tokens = 16
        attention = 2 * 2 * tokens * tokens * 16
    assert sum(layers.values()) + attention == macs
    assert all(count > 0 for count in layers.values())


def test_reference_network_has_the_known_cost() -> None:
    """1.511 M parameters and 115.0 M MACs with 64/128/256 channels, 64 tokens, 2 layers of 256."""
    args = {
        "image_size": 32,
        "in_channels": 3,
        "num_classes": 10,
        "fusion": "serial",
        "cnn_channels": [64, 128, 256],
        "cnn_pools": [2, 2, 1],
        "embed_dim": 256,
        "num_layers": 2,
        "num_heads": 4,
        "ffn_dim": 512,
    }
    macs, _ = count_macs(HybridCNNTransformer(**args).eval())
    assert macs == macs_by_hand(args)


def test_thop_misses_exactly_the_attention() -> None:
    pytest.importorskip("thop")
    model = HybridCNNTransformer(**{**TINY, "cnn_norm": "none"}).eval()
    macs, layers = count_macs(model)
    thop = measure.thop_macs(model)
    assert thop is not None
    # thop counts a LayerNorm's and a pooling's elements as operations too
    assert sum(layers.values()) <= thop < macs + 16 * 16 * 2 * 5 * 2


def test_thop_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(importlib.import_module("sys").modules, "thop", None)
    metrics = measure.static_metrics(state_of(tiny()))
    assert "thop_macs" not in metrics


def test_bitops_by_hand() -> None:
    model = tiny()
    macs, layers = count_macs(model)
    state = state_of(model)
    assert measure.static_metrics(state)["bitops"] == macs * 1024
    quant = Quant("ptq", "x86", float_layers=("head",))
    quantized = state.changed(state.weights, quant=quant)
    int8 = sum(count for name, count in layers.items() if name != "head")
    assert measure.bitops(quantized, model, macs, layers) == int8 * 64 + (macs - int8) * 1024


def test_metrics_are_those_of_the_deployed_network(ctx: Context) -> None:
    model = tiny()
    images, labels = ctx.dataset.arrays.test_images, ctx.dataset.arrays.test_labels
    loader = get_dataloaders(ctx.dataset, 360).test
    quant = backends.with_calibrated_ranges(model, Quant("ptq", "x86"), loader)
    state = state_of(model).changed(state_of(model).weights, quant=quant)
    metrics = measure.measure(state, loader, torch.device("cpu"))
    with torch.inference_mode():
        logits = deploy(state)(loader.normalize(images))
    assert metrics["accuracy"] == pytest.approx(100 * (logits.argmax(1) == labels).float().mean())
    assert metrics["loss"] == pytest.approx(nn.functional.cross_entropy(logits, labels).item())
    for batch in ("batch_1", "batch_64"):
        timing = metrics["inference_time_ms"][batch]
        assert 0 < timing["median"] <= timing["p95"]
        assert timing["runs"] > 0
        assert timing["threads"] == torch.get_num_threads()
        assert timing["device"].startswith("cpu (")
    assert metrics["flops"] == 2 * metrics["macs"]


def test_int8_is_counted_as_int8() -> None:
    model = tiny(embed_dim=64, ffn_dim=256, cnn_channels=[8, 64])
    state = state_of(model)
    data = [(torch.randn(8, 1, 8, 8), None)]
    quant = backends.with_calibrated_ranges(model, Quant("ptq", "x86"), data)  # type: ignore[arg-type]
    quantized = state.changed(state.weights, quant=quant)
    sizes = [measure.static_metrics(s)["model_size_mb"] for s in (state, quantized)]
    assert sizes[1] < 0.5 * sizes[0]
    buffer = io.BytesIO()
    torch.save(deploy(quantized).state_dict(), buffer)
    assert sizes[1] == len(buffer.getvalue()) / 1e6


def test_nonzero_parameters() -> None:
    model = tiny()
    zeros = sum(int((p == 0).sum()) for p in model.parameters())
    with torch.no_grad():
        model.head.weight[:3] = 0
    metrics = measure.static_metrics(state_of(model))
    assert metrics["params"] - metrics["nonzero_params"] == zeros + 3 * model.head.in_features


def test_environment_names_the_machine() -> None:
    found = environment(torch.device("cpu"))
    assert found["torch"].startswith(torch.__version__.split("+")[0])
    assert found["threads"] == torch.get_num_threads()
    assert set(environment["isa"]) <= set(processor.ISA_FLAGS)
