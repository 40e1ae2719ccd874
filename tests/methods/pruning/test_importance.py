"""Every criterion of importance by hand, or against a plain hook."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from methods.pruning import importance
from methods.pruning.dimensions import TARGETS, Dimension, Member, dimensions
from stages.pruning import PruneSpec
from tests.support.cutting import batches
from tests.support.tiny import FUSIONS, tiny


def test_criteria_by_hand() -> None:
    weights = {
        "a.weight": torch.tensor([[1.0, -2.0], [0.5, 0.0], [3.0, 4.0]]),
        "norm.weight": torch.tensor([0.1, -0.7, 0.3]),
        "b.weight": torch.tensor([[1.0, 0.0, -1.0]]),
    }
    index = torch.arange(3)[:, None]
    members = tuple(
        Member(f"{name}.weight", axis, role, index)
        for name, axis, role in (("a", 0, "out"), ("norm", 0, "norm"), ("b", 1, "in"))
    )
    dimension = Dimension("d", "conv", 3, "cnn_channels", 0, members)
    assert importance.l1(dimension, weights).tolist() == [2.0, 0.25, 4.0]
    expected = [(5**0.5 + 1) / 2, 0.25, 3.0]
    assert importance.l2(dimension, weights).tolist() == pytest.approx(expected)
    assert importance.bn_scale(dimension, weights).tolist() == pytest.approx([0.1, 0.7, 0.3])
    distances = torch.cdist(weights["a.weight"], weights["a.weight"]).sum(1)
    torch.testing.assert_close(importance.fpgm(dimension, weights), distances)
    lamp = importance.lamp(torch.tensor([1.0, 3.0, 2.0]))
    assert lamp.tolist() == pytest.approx([1 / 14, 1.0, 4 / 13])


def test_taylor_is_the_first_order_change_of_the_loss() -> None:
    """Against a finite difference: shrink one unit's consumers a little."""
    model = tiny()
    ((images, labels),) = batches(1)
    dims = dimensions(model, ["conv", "ffn", "heads", "embed"])
    scores = importance.importance(model, dims, "taylor", lambda: batches(1))
    model = model.double()
    tensors, step = model.state_dict(), 1e-5

    def loss() -> float:
        with torch.no_grad():
            return F.cross_entropy(model(images.double()), labels).item()

    for dimension, score in zip(dims, scores, strict=True):
        before = {m.tensor: tensors[m.tensor].clone() for m in dimension.members}
        base = loss()
        for member in dimension.members:
            if member.role == "in":
                part = tensors[member.tensor].movedim(member.axis, 0)
                part[member.index[1]] *= 1 - step
        slope = abs(loss() - base) / step
        for name, value in before.items():
            tensors[name].copy_(value)
        assert score[1].item() == pytest.approx(slope, rel=2e-3, abs=1e-6), dimension.name


def test_activation_equals_a_plain_hook() -> None:
    model = tiny()
    seen = []
    model.cnn.blocks[0].activation.register_forward_hook(lambda m, i, out: seen.append(out))
    dims = dimensions(model, ["conv"])
    scores = importance.importance(model, dims, "activation", batches)
    expected = sum(out.abs().mean((0, 2, 3)) for out in seen)
    torch.testing.assert_close(scores[0], expected)


@pytest.mark.parametrize("criterion", importance.CRITERIA)
def test_every_criterion_scores_every_target_or_says_no(criterion: Any) -> None:
    for fusion, target in itertools.product(FUSIONS, TARGETS):
        model = tiny(fusion=fusion)
        dims = dimensions(model, [target])
        if not dims:
            continue
        spec = PruneSpec(mode="structural", ratio=0.5, criterion=criterion, targets=[target])
        try:
            spec.check(model.model_args)
        except ValueError:
            assert criterion in ("bn_scale", "fpgm")
            continue
        for dimension, score in zip(
            dims, importance.importance(model, dims, criterion, batches), strict=True
        ):
            assert score.shape == (dimension.size,)
            assert torch.isfinite(score).all() and (score >= 0).all()
