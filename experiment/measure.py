"""What a network costs and how well it does, and the machine that this was measured on."""

from __future__ import annotations

import functools
import platform
import subprocess
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from augmentation import BatchLoader
from costs import (
    count_macs,
    cpu_model,
    device_name,
    example_image,
    isa,
    latencies,
    latency,
    onednn_kernels,
)
from files import tensor_bytes
from model import HybridCNNTransformer
from stages import quantization
from stages.state import ModelState, build, deploy
from train_eval import evaluate

LATENCY_BATCHES = (1, 64)


def measure(
    state: ModelState, test: BatchLoader, device: torch.device, artefacts: Path | None = None
) -> dict[str, Any]:
    """Every metric of the network that `deploy(state)` makes, on the whole test split.

    An int8 network is timed in turn with its float form; 'warnings' says where it is no faster.
    """
    network = deploy(state, device, artefacts)
    runs_on = torch.device("cpu") if state.quant is not None else device
    test = test if runs_on == test.device else _moved(test, runs_on)
    quality = evaluate(network, test)
    images = next(iter(test))[0]
    batches = {f"batch_{size}": _batch(images, size) for size in LATENCY_BATCHES}
    metrics = {
        "accuracy": quality.accuracy,
        "loss": quality.loss,
        **static_metrics(state, network),
        "inference_time_ms": {name: latency(network, batch) for name, batch in batches.items()}
        if state.quant is None
        else against_float(network, state, batches),
    }
    if state.quant is not None:
        kernels = onednn_kernels(network, batches["batch_1"])
        slow = [kernel for kernel in kernels if kernel.split()[1].startswith("ref")]
        metrics["warnings"] = int8_warnings(metrics["inference_time_ms"], slow, state.quant.backend)
    return metrics


def against_float(
    network: nn.Module, state: ModelState, batches: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """Latencies of an int8 network, each with that of its float form, timed in turn."""
    plain = build(state).to(memory_format=torch.channels_last)
    found = {}
    for name, batch in batches.items():
        mine, its = latencies([network, plain], batch)
        found[name] = {
            **mine,
            "float_median": its["median"],
            "speedup_over_float": its["median"] / mine["median"],
        }
    return found


def int8_warnings(times: dict[str, Any], reference: list[str], backend: str) -> list[str]:
    """Where int8 does not pay, and the likely cause."""
    slow = [name for name, time in times.items() if time["speedup_over_float"] < 1]
    if not slow and not reference:
        return []
    if reference:
        cause = (
            f"oneDNN runs reference kernels ({', '.join(reference)}), which are not made for "
            "speed; choose another quantization_backend"
        )
    elif backend != "inductor":
        cause = (
            f"backend {backend!r} quantizes and dequantizes around every layer, which costs a "
            "small network more than int8 saves; 'inductor' fuses these"
        )
    else:
        cause = "the network is so small that calls and copies outweigh its arithmetic"
    speeds = ", ".join(f"{times[name]['speedup_over_float']:.2f} at {name}" for name in times)
    return [f"int8 speed over its own float form: {speeds}; likely cause: {cause}"]


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
        name: metadata.version(name)
        for name in ("torch", "torchvision", "torchao", "numpy", "scikit-learn")
    }
    return {
        **versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "device": device_name(device),
        "cpu": cpu_model(),
        "isa": isa(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
    }


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
