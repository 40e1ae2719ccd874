"""Criteria: functions of (logits, labels, images) that give a scalar loss."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Criterion = Callable[[Tensor, Tensor, Tensor], Tensor]  # (logits, labels, images) → scalar


def cross_entropy(label_smoothing: float = 0.0) -> Criterion:
    """The plain criterion; takes class indices `[B]` or, under mixup, probabilities `[B, K]`."""

    def loss(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=label_smoothing)

    return loss


def final_logits(logits: Tensor) -> Tensor:
    """`[B, K]`; of the logits of every exit, `[E + 1, B, K]`, those of the network's end."""
    return logits[-1] if logits.ndim == 3 else logits


def over_exits(criterion: Criterion, exit_weight: float) -> Criterion:
    """`criterion` at the network's end, and `exit_weight` times at each exit, over all weights.

    An infinite weight leaves out the end (arXiv:1709.01686: a weighted sum over the exits).
    """
    frozen = math.isinf(exit_weight)

    def loss(logits: Tensor, labels: Tensor, images: Tensor) -> Tensor:
        *exits, end = [criterion(one, labels, images) for one in logits]
        of_exits = torch.stack(exits)
        if frozen:
            return of_exits.mean()
        return (end + exit_weight * of_exits.sum()) / (1 + exit_weight * len(exits))

    return loss
