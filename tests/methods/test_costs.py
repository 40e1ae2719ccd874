"""Counted multiply-accumulates against a formula by hand."""

from __future__ import annotations

import pytest

from methods.costs import count_macs
from model import HybridCNNTransformer
from tests.support.macs import macs_by_hand
from tests.support.tiny import FUSIONS, TINY


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
