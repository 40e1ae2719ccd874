"""Counted multiply-accumulates against a formula by hand."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from methods.costs import count_macs, part_macs, planned_macs
from model import HybridCNNTransformer
from tests.support.macs import macs_by_hand
from tests.support.tiny import FUSIONS, RICH, TINY


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


ODD: list[dict[str, Any]] = [
    {},
    {"pooling": "class_token", "cnn_separable": True},
    {"pooling": "sequence", "cnn_kernels": [5, 3], "cnn_strides": [1, 2], "image_size": [12, 8]},
    {"ffn_dim": [24, 7], "num_heads": [2, 3], "head_dim": [5, 4], "in_channels": 3},
    {"mlp_grid": 3, "num_classes": 3, "num_layers": 3, "patch_size": 4},
    {**RICH, "cnn_strides": [1, 1, 1, 2, 1]},
]


@pytest.mark.parametrize("args", ODD, ids=str)
@pytest.mark.parametrize("fusion", FUSIONS)
def test_planned_macs_are_those_that_run(fusion: str, args: dict[str, Any]) -> None:
    """Whole and at every exit, against what torch counts while the network runs."""
    whole = {**TINY, "fusion": fusion, **args}
    assert planned_macs(whole) == [count_macs(HybridCNNTransformer(**whole).eval())[0]]
    last = 1 if fusion == "parallel" else whole["num_layers"]
    for exits in (["cnn"], ["cnn", *(f"layer_{i}" for i in range(last - 1))]):
        model = HybridCNNTransformer(**whole, exits=exits).eval()
        counted = itertools.accumulate(macs for macs, _ in part_macs(model))
        assert planned_macs(model.model_args) == list(counted)
