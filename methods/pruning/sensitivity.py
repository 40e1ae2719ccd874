"""How much accuracy each dimension costs by itself: the scan behind `ratios: 'auto'`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from data_sets.batches import BatchLoader
from methods.pruning.amounts import Amount, choose
from methods.pruning.cutting import Dimension, Weights, cut
from model import build_network
from train_eval import evaluate

RATIOS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
Curves = dict[str, list[tuple[float, float]]]  # dimension → (ratio removed, accuracy in percent)


def scan(
    model_args: dict[str, Any],
    weights: Weights,
    dims: Sequence[Dimension],
    scores: Sequence[Tensor],
    validation: BatchLoader,
    ratios: Sequence[float] = RATIOS,
) -> Curves:
    """Accuracy on `validation` of the float network with one dimension cut by each ratio."""
    curves: Curves = {}
    for dimension, score in zip(dims, scores, strict=True):
        points: dict[float, float] = {}
        for wanted in ratios:
            removed = choose([dimension], [score], wanted, Amount())
            ratio = len(removed[0][1]) / dimension.size  # what whole units come to
            if ratio not in points:
                args, kept = cut(model_args, weights, removed)
                network = build_network(args)
                network.load_state_dict(kept)
                placed = network.eval().to(validation.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
                points[ratio] = evaluate(placed, validation).accuracy
        curves[dimension.name] = sorted(points.items())
    return curves


def ratios_for_drop(curves: Curves, drop: float) -> dict[str, float]:
    """Dimension → the largest ratio that by itself costs at most `drop` points, interpolated."""
    found = {}
    for name, points in curves.items():
        ratios = np.array([ratio for ratio, _ in points])
        # A curve may rise again; what lies beyond a loss counts as that loss at least.
        losses = np.maximum.accumulate([points[0][1] - accuracy for _, accuracy in points])
        # What costs nothing is told apart by a hundredth of a point for the whole dimension.
        found[name] = float(np.interp(drop, losses + 0.01 * ratios, ratios))
    return found
