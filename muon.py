"""Muon for the hidden matrices of a network, AdamW for all else, as one optimizer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from machine import bf16_is_fast

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # quintic, of the largest slope at 0
ITERATIONS = 5
NARROW = 4  # images' channels, depthwise kernels: no matrix worth the name


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
    ):
        groups = [{**group, "matrices": False} for group in others if group["params"]]
        chosen = list(matrices)
        if chosen:
            groups.append({"params": chosen, "weight_decay": weight_decay, "matrices": True})
        self.momentum = momentum
        self._captured: Captured | None = None
        super().__init__(groups, learning_rate, fused=True)

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
        for p in found:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                self.state[p]["step"] = torch.zeros(())  # AdamW looks for one when it is loaded
        buffers = [self.state[p]["momentum_buffer"] for p in found]
        gradients = [p.grad for p in found]
        rate, decay = group["lr"], group["weight_decay"]
        if not found or not found[0].is_cuda:
            move(found, gradients, buffers, rate, decay, self.momentum)
            return
        where = [value.data_ptr() for value in (*found, *buffers)]
        if self._captured is None or (where, decay) != (self._captured.where, self._captured.decay):
            self._captured = Captured(found, gradients, buffers, decay, self.momentum, where)
        self._captured.step(gradients, rate)


def move(
    matrices: list[Tensor],
    gradients: list[Tensor],
    buffers: list[Tensor],
    rate: float | Tensor,
    decay: float,
    momentum: float,
) -> None:
    """One step of all matrices and their momentum, in place."""
    torch._foreach_lerp_(buffers, gradients, 1 - momentum)
    directions = torch._foreach_lerp(gradients, buffers, momentum)  # Nesterov's
    torch._foreach_mul_(matrices, 1 - rate * decay)
    alike = defaultdict(list)
    for matrix, direction in zip(matrices, directions, strict=True):
        alike[direction.flatten(1).shape].append((matrix, direction))
    for shape, pairs in alike.items():
        updates = orthogonalized(torch.stack([d.flatten(1) for _, d in pairs])).float()
        updates = updates * (rate * 0.2 * math.sqrt(max(shape)))
        for (matrix, _), update in zip(pairs, updates, strict=True):
            matrix.sub_(update.view_as(matrix))


class Captured:
    """`move` on a GPU as one CUDA graph: asking for its hundreds of small kernels one by one takes
    longer than they do. The first step runs them as they are, the second is recorded."""

    def __init__(
        self,
        matrices: list[Tensor],
        gradients: list[Tensor],
        buffers: list[Tensor],
        decay: float,
        momentum: float,
        where: list[int],
    ):
        self.where, self.decay = where, decay  # what the graph was recorded for
        self.gradients = [torch.empty_like(gradient) for gradient in gradients]
        self.rate = torch.zeros((), device=matrices[0].device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.stream = torch.cuda.Stream(self.rate.device)
        self.steps = 0
        self.move = partial(move, matrices, self.gradients, buffers, self.rate, decay, momentum)

    def step(self, gradients: list[Tensor], rate: float) -> None:
        self.rate.fill_(rate)
        torch._foreach_copy_(self.gradients, gradients)
        if self.graph is not None:
            self.graph.replay()
            return
        self.steps += 1
        current = torch.cuda.current_stream(self.rate.device)
        if self.steps == 1:
            self.stream.wait_stream(current)
            with torch.cuda.stream(self.stream):
                self.move()
            current.wait_stream(self.stream)
            return
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            self.move()
        self.graph.replay()
