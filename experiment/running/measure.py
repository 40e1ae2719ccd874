"""What a deployed network costs and how well it does: the metrics of a stage's record."""

from __future__ import annotations

import copy
import itertools
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from data_sets.batches import BatchLoader
from engines.deployment_args import DeploymentArgs
from engines.footprint import Footprint, footprint
from machine.energy import energy
from machine.files import tensor_bytes
from machine.timing import onednn_kernels
from methods.casting import FLOAT32, cast_layers
from methods.costs import count_macs, example_image, part_macs
from methods.early_exit.exits import EarlyExitNetwork
from methods.quantization.record import float_layer_names, quantizable_layers
from model import Network
from stages.casting import NO_BFLOAT16
from stages.deployment import Deployed
from stages.latency import (
    Race,
    Rival,
    engine_warnings,
    images_for,
    race,
    slow_warnings,
    untimed,
    varying,
)
from stages.state import ModelState, form
from train_eval import evaluate

# What networks of a form took of memory, in this process: making one to be measured takes a second.
_FOOTPRINTS: dict[tuple[str, str, int, int | None], Footprint] = {}
UNEQUAL = 1.5  # times as many images in one class as in another: accuracy alone would hide classes


def measure(
    deployed: Deployed,
    test: BatchLoader,
    validation: BatchLoader,
    args: DeploymentArgs | None = None,
    rival: Rival | None = None,
) -> dict[str, Any]:
    """Every metric of a deployed network, on the whole test split, where it runs.

    Beside them stands how well it does on the validation share, by which everything is chosen. It
    runs on the fastest engine of `args` for each batch size, timed in turn with the float baseline
    `rival` on its own fastest; 'warnings' says where int8 is no faster, or times vary too much.
    With early exits, MACs and BitOps are means over the split; 'exits' says who left where.
    """
    args = args or DeploymentArgs()
    if deployed.emulated:
        rival = None  # which it would be compared with at a speed that no machine has
    found = race(deployed, args, _spread(test, images_for(args)), rival)
    network, times = found.deployed.network, found.times
    on_validation = quality(network, validation)
    metrics = {
        **quality(network, test),
        "validation": {**on_validation, "images": len(validation.index)},
        **static_metrics(deployed, network),
        "inference_time_ms": times,
        "engine": found.fastest[max(found.fastest)],
        "engines": found.engines,
        **memory_and_energy(found, args, _spread(test, max(args.batch_sizes))),
    }
    warnings = [*untimed(times, args.batch_sizes), *varying(times)]
    warnings += [*engine_warnings(found.engines), *slow_warnings(times)]
    if "eager" in found.fastest.values() and deployed.state.quant is not None:
        warnings += reference_warnings(onednn_kernels(network, _spread(test, 1)))
    if deployed.emulated:
        metrics["emulated"] = True
        warnings.append(
            f"bfloat16 is emulated, as {NO_BFLOAT16}: its accuracy holds, its times are those of "
            "the emulation; measure it, by --remeasure, on a machine that has it"
        )
    if (why := metrics.pop("memory_unknown", None)) is not None:
        warnings.append(f"its peak memory is not known: {why}")
    if "exits" in metrics:
        warnings += exit_warnings(metrics["exits"])
    return {**metrics, "warnings": warnings} if warnings else metrics


def memory_and_energy(found: Race, args: DeploymentArgs, images: torch.Tensor) -> dict[str, Any]:
    """Peak resident memory in 10⁶ bytes and joules an image, at the largest batch size and on its
    fastest engine; where one is not known it is None, and why is said beside it."""
    deployed, size = found.deployed, max(found.fastest)
    network, batch = deployed.network, images[:size]
    if deployed.device.type != "cpu":
        why = "the network runs on a GPU, whose memory and counters are not read"
        return {"peak_memory_mb": None, "joules_per_image": None, "energy_unknown": why}
    key = form(deployed.state), found.fastest[size], size, args.threads
    if key not in _FOOTPRINTS:
        threads = args.threads or torch.get_num_threads()
        _FOOTPRINTS[key] = footprint(deployed.programs, found.fastest[size], size, threads)
    memory, joules = _FOOTPRINTS[key], energy(lambda: network(batch), size)
    return {
        "peak_memory_mb": memory.peak_mb,
        "joules_per_image": joules.joules_per_image,
        **({} if memory.unknown is None else {"memory_unknown": memory.unknown}),
        **({} if joules.unknown is None else {"energy_unknown": joules.unknown}),
    }


