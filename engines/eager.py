"""PyTorch itself, an operation after another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.ao.nn.quantized as nnq
from torch import Tensor

from engines.program import Program, Ready

FIXED_BATCH = False
COMPILES = False


def unavailable() -> str | None:
    return None


def unfit(program: Program) -> str | None:
    """PyTorch would only simulate a graph's int8, and slowly."""
    return "would only simulate its int8" if program.native is None else None


def ready(program: Program, batch: int | None, threads: int) -> Ready:
    """Threads are torch's own, whatever `threads` says: who measures sets them."""
    native = program.native
    assert native is not None

    def run(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        outputs = native(*map(placed, inputs))
        return outputs if program.is_part else (outputs,)

    kinds = nnq.Conv2d, nnq.Linear  # those with a ReLU are subclasses
    if native is program.graph:  # an emulation, in which nothing is what it stands for
        return Ready(run, program.precision, torch.get_num_threads(), None)
    int8 = [name for name, module in native.named_modules() if isinstance(module, kinds)]
    return Ready(run, program.precision, torch.get_num_threads(), tuple(int8))


def placed(values: Tensor) -> Tensor:
    """Images in channels_last, in which convolutions are faster."""
    if values.ndim == 4:
        return values.contiguous(memory_format=torch.channels_last)
    return values
