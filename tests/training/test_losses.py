"""The loss over several exits by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from training.losses import over_exits


def test_the_loss_over_exits_by_hand() -> None:
    def criterion(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return logits.sum()

    logits = torch.tensor([1.0, 2.0, 6.0]).view(3, 1, 1)
    nothing = torch.empty(0)
    joint = over_exits(criterion, 0.5)(logits, nothing, nothing)
    assert joint.item() == pytest.approx((6 + 0.5 * 3) / (1 + 0.5 * 2))
    frozen = over_exits(criterion, math.inf)(logits, nothing, nothing)
    assert frozen.item() == pytest.approx(1.5)
