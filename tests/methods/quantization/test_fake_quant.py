"""Rounding of weights, inputs and folded norms by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from methods.quantization import fake_quant
from stages.ptq import PtqSpec
from tests.support.int8 import calibrated_on
from tests.support.tiny import tiny


def test_folding_a_batch_norm_changes_no_rounding() -> None:
    """Per-channel scales take up what batch norm multiplies by, so training need not fold it."""
    weight, factor = torch.randn(6, 4, 3, 3), torch.rand(6) + 0.1
    folded = fake_quant.quantize_weight(weight * factor[:, None, None, None])
    apart = fake_quant.quantize_weight(weight) * factor[:, None, None, None]
    steps = (weight * factor[:, None, None, None]).flatten(1).abs().amax(1) / 127.5
    levels = ((folded - apart) / steps[:, None, None, None]).round()
    assert levels.abs().max() <= 1  # a channel's largest weight lies between two levels
    assert int((levels != 0).flatten(1).sum(1).max()) <= 1


def test_weights_round_by_hand() -> None:
    weight = torch.tensor([[127.5, -127.5, 1.4, 0.6], [0.0, 0.0, 0.0, 0.0]])
    expected = [[127.0, -128.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]
    assert fake_quant.quantize_weight(weight).tolist() == expected
    found = fake_quant.quantize_weight(weight, fake_quant.REDUCED_WEIGHT_RANGE)
    assert (found * 127 / 255).round().tolist() == [[63.0, -64.0, 1.0, 0.0], [0.0] * 4]


def test_inputs_round_by_hand() -> None:
    quantizer = fake_quant.InputQuantizer("minmax")
    quantizer(torch.tensor([-1.0, 0.2, 4.1]))  # scale 5.1 / 255 = 0.02, zero point 50
    quantizer.observing, quantizer.quantizing = False, True
    found = quantizer(torch.tensor([-2.0, 0.009, 0.011, 5.0]))
    torch.testing.assert_close(found, torch.tensor([-1.0, 0.0, 0.02, 4.1]))


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3])
def test_moving_ranges_are_torchaos_to_the_bit(size: float) -> None:
    """Of values on both sides of zero, on one, and of none but zeros, from the first batch on."""
    from torchao.quantization.pt2e.observer import MovingAverageMinMaxObserver

    for shift in (-3.0, 0.1, 3.0):
        torchaos = MovingAverageMinMaxObserver(
            dtype=torch.uint8, quant_min=0, quant_max=255, eps=2**-12
        )
        ours = fake_quant.InputQuantizer("moving_average").observer
        assert isinstance(ours, MovingAverageMinMaxObserver) and type(ours) is not type(torchaos)
        for values in (torch.zeros(8), *(size * (torch.randn(8) + shift) for _ in range(4))):
            for observer in (ours, torchaos):
                observer(values)
            assert torch.equal(ours.min_val, torchaos.min_val)
            assert torch.equal(ours.max_val, torchaos.max_val)
            for mine, its in zip(
                ours.calculate_qparams(), torchaos.calculate_qparams(), strict=True
            ):
                assert torch.equal(mine, its) and mine.shape == its.shape


def test_weights_round_as_with_a_whole_zero_point() -> None:
    """Values and gradients of torch's integer form, whose check would make a GPU wait."""
    weight = torch.randn(16, 8, 3, 3) * torch.logspace(-7, 2, 16)[:, None, None, None]
    weight[3] = 0
    scale = (weight.flatten(1).abs().amax(1) / 127.5).clamp_min(fake_quant.SMALLEST_SCALE)
    found = []
    for rounded in (
        fake_quant.quantize_weight,
        lambda w: torch.fake_quantize_per_channel_affine(
            w, scale, torch.zeros(16, dtype=torch.int32), 0, -128, 127
        ),
    ):
        leaf = weight.clone().requires_grad_()
        values = rounded(leaf)
        found.append((values, *torch.autograd.grad(values.sum(), leaf)))
    for mine, its in zip(*found, strict=True):
        assert torch.equal(mine, its) and torch.equal(mine.signbit(), its.signbit())


def test_observers_differ_as_they_should() -> None:
    model = tiny()
    images = torch.randn(1024, 1, 8, 8)
    images[0, 0, 0, 0] = 40.0  # one of 65,536
    spans = {}
    for observer in fake_quant.OBSERVERS:
        ranges = calibrated_on(model, images, observer=observer).ranges
        assert ranges is not None
        spans[observer] = 255 * ranges["cnn.blocks.0.conv"][0].item()
    whole = (images.max() - images.min()).item()
    assert spans["minmax"] == pytest.approx(whole, rel=1e-4)
    assert spans["percentile"] < 0.3 * whole
    assert spans["histogram"] < spans["minmax"]
    with pytest.raises(ValueError, match="'minmax' is not one of backend 'x86', which has hist"):
        PtqSpec(backend="x86", observer="minmax")


@pytest.mark.parametrize("levels", [fake_quant.WEIGHT_RANGE, fake_quant.REDUCED_WEIGHT_RANGE])
def test_weights_on_the_grid_give_the_same_int8(levels: tuple[int, int]) -> None:
    """By torch's own operation, many of them within a rounding of the middle of two levels.

    Channels include a zero one, one of gain 0, one that the least scale coarsens, and equal ones.
    """

    def int8(weight: Tensor) -> tuple[Tensor, Tensor]:
        folded = weight * gain[:, None]
        scale = folded.abs().amax(1) / ((levels[1] - levels[0]) / 2)
        scale = scale.clamp_min(fake_quant.SMALLEST_SCALE)
        call = torch.ops.quantized_decomposed.quantize_per_channel
        zeros = torch.zeros_like(scale, dtype=torch.int64)
        return call(folded, scale, zeros, 0, *levels, torch.int8), scale

    gain = torch.randn(64)
    weight = torch.randn(64, 5000)
    step = weight.abs().amax(1, keepdim=True) / ((levels[1] - levels[0]) / 2)
    middles = ((weight / step).floor() + 0.5) * step
    weight[:, ::2] = middles[:, ::2].clamp(weight.amin(1, True), weight.amax(1, True))
    weight[0], gain[1], gain[2], weight[3] = 0, 0, 1e-6, -0.3
    grid = fake_quant.on_grid(weight, gain, levels)
    for one, other in zip(int8(grid), int8(weight), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(fake_quant.on_grid(grid, gain, levels), grid)
    unfolded = fake_quant.on_grid(weight, torch.ones(64), levels)  # what a shortcut would do
    assert not torch.equal(int8(unfolded)[0], int8(weight)[0])
    steps = (grid * gain[:, None] / int8(weight)[1][:, None])[4:]
    off = (steps - steps.round()).abs() > 1e-3
    assert 0 < off.sum() <= 3 * len(steps)  # the largest of a channel, alone, is between levels
