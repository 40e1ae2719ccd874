"""Muon for the hidden matrices of a network, AdamW for all else, as one optimizer.

torch.optim.Muon takes 2-D parameters only, steps through them one by one and cannot be captured in
a CUDA graph; here convolution kernels count as matrices, equal shapes are orthogonalized together,
and one optimizer with one learning rate serves the whole network.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from machine.processor import bf16_is_fast

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic with the largest slope at 0
ITERATIONS = 5  # Newton-Schulz steps; singular values then lie near 1, which is enough
NARROW = 4  # most inputs or outputs of a weight that is left to AdamW (colours, depthwise)


def hidden_matrices(model: nn.Module) -> list[Tensor]:
    """Weights of convolutions and linear layers, but not of those that read images or classify."""
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
        and min(module.weight.shape[:2]) > NARROW
        and name.rpartition(".")[2] != "head"
    ]


def orthogonalized(matrices: Tensor) -> Tensor:
    """U·Vᵀ of each `[B, rows, columns]` = U·S·Vᵀ, roughly, by Newton-Schulz steps.

    In bfloat16 where the device multiplies it in hardware. Singular values come out between about
    0.7 and 1.2.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x.bfloat16() if bf16_is_fast(x.device) else x
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.AdamW):
    """Muon (kellerjordan.github.io/posts/muon) over `matrices`; AdamW over the groups in `others`.

    A kernel `[out, in, k, k]` counts as a matrix `[out, in·k·k]`. Steps have AdamW's usual size
    (arXiv:2502.16982), so that one learning rate and one schedule suit both.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        others: list[dict[str, Any]],
        learning_rate: float,
        *,
        weight_decay: float,
        momentum: float = 0.95,
        capturable: bool = False,
    ):
        groups = [{**group, "matrices": False} for group in others if group["params"]]
        chosen = list(matrices)
        if chosen:
            groups.append({"params": chosen, "weight_decay": weight_decay, "matrices": True})
        self.momentum = momentum
        super().__init__(groups, learning_rate, fused=True, capturable=capturable)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        every = self.param_groups
        for group in every:
            if group["matrices"]:
                self._step_matrices(group)
        self.param_groups = [group for group in every if not group["matrices"]]
        try:
            return super().step(closure)
        finally:
            self.param_groups = every

    def _step_matrices(self, group: dict[str, Any]) -> None:
        found = [p for p in group["params"] if p.grad is not None]
        gradients = [p.grad for p in found]
        for p in found:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                self.state[p]["step"] = torch.zeros(())  # AdamW looks for one when it is loaded
        buffers = [self.state[p]["momentum_buffer"] for p in found]
        torch._foreach_lerp_(buffers, gradients, 1 - self.momentum)
        directions = torch._foreach_lerp(gradients, buffers, self.momentum)  # Nesterov's
        torch._foreach_mul_(found, 1 - group["lr"] * group["weight_decay"])
        alike = defaultdict(list)
        for p, direction in zip(found, directions, strict=True):
            alike[direction.flatten(1).shape].append((p, direction))
        for shape, pairs in alike.items():
            updates = orthogonalized(torch.stack([d.flatten(1) for _, d in pairs])).float()
            updates = updates * (group["lr"] * 0.2 * math.sqrt(max(shape)))
            for (p, _), update in zip(pairs, updates, strict=True):
                p.sub_(update.view_as(p))
