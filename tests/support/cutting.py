"""Choosing and cutting in one line, and batches to score importance on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from methods.pruning import importance
from methods.pruning.amounts import Amount, Removed, choose
from methods.pruning.dimensions import cut, dimensions
from model import HybridCNNTransformer
from stages.state import ModelState, build, state_of


def cut_of(model: HybridCNNTransformer, removed: Removed) -> HybridCNNTransformer:
    state = state_of(model)
    args, weights = cut(state.model_args, state.weights, removed)
    return build(ModelState(args, weights))  # loads strictly: every shape is as model_args says


def choice(model: HybridCNNTransformer, targets: Any, ratio: float) -> Removed:
    dims = dimensions(model, targets)
    scores = importance.importance(model, dims, "random", lambda: [], seed=1)
    return choose(dims, scores, ratio, Amount())


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    return [
        (
            torch.randn(16, 1, 8, 8, generator=generator),
            torch.randint(0, 10, (16,), generator=generator),
        )
        for _ in range(count)
    ]
