"""Training in the simulation: masters move, ranges settle, and later training stays quantized."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from methods.quantization import fake_quant, pt2e
from stages.finetuning import FinetuneSpec, finetune
from stages.qat import QatSpec, qat
from stages.stage import Context
from stages.state import ModelState, state_of
from tests.support.chains import SPECS
from tests.support.tiny import tiny


def test_training_moves_ranges_in_the_first_half_alone(ctx: Context) -> None:
    seen: list[dict[str, Tensor]] = []
    real = fake_quant.set_observing

    def noting(faked: nn.Module, on: bool) -> None:
        if not on:
            seen.append(fake_quant.observed_ranges(faked))
        real(faked, on)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pt2e, "set_observing", noting)
        spec = QatSpec(epochs=4, batch_size=256, precision="fp32")
        end = qat(state_of(tiny()), spec, ctx)
    epochs = [seen[i] for i in (0, 1, 2, -1)]  # after epoch 1, after epoch 2, then frozen
    assert any(not torch.equal(epochs[0][n], epochs[1][n]) for n in epochs[0])
    assert all(torch.equal(epochs[1][n], epochs[3][n]) for n in epochs[1])
    assert end.quant is not None and end.quant.ranges is not None
    assert all(torch.equal(end.quant.ranges[n], epochs[3][n]) for n in epochs[3])


def test_bf16_trains_what_fp32_does(ctx: Context) -> None:
    losses = {}
    for precision in ("fp32", "bf16"):
        spec = QatSpec(epochs=2, batch_size=128, precision=precision, learning_rate=5e-3)
        qat(state_of(tiny()), spec, ctx)
        assert ctx.details["precision"] == precision
        losses[precision] = [row["train_loss"] for row in ctx.details["history"]]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.05)
    assert losses["fp32"][1] < losses["fp32"][0]


def test_finetuning_after_qat_is_fake_quantized(ctx: Context) -> None:
    start = qat(state_of(tiny()), QatSpec(epochs=1, batch_size=256, precision="fp32"), ctx)
    spec = FinetuneSpec(epochs=1, batch_size=256, precision="fp32")
    faked = finetune(start, spec, ctx)
    plain = finetune(ModelState(start.model_args, start.weights), spec, ctx)
    assert not torch.equal(faked.weights["head.weight"], plain.weights["head.weight"])


def test_qat_trains_the_masters(ctx: Context) -> None:
    start = state_of(tiny())
    end = qat(start, SPECS["qat"], ctx)
    assert end.quant is not None and end.quant.ranges
    assert not torch.equal(end.weights["head.weight"], start.weights["head.weight"])
    assert not torch.equal(
        end.weights["cnn.blocks.0.norm.running_mean"],
        start.weights["cnn.blocks.0.norm.running_mean"],
    )
    assert ctx.details["precision"] == "fp32"


def test_finetuning_after_qat_keeps_fake_quantization_on(ctx: Context) -> None:
    """Its result differs from float finetuning of the same masters."""
    quantized = qat(state_of(tiny()), SPECS["qat"], ctx)
    faked = finetune(quantized, SPECS["finetune"], ctx)
    plain = finetune(ModelState(quantized.model_args, quantized.weights), SPECS["finetune"], ctx)
    assert faked.quant is not None and faked.quant.ranges is not None
    assert not torch.equal(faked.weights["head.weight"], plain.weights["head.weight"])
