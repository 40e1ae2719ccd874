"""Muon against torch's own, and its orthogonalization against singular vectors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from stages.finetuning import TrainSpec, train
from stages.stage import Context
from stages.state import initial_state
from tests.support.tiny import TINY, tiny
from training import muon
from training.muon import Muon, hidden_matrices, orthogonalized


def test_muon_equals_torchs_and_adamw() -> None:
    """Matrices and flattened kernels as torch.optim.Muon, the rest as torch.optim.AdamW."""
    model = tiny()
    matrices = hidden_matrices(model)
    others = [p for p in model.parameters() if all(p is not m for m in matrices)]
    names = {name for name, p in model.named_parameters() if any(p is m for m in matrices)}
    assert {"cnn.blocks.1.conv.weight", "embed.weight"} <= names
    assert not names & {
        "cnn.blocks.0.conv.weight",
        "head.weight",
        "transformer.position.embedding",
    }
    copies = [nn.Parameter(p.detach().flatten(1).clone()) for p in matrices]
    rest = [nn.Parameter(p.detach().clone()) for p in others]
    torchs = torch.optim.Muon(
        copies, 0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    adamw = torch.optim.AdamW(rest, 0.01, weight_decay=0.0)
    ours = Muon(matrices, [{"params": others, "weight_decay": 0.0}], 0.01, weight_decay=0.1)
    for step in range(4):
        if step == 2:  # as after an interruption
            state = ours.state_dict()
            ours = Muon(matrices, [{"params": others, "weight_decay": 0.0}], 0.01, weight_decay=0.1)
            ours.load_state_dict(state)
        for mine, theirs in zip([*matrices, *others], [*copies, *rest], strict=True):
            mine.grad = torch.randn_like(mine)
            theirs.grad = mine.grad.view_as(theirs).clone()
        for optimizer in (ours, torchs, adamw):
            optimizer.step()
    for mine, theirs in zip(matrices, copies, strict=True):
        torch.testing.assert_close(mine.flatten(1), theirs, rtol=0.02, atol=2e-4)  # bf16 inside
    for mine, theirs in zip(others, rest, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("bf16", [True, False])
@pytest.mark.parametrize("shape", [(2, 12, 30), (1, 30, 12)])
def test_orthogonalized_keeps_the_singular_vectors(
    shape: tuple[int, ...], bf16: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bfloat16 only where the processor multiplies it: emulated, it took most of a step."""
    monkeypatch.setattr(muon, "bf16_is_fast", lambda device: bf16)
    matrices = torch.randn(shape)
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    found = orthogonalized(matrices)
    assert found.dtype == (torch.bfloat16 if bf16 else torch.float32)
    found = found.float()
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5 and values.max() < 1.35
    inner = (left.mT @ found @ right.mT).diagonal(dim1=1, dim2=2)  # U^T X V: its diagonal
    torch.testing.assert_close(inner.sort().values, values.sort().values, rtol=0.05, atol=0.05)


def test_training_with_muon_learns(ctx: Context) -> None:
    spec = TrainSpec(
        epochs=4, optimizer="muon", learning_rate=0.02, batch_size=64, precision="fp32"
    )
    train(initial_state(TINY, 0), spec, ctx)
    assert ctx.details["history"][-1]["validation_accuracy"] > 60
