"""What a network costs: multiply-accumulates by count, latency by measurement."""

from __future__ import annotations

import functools
import platform
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from model import HybridCNNTransformer, attention_written_out

LATENCY_SECONDS = 0.5  # that a latency is measured for, at least


def count_macs(model: HybridCNNTransformer) -> tuple[int, dict[str, int]]:
    """Multiply-accumulates for one image: in all, and by Conv2d or Linear layer.

    torch's FlopCounterMode, with attention written out as matmuls: some versions count the fused
    CPU kernel as nothing.
    """
    with attention_written_out(), FlopCounterMode(display=False) as counter, torch.no_grad():
        model(example_image(model))
    by_module = counter.get_flop_counts()
    root = type(model).__name__
    layers = {
        name: sum(by_module.get(f"{root}.{name}", {}).values()) // 2
        for name in [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    }
    return counter.get_total_flops() // 2, layers


def latency(network: nn.Module, images: torch.Tensor) -> dict[str, Any]:
    """Milliseconds of a forward pass, by torch.utils.benchmark after its own warm-up."""
    from torch.utils import benchmark  # it sets up a C++ compiler, which only measuring may need

    timer = benchmark.Timer(
        "network(images)",
        globals={"network": network, "images": images},
        num_threads=torch.get_num_threads(),
    )
    with torch.inference_mode():
        for _ in range(3):
            network(images)
        timed = timer.blocked_autorange(min_run_time=LATENCY_SECONDS)
    return {
        "median": timed.median * 1e3,
        "p95": float(np.percentile(timed.times, 95)) * 1e3,
        "runs": timed.number_per_run * len(timed.times),
        "threads": timed.num_threads,
        "device": device_name(images.device),
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({cpu_model()})"


@functools.cache
def cpu_model() -> str:
    found = re.search(r"^model name\s*: (.*)$", cpuinfo(), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def example_image(model: HybridCNNTransformer) -> torch.Tensor:
    """One black image `[1, C, H, W]` of the shape that the network takes."""
    return torch.zeros(1, model.model_args["in_channels"], *model.model_args["image_size"])


def cpuinfo() -> str:
    """Linux's description of the processor; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""
