"""A training step on a GPU as one CUDA graph: asked for once, not kernel by kernel.

A small network's step is some five hundred kernels, most of which take less time than the host
needs to ask for one. Recorded, the host asks for all of them at once. No Python runs in a replay:
what a step looks up, chooses or counts there is what it was when it was recorded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from machine.errors import Failed

WARM_UP = 3  # plain steps first, in which code is compiled and optimizers make their state
TrainingStep = Callable[
    [Tensor, Tensor], tuple[Tensor, Tensor]
]  # images, labels → loss, right answers


class Replayed(Protocol):
    """What was recorded; on a GPU a `torch.cuda.CUDAGraph`."""

    def replay(self) -> None: ...


@dataclass
class Recording:
    """The graph, what it reads and what it leaves."""

    graph: Replayed
    images: Tensor
    labels: Tensor
    loss: Tensor
    hits: Tensor


class CapturedStep:
    """`step`, which must call the optimizer's, recorded at its fourth call and then replayed.

    Every batch must have the shapes of the first, and the step do the same with each: no random
    number but the GPU's, no look at a value. The optimizer must be one that can be captured; its
    learning rates may change from step to step, all else is recorded. Parameters and the
    optimizer's state may be changed in place, but not replaced. Raises Failed for a step that CUDA
    does not record, as it waits for the GPU.
    """

    def __init__(self, step: TrainingStep, optimizer: torch.optim.Optimizer, device: torch.device):
        self.step, self.optimizer = step, optimizer
        self.rates = [torch.zeros((), device=device) for _ in optimizer.param_groups]
        self.calls = 0
        self.recording: Recording | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        groups = self.optimizer.param_groups
        for rate, group in zip(self.rates, groups, strict=True):
            rate.fill_(group["lr"])
        if self.recording is None:
            plain = [group["lr"] for group in groups]
            try:
                for rate, group in zip(self.rates, groups, strict=True):
                    group["lr"] = rate
                self.calls += 1
                if self.calls <= WARM_UP:
                    return self._as_it_is(images, labels)
                self.recording = self._recorded(images, labels)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                if self.calls <= WARM_UP:
                    raise
                raise Failed(
                    f"a training step cannot be recorded as a CUDA graph: {_first_line(error)}; "
                    "if the network's code looks at values on the GPU, set compile to False"
                ) from error
            finally:
                for group, value in zip(groups, plain, strict=True):
                    group["lr"] = value
        self.recording.images.copy_(images)
        self.recording.labels.copy_(labels)
        self.recording.graph.replay()
        return self.recording.loss.clone(), self.recording.hits.clone()  # overwritten by the next

    def _as_it_is(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """On the stream of the recording, as autograd goes on where it began."""
        current, stream = torch.cuda.current_stream(images.device), _stream(images.device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            found = self.step(images, labels)
        current.wait_stream(stream)
        return found

    def _recorded(self, images: Tensor, labels: Tensor) -> Recording:
        """The step on buffers of its own; nothing of it is carried out."""
        images, labels = images.clone(), labels.clone()
        graph, stream = torch.cuda.CUDAGraph(), _stream(images.device)
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            loss, hits = self.step(images, labels)
        return Recording(graph, images, labels, loss, hits)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


@functools.cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One for all trainings, as cuBLAS keeps memory for every stream that it has seen."""
    return torch.cuda.Stream(device)
