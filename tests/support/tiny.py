"""Tiny networks for 8×8 grey images: milliseconds a step, and nothing trivial in them."""

from __future__ import annotations

from typing import Any

import torch

from model import HybridCNNTransformer

TINY = {
    "image_size": 8,
    "in_channels": 1,
    "cnn_channels": [8, 16],
    "cnn_pools": [1, 2],
    "embed_dim": 16,
    "num_layers": 2,
    "num_heads": 2,
    "ffn_dim": 24,
    "mlp_dims": [24, 16],
    "patch_size": 2,
}

# A chain of two residual blocks, one behind a pooling; squeeze-excite in a residual block and not.
RICH = {
    "cnn_channels": [8, 8, 8, 16, 16],
    "cnn_pools": [1, 2, 1, 1, 1],
    "cnn_residual": True,
    "cnn_squeeze_excite": [0, 4, 0, 3, 0],
}


FUSIONS = ["serial", "parallel", "parallel_attention"]


def tiny(**args: Any) -> HybridCNNTransformer:
    """A tiny network whose norms and biases are not at their trivial initial values."""
    model = HybridCNNTransformer(**{**TINY, **args}).eval()
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if name.endswith("running_var"):
                value.uniform_(0.5, 2.0)
            elif value.ndim == 1 and value.is_floating_point():
                value.uniform_(-0.5, 1.5)
    return model