def quality(network: nn.Module, split: BatchLoader) -> dict[str, float]:
    """How well a network does on a split: accuracies in percent, mean cross-entropy.

    'balanced_accuracy' is there where some class has UNEQUAL times the images of another.
    """
    if isinstance(network, EarlyExitNetwork):
        network.reset()
    found = evaluate(network, split)
    there = found.by_class[1]
    return {
        "accuracy": found.accuracy,
        "loss": found.loss,
        **({"balanced_accuracy": found.balanced_accuracy} if _unequal(there) else {}),
    }


def _unequal(images: torch.Tensor) -> bool:
    there = images[images > 0]
    return bool(len(there)) and int(there.max()) >= UNEQUAL * int(there.min())


def reference_warnings(kernels: list[str]) -> list[str]:
    """Which of the kernels that oneDNN ran are not made for speed."""
    slow = [kernel for kernel in kernels if kernel.split()[1].startswith("ref")]
    if not slow:
        return []
    return [
        f"oneDNN runs reference kernels ({', '.join(slow)}), which are not made for speed; choose "
        "another quantization_backend"
    ]


def exit_warnings(exits: dict[str, Any]) -> list[str]:
    """Where early exits come to nothing, as no image takes one, or every image the same."""
    place = next(
        (p for p, share in zip(exits["places"], exits["share"], strict=True) if share == 1), ""
    )
    if place == "end":
        return ["no image leaves early, so the exits only cost; lower the thresholds or the target"]
    if place:
        return [f"every image leaves at exit {place!r}, so what lies behind it never runs"]
    return []


def static_metrics(deployed: Deployed, ran: nn.Module | None = None) -> dict[str, Any]:
    """Parameters, size, MACs, FLOPs and BitOps of a deployed network; nothing is timed.

    Where `ran`, the network on its engines, has exits and has seen images, what these cost on the
    average.
    """
    model, network, state = deployed.float_network, deployed.whole, deployed.state
    macs, layer_macs = count_macs(model)
    parameters = list(model.parameters())
    metrics = {
        "params": sum(p.numel() for p in parameters),
        "nonzero_params": sum(int(p.count_nonzero()) for p in parameters),
        "model_size_mb": len(tensor_bytes(network.state_dict())) / 1e6,
        "macs": macs,
        "flops": 2 * macs,
        "bitops": bitops(state, model, macs, layer_macs),
        "thop_macs": thop_macs(model),
    }
    if isinstance(ran, EarlyExitNetwork) and any(ran.left):
        metrics |= exit_metrics(state, model, ran)
    return metrics


def exit_metrics(state: ModelState, model: Network, network: EarlyExitNetwork) -> dict[str, Any]:
    """Mean MACs, FLOPs and BitOps by where the images seen have left; 'exits' has the parts."""
    seen = sum(network.left)
    share = [count / seen for count in network.left]
    parts = part_macs(model)
    macs = list(itertools.accumulate(count for count, _ in parts))
    bits = list(itertools.accumulate(bitops(state, model, *part) for part in parts))
    mean = round(float(np.dot(share, macs)))
    return {
        "macs": mean,
        "flops": 2 * mean,
        "bitops": round(float(np.dot(share, bits))),
        "exits": {
            "places": [*model.model_args["exits"], "end"],
            "share": share,
            "macs": macs,
            "bitops": bits,
            **network.exits.plain(),
        },
    }


def bitops(state: ModelState, model: Network, macs: int, layer_macs: dict[str, int]) -> int:
    """Σ MACs · weight bits · activation bits (arXiv:2005.07093).

    Attention itself is never int8; in a cast network it is bfloat16, as are the cast layers.
    """
    bits = dict.fromkeys(layer_macs, 32)
    attention = 32
    if state.precision != FLOAT32:
        bits |= {name: 16 for name in cast_layers(model, state.quant) if name in bits}
        attention = 16
    if (quant := state.quant) is not None:
        kept = float_layer_names(model, quant.float_layers)
        small = [name for name in quantizable_layers(model) if name not in kept]
        bits |= {name: quant.bits for name in small if name in bits}
    between = macs - sum(layer_macs.values())
    return between * attention**2 + sum(layer_macs[name] * bits[name] ** 2 for name in bits)


def thop_macs(model: Network) -> int:
    """thop's count, which misses attention's matmuls and bare parameters, for comparison."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # thop asks distutils for versions
        from thop import profile

    twin = copy.deepcopy(model)  # thop leaves buffers behind
    return int(profile(twin, inputs=(example_image(twin),), verbose=False)[0])


def _spread(test: BatchLoader, count: int) -> torch.Tensor:
    """`count` images from all over the split, which a folder orders by class; repeated if few."""
    chosen = test.index[torch.linspace(0, len(test.index) - 1, count).round().long()]
    return test.normalize(test.images[chosen.to(test.images.device)].to(test.device))
