"""What a deployed network costs and how well it does: the metrics of a stage's record."""

from __future__ import annotations

import copy
import functools
import itertools
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from data_sets.batches import BatchLoader
from machine.files import tensor_bytes
from machine.timing import BLOCK_SECONDS, BUDGET_SECONDS, fitting, latencies, onednn_kernels
from methods.casting import FLOAT32, cast_layers
from methods.costs import count_macs, example_image, part_macs
from methods.early_exit.exits import EarlyExitNetwork
from methods.quantization.record import float_layer_names
from model import HybridCNNTransformer
from stages.casting import NO_BFLOAT16
from stages.deployment import Deployed
from stages.state import ModelState
from train_eval import evaluate

LATENCY_BATCHES = (1, 64)
UNEQUAL = 1.5  # times as many images in one class as in another: accuracy alone would hide classes
UNSTEADY = 2.0  # times: a median ratio whose 95 % interval is wider tells nothing
SCATTERED = 3.0  # times the median: a p95 beyond it is not the network's


def measure(
    deployed: Deployed, split: BatchLoader, baseline: nn.Module | None = None
) -> dict[str, Any]:
    """Every metric of a deployed network, on the whole of a split, which is where it runs.

    It is timed in turn with the network `baseline` that its chain began from, and an int8 network
    with its float form as well; 'warnings' says where int8 is no faster, or times vary too much.
    With early exits, MACs and BitOps are means over the split; 'exits' says who left where.
    """
    network, quant = deployed.network, deployed.state.quant
    if deployed.emulated:
        baseline = None  # which it would be compared with at a speed that no machine has
    qualities = quality(network, split)
    images = _spread(split, max(LATENCY_BATCHES))
    metrics = {
        **qualities,
        **static_metrics(deployed),
        "inference_time_ms": inference_times(deployed, baseline, images),
    }
    warnings = untimed(metrics["inference_time_ms"]) + varying(metrics["inference_time_ms"])
    if quant is not None:
        kernels = onednn_kernels(network, images[:1])
        slow = [kernel for kernel in kernels if kernel.split()[1].startswith("ref")]
        warnings += int8_warnings(metrics["inference_time_ms"], slow, quant.backend)
    if deployed.emulated:
        metrics["emulated"] = True
        warnings.append(
            f"bfloat16 is emulated, as {NO_BFLOAT16}: its accuracy holds, its times are those of "
            "the emulation; measure it, by --remeasure, on a machine that has it"
        )
    if "exits" in metrics:
        warnings += exit_warnings(metrics["exits"])
    return {**metrics, "warnings": warnings} if warnings else metrics


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


def inference_times(
    deployed: Deployed, baseline: nn.Module | None, images: torch.Tensor
) -> dict[str, Any]:
    """Latencies by batch size: see `in_turn`.

    Batches that would take longer than the time for it, by what an image alone takes, are left out.
    """
    found: dict[str, Any] = {}
    single = 0.0  # seconds that an image takes, in all networks together
    for size in LATENCY_BATCHES:
        if found and fitting(size * single) < 1:
            break
        times = found[f"batch_{size}"] = in_turn(deployed, baseline, images, size)
        single = single or sum(ms for name, ms in times.items() if name.endswith("median")) / 1e3
    return found


def in_turn(
    deployed: Deployed, baseline: nn.Module | None, images: torch.Tensor, size: int
) -> dict[str, Any]:
    """Milliseconds a batch, and those of the float form and the baseline, timed in turn with it.

    A speed-up is None where the rounds do not agree on it: what took the processor then was other
    work.

    The speed-ups are fair whatever else the machine does; a ratio to a time of another day is not.
    """
    beside = {}
    if deployed.state.quant is not None:
        beside["float_median", "speedup_over_float"] = deployed.float_form
    if baseline is not None:
        beside["baseline_median", "speedup_over_baseline"] = baseline
    mine, *others = timed([deployed.network, *beside.values()], images, size)
    for key in ("over_first", "over_first_interval"):  # it is the first
        del mine[key]
    for (name, speedup), its in zip(beside, others, strict=True):
        least, most = its["over_first_interval"]
        mine[name] = its["median"]
        mine[speedup] = its["over_first"] if most < UNSTEADY * least else None
    return mine


def varying(times: dict[str, Any]) -> list[str]:
    """Says of latencies that scatter by several times that something else had the processor."""
    scattered = [
        f"p95 is {time['p95'] / time['median']:.1f} times the median at {name}"
        for name, time in times.items()
        if time["p95"] >= SCATTERED * time["median"]
    ]
    scattered += [
        f"{name.replace('_', ' ')} at {batch} cannot be told from rounds so different"
        for batch, time in times.items()
        for name in ("speedup_over_float", "speedup_over_baseline")
        if time.get(name, 1) is None
    ]
    if not scattered:
        return []
    cause = "other work was on the machine; take the times again with --remeasure when it is quiet"
    return [f"{', '.join(scattered)}: {cause}"]


def timed(networks: list[nn.Module], images: torch.Tensor, size: int) -> list[dict[str, Any]]:
    """Milliseconds a batch of `size` images, the networks in turn: see `timing.latencies`.

    What an image costs a network with exits depends on the image: batches of 1 are then all of
    `images`, one after another, or as many from all over as there is time for, and the figures
    those of one.
    """
    if size > 1 or not any(isinstance(network, EarlyExitNetwork) for network in networks):
        return latencies(networks, images[:size])
    singles = [functools.partial(_one_by_one, network) for network in networks]
    once = latencies(singles, images[:1], seconds=BLOCK_SECONDS)
    count = fitting(sum(times["median"] for times in once) / 1e3)
    images = images[:: -(-len(images) // max(1, count))]
    count = len(images)
    return [
        {
            **found,
            "median": found["median"] / count,
            "p95": found["p95"] / count,
            "runs": found["runs"] * count,
            "images": count,
        }
        for found in latencies(singles, images)
    ]


def _one_by_one(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    return torch.cat([network(image) for image in images.split(1)])


def untimed(times: dict[str, Any]) -> list[str]:
    """Which batch sizes `inference_times` has left out, and why."""
    return [
        f"batches of {size} were not timed: by what one image takes, {BUDGET_SECONDS:.0f} s, the "
        "longest that timing a batch size may take, are too short for a median"
        for size in LATENCY_BATCHES
        if f"batch_{size}" not in times
    ]


def int8_warnings(times: dict[str, Any], reference: list[str], backend: str) -> list[str]:
    """Where int8 does not pay, and the likely cause."""
    times = {name: time for name, time in times.items() if time["speedup_over_float"] is not None}
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


def static_metrics(deployed: Deployed) -> dict[str, Any]:
    """Parameters, size, MACs, FLOPs and BitOps of a deployed network; nothing is timed.

    Where it has exits and has seen images, what these cost on the average.
    """
    model, network, state = deployed.float_network, deployed.network, deployed.state
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
    if isinstance(network, EarlyExitNetwork) and any(network.left):
        metrics |= exit_metrics(state, model, network)
    return metrics


def exit_metrics(
    state: ModelState, model: HybridCNNTransformer, network: EarlyExitNetwork
) -> dict[str, Any]:
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


def bitops(
    state: ModelState, model: HybridCNNTransformer, macs: int, layer_macs: dict[str, int]
) -> int:
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
        bits |= {name: quant.bits for name in bits if name not in kept}
    between = macs - sum(layer_macs.values())
    return between * attention**2 + sum(layer_macs[name] * bits[name] ** 2 for name in bits)


def thop_macs(model: HybridCNNTransformer) -> int:
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
