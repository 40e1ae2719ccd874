"""What a backend simulates in training is what it deploys, for every kind of network."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from machine.files import tensor_bytes
from methods.quantization import backends, fake_quant
from methods.quantization.record import Quant
from model import HybridCNNTransformer
from stages.deployment import deploy
from stages.state import state_of
from tests.support.int8 import calibrated_on, off, simulated, to_int8
from tests.support.tiny import RICH, tiny

NETWORKS: dict[str, dict[str, Any]] = {
    "serial": {},
    "parallel": {"fusion": "parallel"},
    "patches": {"fusion": "parallel_attention", "pooling": "class_token"},
    "separable": {"pooling": "sequence", "cnn_separable": True, "cnn_norm": "group"},
    "hardswish": {"cnn_norm": "none", "cnn_activation": "hardswish", "ffn_activation": "relu"},
    "rich": RICH,
    "rich, parallel": {**RICH, "fusion": "parallel", "cnn_separable": True},
    "silu": {"fusion": "parallel", "cnn_activation": "silu"},
}


@pytest.mark.parametrize(
    ("name", "reduce_range"), [*((n, False) for n in NETWORKS), ("serial", True)]
)
def test_what_is_simulated_is_what_is_deployed(name: str, reduce_range: bool) -> None:
    model, images = tiny(**NETWORKS[name]), torch.randn(64, 1, 8, 8)
    quant = calibrated_on(model, images, reduce_range=reduce_range)
    network = to_int8(model, quant)
    levels = [v.int().abs().max() for v in network.state_dict().values() if v.dtype == torch.int8]
    assert max(levels) == (64 if reduce_range else 128)
    with torch.inference_mode():
        expected, found = model(images), network(images)
        twin = simulated(model, quant, images)(images)
    assert 0 < off(found, expected) < (0.04 if reduce_range else 0.02)
    assert off(twin, found) < 0.006
    assert off(twin, found) < off(found, expected)


def test_float_layers_stay_float() -> None:
    model, images = tiny(), torch.randn(32, 1, 8, 8)
    quant = calibrated_on(model, images, float_layers=["head", "cnn.*"])
    network = to_int8(model, quant)
    kept = {n for n, v in network.state_dict().items() if v.dtype == torch.float32 and v.ndim > 1}
    assert {"cnn.blocks.0.conv.weight", "head.weight"} <= kept
    assert not any("attention" in name for name in kept)
    with torch.inference_mode():
        twin = simulated(model, quant, images)(images)
        assert off(twin, network(images)) < 0.006


def test_int8_size_is_a_quarter_of_float() -> None:
    """As files: for the reference network of 1.5 M parameters, whose file names weigh little."""
    widths = {"cnn_channels": [64, 128, 256], "cnn_pools": [2, 2, 1], "embed_dim": 256}
    model = HybridCNNTransformer(**widths, ffn_dim=512).eval()
    images = torch.randn(8, 3, 32, 32)
    state = replace(state_of(model), quant=calibrated_on(model, images))
    ratio = len(tensor_bytes(deploy(state).whole.state_dict())) / len(
        tensor_bytes(model.state_dict())
    )
    assert 0.25 < ratio <= 0.27


def test_ranges_of_another_backend_or_network_are_refused() -> None:
    model, images = tiny(), torch.randn(8, 1, 8, 8)
    fx = backends.with_calibrated_ranges(model, Quant("ptq", "x86"), [(images, images)])
    with pytest.raises(ValueError, match="the stored ranges do not fit this network"):
        to_int8(model, Quant("ptq", "inductor", ranges=fx.ranges))
    mine = calibrated_on(model, images)
    with pytest.raises(ValueError, match="the stored ranges do not fit this network"):
        to_int8(model, Quant("ptq", "x86", ranges=mine.ranges))
    with pytest.raises(ValueError, match="saw no image"):
        fake_quant.observed_ranges(fake_quant.prepare(model, [], "minmax", train=False))


@pytest.mark.parametrize("backend", ["x86", "fbgemm", "qnnpack"])
@pytest.mark.parametrize("scheme", ["ptq", "qat"])
def test_int8_is_close_to_float(scheme: str, backend: str) -> None:
    if backends.unavailable(backend) is not None:
        pytest.skip(f"{backend} is not in this build of torch")
    model = tiny()
    images = torch.randn(64, 1, 8, 8)
    quant = backends.with_calibrated_ranges(model, Quant(scheme, backend), [(images, images)])
    with torch.inference_mode():
        expected, found = model(images), to_int8(model, quant)(images)
    error = (expected - found).norm() / expected.norm()
    assert 0 < error < 0.1


def test_masters_come_back_by_name() -> None:
    model = tiny()
    quant = Quant("qat", "x86")
    prepared = backends.prepare(model, quant)
    names = backends.master_names(prepared, model, quant)
    found = prepared.state_dict()
    assert names["cnn.blocks.0.norm.weight"] == "cnn.blocks.0.conv.bn.weight"
    assert len(set(names.values())) == len(names) == len(model.state_dict())
    for name, value in model.state_dict().items():
        assert torch.equal(found[names[name]], value), name
