"""How much accuracy each dimension costs by itself: the scan behind `ratios: 'auto'`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from augmentation import BatchLoader
from stages.dimensions import Dimension, cut
from stages.state import ModelState, deploy
from stages.structural import Amount, choose
from train_eval import evaluate

RATIOS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.75, 0.9)
Curves = dict[str, list[tuple[float, float]]]  # dimension → (ratio removed, accuracy in percent)


def scan(
    state: ModelState,
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
                args, weights = cut(state.model_args, state.weights, removed)
                network = deploy(ModelState(args, weights), validation.device)
                points[ratio] = evaluate(network, validation).accuracy
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
