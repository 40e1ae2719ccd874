"""What a network costs and how well it does, and the machine that this was measured on."""

from __future__ import annotations

import functools
import platform
import re
import subprocess
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from augmentation import BatchLoader
from costs import count_macs, cpu_model, cpuinfo, device_name, example_image, latency
from files import tensor_bytes
from model import HybridCNNTransformer
from stages import quantization
from stages.state import ModelState, build, deploy
from train_eval import evaluate

LATENCY_BATCHES = (1, 64)
ISA_FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def measure(state: ModelState, test: BatchLoader, device: torch.device) -> dict[str, Any]:
    """Every metric of the network that `deploy(state)` makes, on the whole test split."""
    network = deploy(state, device)
    runs_on = torch.device("cpu") if state.quant is not None else device
    test = test if runs_on == test.device else _moved(test, runs_on)
    quality = evaluate(network, test)
    batch = next(iter(test))[0]
    return {
        "accuracy": quality.accuracy,
        "loss": quality.loss,
        **static_metrics(state, network),
        "inference_time_ms": {
            f"batch_{size}": latency(network, _batch(batch, size)) for size in LATENCY_BATCHES
        },
    }


def static_metrics(state: ModelState, network: nn.Module | None = None) -> dict[str, Any]:
    """Parameters, size, MACs, FLOPs and BitOps of a state's network; nothing is timed."""
    model = build(state)
    network = network if network is not None else deploy(state)
    macs, layer_macs = count_macs(model)
    parameters = list(model.parameters())
    metrics = {
        "params": sum(p.numel() for p in parameters),
        "nonzero_params": sum(int(p.count_nonzero()) for p in parameters),
        "model_size_mb": len(tensor_bytes(network.state_dict())) / 1e6,
        "macs": macs,
        "flops": 2 * macs,
        "bitops": bitops(state, model, macs, layer_macs),
    }
    thop = thop_macs(model)
    return metrics if thop is None else {**metrics, "thop_macs": thop}


def bitops(
    state: ModelState, model: HybridCNNTransformer, macs: int, layer_macs: dict[str, int]
) -> int:
    """Σ MACs · weight bits · activation bits (arXiv:2005.07093); attention itself is float32."""
    small: set[str] = set()
    if state.quant is not None:
        small = set(layer_macs) - set(
            quantization.float_layer_names(model, state.quant.float_layers)
        )
    bits = state.quant.bits if state.quant is not None else 32
    int_macs = sum(layer_macs[name] for name in small)
    return int_macs * bits * bits + (macs - int_macs) * 32 * 32


def thop_macs(model: HybridCNNTransformer) -> int | None:
    """thop's count, which misses attention's matmuls, for comparison; None without thop."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # thop asks distutils for versions
        try:
            from thop import profile
        except ImportError:
            return None
        fresh = HybridCNNTransformer(**model.model_args).eval()  # thop leaves buffers behind
        return int(profile(fresh, inputs=(example_image(model),), verbose=False)[0])


def environment(device: torch.device) -> dict[str, Any]:
    """The machine and versions that figures were taken with."""
    versions = {
        name: metadata.version(name) for name in ("torch", "torchvision", "numpy", "scikit-learn")
    }
    return {
        **versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "cpu": cpu_model(),
        "isa": [flag for flag in ISA_FLAGS if flag in cpu_flags()],
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


@functools.cache
def cpu_flags() -> frozenset[str]:
    found = re.search(r"^flags\s*: (.*)$", cpuinfo(), re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


@functools.cache
def git_commit() -> str | None:
    """The commit of this checkout, with '-dirty' where files differ; None outside of git."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        here = Path(__file__).parent
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _batch(images: torch.Tensor, size: int) -> torch.Tensor:
    """Exactly `size` images, repeating what there is."""
    copies = -(-size // len(images))
    repeated = images.repeat(copies, 1, 1, 1)[:size]
    return repeated.contiguous(memory_format=torch.channels_last)


def _moved(loader: BatchLoader, device: torch.device) -> BatchLoader:
    return BatchLoader(
        loader.images,
        loader.labels,
        loader.batch_size,
        index=loader.index,
        mean=loader.mean.flatten().tolist(),
        std=loader.std.flatten().tolist(),
        num_classes=0,
        device=device,
    )
