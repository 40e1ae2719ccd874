"""What a student may learn from its teacher: losses between the outputs of two networks.

Pure functions; where the outputs come from is in teacher.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

HIDDEN = -1e9  # logit that softmax turns into 0; finite, so that 0 times its logarithm is 0


def kd_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T²·KL(teacher ‖ student) of the logits `[B, K]` softened by T (arXiv:1503.02531), a scalar.

    T² keeps the size of the gradient while T changes.
    """
    return temperature**2 * F.kl_div(
        (logits / temperature).log_softmax(1),
        (teacher / temperature).log_softmax(1),
        reduction="batchmean",
        log_target=True,
    )


def decoupled_parts(
    logits: Tensor, teacher: Tensor, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """KL of the target against the rest, and KL among the rest, `[B]` each (arXiv:2203.08679).

    `labels` are class indices `[B]`. The first, plus the second times the teacher's probability of
    the rest, is the KL that `kd_loss` averages.
    """
    target, rest = _target_and_rest(logits / temperature, labels)
    teacher_target, teacher_rest = _target_and_rest(teacher / temperature, labels)
    return _kl(target, teacher_target), _kl(rest, teacher_rest)


def dkd_loss(
    logits: Tensor,
    teacher: Tensor,
    labels: Tensor,
    temperature: float,
    alpha: float,
    beta: float,
) -> Tensor:
    """T²·(alpha·target against rest + beta·among the rest), decoupled KD (arXiv:2203.08679)."""
    target, rest = decoupled_parts(logits, teacher, labels, temperature)
    return temperature**2 * (alpha * target + beta * rest).mean()


def attention_loss(features: Tensor, teacher: Tensor) -> Tensor:
    """Squared distance of two attention maps, mean over images (arXiv:1612.03928).

    `[B, P, C]` and `[B, P, C']`: a map says where, so numbers of channels may differ.
    """
    return (_attention(features) - _attention(teacher)).square().sum(1).mean()


def feature_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Smooth L1 distance of features `[B, P, C]` to the teacher's, whitened (arXiv:2205.14141).

    Whitened by a layer norm without parameters, so that one weight suits every teacher.
    """
    return F.smooth_l1_loss(projected, F.layer_norm(teacher, teacher.shape[-1:]), beta=2.0)


def _target_and_rest(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Log probabilities of target and rest `[B, 2]`, and of the classes in the rest `[B, K]`."""
    rest = scores.scatter(1, labels[:, None], HIDDEN)
    both = torch.stack([scores.gather(1, labels[:, None]).squeeze(1), rest.logsumexp(1)], dim=1)
    return both.log_softmax(1), rest.log_softmax(1)


def _kl(log_student: Tensor, log_teacher: Tensor) -> Tensor:
    return F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)


def _attention(features: Tensor) -> Tensor:
    """Energy over channels at each position, of length 1: `[B, P]`."""
    return F.normalize(features.float().square().sum(-1), dim=1)
