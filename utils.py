"""What a notebook user calls: one-line doors to the stages and measurements, no logic of their own.

Every function leaves its argument as it is and returns something new, except
`calibrate_model_ptq`, which fills the prepared network's observers.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiment.running.checkpoint import load_checkpoint
from experiment.running.measure import static_metrics
from methods.pruning.masks import mask_channels
from methods.quantization import backends
from model import Network
from stages.deployment import converted, deploy
from stages.ptq import PtqSpec
from stages.qat import QatSpec
from stages.state import state_of


def apply_channel_pruning(model: Network, ratio: float) -> Network:
    """A copy with the weakest `ratio` of every layer's output channels set to zero (L1 norm)."""
    pruned = copy.deepcopy(model)
    mask_channels(pruned, ratio)
    return pruned


def prepare_model_for_quantization(
    model: Network, backend: str = "pt2e", *, qat: bool = False
) -> nn.Module:
    """A copy with observers, or with fake quantization to train (`qat`)."""
    quant = QatSpec(backend=backend).quant("qat") if qat else PtqSpec(backend=backend).quant("ptq")
    return backends.prepare(model, quant)


def calibrate_model_ptq(
    prepared: nn.Module,
    loader: Iterable[tuple[Tensor, Tensor]],
    batches: int = 8,
    backend: str = "pt2e",
) -> nn.Module:
    """Let the observers see the first `batches` batches of `loader`; returns `prepared`."""
    backends.observe(prepared, backend, loader, batches)
    return prepared


def convert_to_quantized_model(prepared: nn.Module, backend: str = "pt2e") -> nn.Module:
    """The int8 network of a calibrated or QAT-trained one."""
    return converted(prepared, backend)


def get_model_stats(model: Network) -> dict[str, Any]:
    """params, nonzero_params, model_size_mb, macs, flops and bitops of a float network."""
    return static_metrics(deploy(state_of(model)))


def load_model(checkpoint: Path | str, device: torch.device | str = "cpu") -> nn.Module:
    """The network in a checkpoint file, ready to run. Raises CheckpointError."""
    return deploy(load_checkpoint(checkpoint), device).network
