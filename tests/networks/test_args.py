"""Sizes computed from the arguments are those of the network."""

from __future__ import annotations

import torch

from model import HybridCNNTransformer
from networks.args import ModelArgs
from tests.support.tiny import TINY


def test_feature_sizes_are_those_of_the_network() -> None:
    args = {**TINY, "image_size": (13, 17), "cnn_strides": [2, 1], "cnn_kernels": [5, 3]}
    model = HybridCNNTransformer(**args)
    seen = []
    for block in model.cnn.blocks:
        block.register_forward_hook(lambda m, i, out: seen.append(tuple(out.shape[2:])))
    model.eval()(torch.zeros(1, 1, 13, 17))
    assert seen == ModelArgs(**args).feature_sizes()
