"""How much goes where: scopes, ties, heads and costs."""

from __future__ import annotations

import pytest
import torch

from methods import costs
from methods.pruning import amounts, importance
from methods.pruning.amounts import Amount, choose, choose_for_cost
from methods.pruning.dimensions import dimensions
from stages.state import state_of
from tests.support.cutting import cut_of
from tests.support.tiny import tiny


def test_latency_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock that counts MACs: the bisection is what is tested."""
    monkeypatch.setattr(
        amounts, "latency", lambda m, x: {"median": costs.count_macs(m)[0] * len(x)}
    )
    model = tiny(cnn_channels=[32, 64])
    state, dims = state_of(model), dimensions(tiny(cnn_channels=[32, 64]), ["conv"])
    scores = importance.importance(model, dims, "l1", lambda: [])
    keep = {"latency_ms": 0.5, "batch": 4}
    removed = choose_for_cost(
        lambda ratio: choose(dims, scores, ratio, Amount()), state.model_args, keep
    ).removed
    left = costs.count_macs(cut_of(model, removed))[0] / costs.count_macs(model)[0]
    assert left == pytest.approx(0.5, abs=0.02)


def test_global_scope_takes_from_where_it_is_weak() -> None:
    model = tiny()
    with torch.no_grad():
        model.cnn.blocks[1].conv.weight[:8] *= 1e-3
        model.embed.weight[:, :8] *= 1e-3
    dims = dimensions(model, ["conv"])
    scores = importance.importance(model, dims, "l1", lambda: [])
    removed = choose(dims, scores, 8 / 24, Amount(uniform=False))
    assert [len(units) for _, units in removed] == [0, 8]
    assert sorted(removed[1][1].tolist()) == list(range(8))


def test_head_size_shrinks_by_each_heads_own_choice() -> None:
    model = tiny()
    (dimension,) = [d for d in dimensions(model, ["head_dim"]) if ".0." in d.name]
    scores = torch.tensor([0.0, 9, 9, 9, 9, 9, 9, 9, 9.0, 9, 9, 0, 9, 9, 9, 9])
    removed = choose([dimension], [scores], 1 / 8, Amount())
    assert removed[0][1].tolist() == [0, 11]


def test_global_ties_take_exactly_the_ratio() -> None:
    dims = dimensions(tiny(), ["conv"])
    removed = choose(dims, [torch.ones(8), torch.ones(16)], 0.25, Amount(uniform=False))
    assert sum(len(units) for _, units in removed) == 6
