"""Tiny networks with everything that engines must know how to run."""

from __future__ import annotations

from typing import Any

import torch

from engines.program import Program
from engines.programs import programs
from tests.support.int8 import calibrated_on
from tests.support.tiny import RICH, tiny

NETWORKS: dict[str, dict[str, Any]] = {
    "serial": {},
    "class token": {"pooling": "class_token", "positional_encoding": "sinusoidal"},
    "sequence pooling": {"pooling": "sequence", "ffn_activation": "relu"},
    "depthwise": {"cnn_separable": True, "cnn_activation": "hardswish", "cnn_norm": "group"},
    "no norm": {"cnn_norm": "none", "cnn_activation": "silu", "ffn_activation": "silu"},
    "gelu": {"cnn_activation": "gelu", "ffn_activation": "hardswish", "num_heads": [1, 4]},
    "rich": RICH,
    "parallel": {"fusion": "parallel"},
    "uneven grid": {"fusion": "parallel", "mlp_grid": 3},
    "patches": {"fusion": "parallel_attention", "pooling": "class_token"},
    "exits, patches": {"fusion": "parallel_attention", "exits": ["cnn", "layer_0"]},
    "exits, serial": {"exits": ["cnn", "layer_0"], "dropout": 0.1, "stochastic_depth": 0.1},
}
BACKENDS = (None, "inductor", "x86")  # float32, and int8 by each way of making its graph


def network(name: str, backend: str | None = None) -> list[Program]:
    """One of NETWORKS, with weights that are always the same, as programs."""
    torch.manual_seed(0)
    model, images = tiny(**NETWORKS[name]), torch.randn(64, 1, 8, 8)
    return programs(model, backend and calibrated_on(model, images, backend=backend))  # type: ignore[arg-type]
