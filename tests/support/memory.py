"""Stages that are interrupted, and go on from snapshots kept in memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
import torch

from dataset import Dataset
from machine.errors import Interrupted
from machine.files import tensor_bytes
from stages.stage import Context
from stages.state import ModelState


class Memory:
    """A snapshot kept in memory, through the same serialisation as the store's."""

    def __init__(self) -> None:
        self.content: bytes | None = None

    def save(self, value: dict[str, Any]) -> None:
        self.content = tensor_bytes(value)

    def load(self) -> dict[str, Any] | None:
        return self.content and torch.load(io.BytesIO(self.content), weights_only=True)


Outcome = tuple[ModelState, dict[str, Any]]  # of a stage, with the details that it noted


def uninterrupted(run: Callable[[Context], ModelState], dataset: Dataset, **more: Any) -> Outcome:
    context = Context(dataset, torch.device("cpu"), 0, say=lambda text: None, **more)
    return run(context), context.details


def resumed(run: Callable[[Context], ModelState], dataset: Dataset, stop_after: int) -> Outcome:
    """The same, but stopped when it has asked so often whether to stop, and begun again."""
    memory, asked = Memory(), []

    def stop() -> bool:
        asked.append(1)
        return len(asked) == stop_after

    with pytest.raises(Interrupted):
        uninterrupted(run, dataset, snapshot=memory, stop_requested=stop)
    torch.manual_seed(12345)  # another process has another generator state
    return uninterrupted(run, dataset, snapshot=memory)


def assert_same_bits(one: ModelState, other: ModelState) -> None:
    assert one.model_args == other.model_args
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name]), name
    ranges, others = (state.quant and state.quant.ranges for state in (one, other))
    assert (ranges or {}).keys() == (others or {}).keys()
    for name, value in (ranges or {}).items():
        assert others and torch.equal(value, others[name]), name
