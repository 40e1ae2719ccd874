"""A program on its engines, as a module that takes any batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engines import ENGINES
from engines.program import Program, Ready
from model import check_images


class EngineNetwork(nn.Module):
    """Images `[B, C, H, W]` → logits `[B, num_classes]`, by the engine of the batch's size.

    Of a part of a network with early exits: its tensors → a tuple of tensors. `engines` says by
    batch size which engine runs it, a key of ENGINES; other sizes go to that of the largest one,
    padded with zeros or cut in pieces where it knows fixed sizes alone. What is not `ready` yet is
    made so when it first comes. Raises ValueError for images of another shape, EngineError.
    """

    def __init__(self, program: Program, engines: Mapping[int, str], threads: int | None = None):
        super().__init__()
        self.program, self.engines = program, dict(sorted(engines.items()))
        self.graph = program.graph  # whose weights are the network's size
        self.threads = threads
        self.made: dict[tuple[str, int | None], Ready] = {}

    @property
    def model_args(self) -> dict[str, Any]:
        return self.program.model_args

    def forward(self, *inputs: Tensor) -> Any:
        if not self.program.is_part:
            check_images(self, inputs)
        outputs = self._run(inputs)
        return tuple(outputs) if self.program.is_part else outputs[0]

    def ready(self, size: int) -> Ready:
        """What runs a batch of `size` images, made now where it was not yet."""
        engine = self.engines.get(size) or self.engines[max(self.engines)]
        fixed = ENGINES[engine].FIXED_BATCH
        batch = size if size in self.engines or fixed else None
        if (engine, batch) not in self.made:
            threads = self.threads or torch.get_num_threads()
            self.made[engine, batch] = ENGINES[engine].ready(self.program, batch, threads)
        return self.made[engine, batch]

    def _run(self, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        count, largest = len(inputs[0]), max(self.engines)
        if count in self.engines or not ENGINES[self.engines[largest]].FIXED_BATCH:
            return self.ready(count).run(inputs)
        if count > largest:
            pieces = zip(*(value.split(largest) for value in inputs), strict=True)
            found = [self._run(piece) for piece in pieces]
            return [torch.cat(values) for values in zip(*found, strict=True)]
        size = min(s for s in self.engines if s >= count)
        lacking = size - count
        padded = [F.pad(value, (0, 0) * (value.ndim - 1) + (0, lacking)) for value in inputs]
        return [value[:count] for value in self.ready(size).run(padded)]
