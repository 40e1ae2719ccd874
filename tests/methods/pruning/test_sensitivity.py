"""A scan finds the dimension that was planted to cost nothing."""

from __future__ import annotations

import pytest

from methods.pruning.sensitivity import ratios_for_drop
from stages.finetuning import TrainSpec, train
from stages.pruning import PruneSpec, prune
from stages.stage import Context
from stages.state import ModelState, initial_state
from tests.support.tiny import TINY


def test_a_scan_finds_the_dimension_that_costs_nothing(ctx: Context) -> None:
    """A trained network with one dimension made idle by hand: 'auto' takes from there first."""
    spec = TrainSpec(epochs=8, learning_rate=8e-3, precision="fp32", batch_size=64)
    state = train(initial_state({**TINY, "num_layers": 1, "ffn_dim": 64}, 0), spec, ctx)
    weights = {name: value.clone() for name, value in state.weights.items()}
    weights["transformer.layers.0.fc2.weight"].zero_()
    state = ModelState(state.model_args, weights)
    auto = PruneSpec(mode="structural", ratios="auto", ratio=0.4, targets=["conv", "ffn"])
    pruned = prune(state, auto, ctx)
    curves = dict(ctx.details["sensitivity"])
    idle = [accuracy for _, accuracy in curves["transformer.layers.0.ffn"]]
    assert max(idle) == min(idle)
    assert min(accuracy for _, accuracy in curves["cnn.blocks.1"]) < max(idle) - 5
    assert pruned.model_args["cnn_channels"] == [8, 16]
    assert (8 + 16 + pruned.model_args["ffn_dim"][0]) / 88 == pytest.approx(0.6, abs=0.02)


def test_ratios_for_a_drop_by_hand() -> None:
    curves = {"a": [(0.0, 90.0), (0.5, 80.0), (0.9, 85.0)], "b": [(0.0, 90.0), (0.5, 90.0)]}
    assert ratios_for_drop(curves, 5.0) == pytest.approx({"a": 0.25, "b": 0.5}, abs=2e-3)
    assert ratios_for_drop(curves, 20.0) == pytest.approx({"a": 0.9, "b": 0.5}, abs=2e-3)
