"""Masks: scores by hand, the weakest channels go, and a masked channel is silent."""

from __future__ import annotations

import pytest
import torch

from methods.pruning.masks import channel_scores, mask_channels, zero_channel_masks
from tests.support.tiny import RICH, tiny


def test_scores_are_l1_norms_by_hand() -> None:
    weight = torch.tensor([[[[1.0, -2.0]]], [[[0.5, 0.25]]]])
    assert channel_scores(weight).tolist() == [3.0, 0.75]


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("separable", [False, True])
def test_a_pruned_channel_is_silent_after_its_norm(norm: str, separable: bool) -> None:
    model = tiny(cnn_norm=norm, cnn_separable=separable)
    mask_channels(model, 0.5)
    seen: dict[str, torch.Tensor] = {}
    for index, block in enumerate(model.cnn.blocks):
        block.norm.register_forward_hook(
            lambda m, i, out, index=index: seen.__setitem__(str(index), out)
        )
    model(torch.randn(3, 1, 8, 8))
    for index, out in seen.items():
        silent = [c for c in range(out.shape[1]) if not out[:, c].any()]
        assert len(silent) == out.shape[1] // 2
        weight = model.cnn.blocks[int(index)].conv.weight
        assert silent == [c for c, row in enumerate(weight) if not row.any()]


def test_gates_are_left_alone() -> None:
    """A gate of zero would be sigmoid(0): half of a channel, not none."""
    model = tiny(**RICH)
    before = {n: v.clone() for n, v in model.state_dict().items()}
    report = mask_channels(model, 0.5)
    assert sum("squeeze_excite" in name for name in before) == 8
    assert not any("squeeze_excite" in name for name in [*report, *zero_channel_masks(model)])
    for name, value in model.state_dict().items():
        if "squeeze_excite" in name:
            assert torch.equal(value, before[name])


def test_the_weakest_channels_go_and_the_classifier_stays() -> None:
    model = tiny()
    before = {n: v.clone() for n, v in model.state_dict().items()}
    report = mask_channels(model, 0.25)
    assert "head" not in report
    assert torch.equal(model.head.weight, before["head.weight"])
    for layer, (zeroed, total) in report.items():
        weight, old = model.get_submodule(layer).weight, before[f"{layer}.weight"]
        gone = [i for i, row in enumerate(weight) if not row.any()]
        norms = old.abs().flatten(1).sum(1)
        assert zeroed == len(gone) == round(0.25 * total)
        assert set(norms.argsort()[:zeroed].tolist()) == set(gone)


def test_one_channel_always_stays() -> None:
    model = tiny()
    assert all(zeroed < total for zeroed, total in mask_channels(model, 0.99).values())
