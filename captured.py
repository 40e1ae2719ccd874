"""A training step on a GPU as one CUDA graph: asked for once, not kernel by kernel.

A small network's step is some five hundred kernels, most of which take less time than the host
needs to ask for one. Recorded, the host asks for all of them at once.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps as they are: code is compiled, kernels are timed, optimizers make their state

Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # images, labels → loss, right answers


class CapturedStep:
    """`step`, which must call the optimizer's, recorded at its fourth call and then replayed.

    Every batch must have the shapes of the first, and the step do the same with each: no random
    number but the GPU's, no look at a value. The optimizer must be one that can be captured; its
    learning rates may change from step to step, all else is recorded. Parameters and the
    optimizer's state may be changed in place, but not replaced. Raises RuntimeError, from CUDA, for
    a step that waits for the GPU.
    """

    def __init__(self, step: Step, optimizer: torch.optim.Optimizer, device: torch.device):
        self.step, self.optimizer = step, optimizer
        self.stream = torch.cuda.Stream(device)
        self.graph: torch.cuda.CUDAGraph | None = None
        self.calls = 0

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if self.calls < WARM_UP:
            self.calls += 1
            return self._as_it_is(images, labels)
        if self.graph is None:
            self._record(images, labels)
        assert self.graph is not None
        self.images.copy_(images)
        self.labels.copy_(labels)
        for rate, group in zip(self.rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        self.graph.replay()
        return self.loss.clone(), self.hits.clone()  # the next replay overwrites them

    def _as_it_is(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """On the stream of the recording, as autograd goes on where it began."""
        current = torch.cuda.current_stream(images.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            found = self.step(images, labels)
        current.wait_stream(self.stream)
        return found

    def _record(self, images: Tensor, labels: Tensor) -> None:
        """Record the step on buffers of its own; nothing of it is carried out."""
        groups = self.optimizer.param_groups
        self.images, self.labels = images.clone(), labels.clone()
        self.rates = [torch.zeros((), device=images.device) for _ in groups]
        plain = [group["lr"] for group in groups]
        self.graph = torch.cuda.CUDAGraph()
        try:
            for group, rate in zip(groups, self.rates, strict=True):
                group["lr"] = rate
            with torch.cuda.graph(
                self.graph, stream=self.stream, capture_error_mode="thread_local"
            ):
                self.loss, self.hits = self.step(self.images, self.labels)
        finally:
            for group, value in zip(groups, plain, strict=True):
                group["lr"] = value
