"""Sizes computed from the arguments are those of the network."""

from __future__ import annotations

from typing import Any

import torch

from model import HybridCNNTransformer
from networks.args import ModelArgs
from tests.support.tiny import RICH, TINY


def test_what_makes_a_cnn_richer_is_said_only_where_it_is_used() -> None:
    """Keys and files of networks without it stay what they were."""
    plain = ModelArgs(**TINY).resolved()
    unused: list[dict[str, Any]] = [
        {"cnn_residual": False, "cnn_squeeze_excite": 0},
        {"cnn_residual": [False, False], "cnn_squeeze_excite": [0, 0]},
    ]
    for args in unused:
        assert ModelArgs(**TINY, **args).resolved() == plain
    assert not plain.keys() & {"cnn_residual", "cnn_squeeze_excite"}
    rich = ModelArgs(**{**TINY, **RICH}).resolved()
    assert rich.keys() - plain.keys() == {"cnn_residual", "cnn_squeeze_excite"}
    assert rich["cnn_residual"] == [False, True, True, False, True]
    assert ModelArgs(**rich).resolved() == rich


def test_feature_sizes_are_those_of_the_network() -> None:
    args = {**TINY, "image_size": (13, 17), "cnn_strides": [2, 1], "cnn_kernels": [5, 3]}
    model = HybridCNNTransformer(**args)
    seen = []
    for block in model.cnn.blocks:
        block.register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape[2:])))
    model.eval()(torch.zeros(1, 1, 13, 17))
    assert seen == ModelArgs(**args).feature_sizes()
