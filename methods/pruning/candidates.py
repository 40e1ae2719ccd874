"""Several cuts of one cost, of which the best stays: how they differ, and how they are judged.

EagleEye (arXiv:2007.02491) draws how a cut is shared among layers, gives each cut network batch
norm statistics of its own and judges it without training; its authors found that to foretell the
order of CNNs after finetuning, and statistics of the whole network not to. It mends convolutions
alone: of a hybrid, a cut that spares the Transformer looks better than one that does not. Shares
are drawn as in LeGR (arXiv:1904.12368), by a factor on each dimension's scores, which is drawn here
and learned there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data_sets.batches import BatchLoader
from methods.pruning.cutting import Dimension, Weights
from methods.pruning.importance import Batches
from model import build_network
from train_eval import evaluate

SPREAD = 4.0  # largest factor between a drawn candidate and the plain cut, either way


class Judged(NamedTuple):
    """A cut network: its mean loss with the statistics it came with, and with its own."""

    loss_as_cut: float
    loss: float
    accuracy: float  # in percent, with its own statistics
    weights: Weights  # with its own statistics, on the CPU


def drawn_factors(dims: Sequence[Dimension], count: int, seed: int) -> list[dict[str, float]]:
    """Dimension → factor on its scores for each candidate: none for the first, the plain cut.

    Log-uniform, half of the logarithm by the dimension's target and half by itself, so that targets
    differ where dimensions are many. A larger `count` goes on where a smaller one ends.
    """
    generator = torch.Generator().manual_seed(seed)
    targets = sorted({d.target for d in dims})
    found: list[dict[str, float]] = [{}]
    for _ in range(count - 1):
        draws = 2 * torch.rand(len(targets) + len(dims), generator=generator).double() - 1
        by_target = dict(zip(targets, draws.tolist(), strict=False))
        own = draws[len(targets) :].tolist()
        halves = ((d.name, (by_target[d.target] + x) / 2) for d, x in zip(dims, own, strict=True))
        found.append({name: SPREAD**exponent for name, exponent in halves})
    return found


@torch.no_grad()
def recalibrate(network: nn.Module, images: Iterable[Tensor]) -> bool:
    """Batch norms' running statistics anew, in place: means over the batches of `images`.

    As torch.optim.swa_utils.update_bn, but with all else in eval mode, so that no dropout falls
    into them. False, and nothing done, for a network without batch norms that keep statistics.
    """
    norms = [
        m
        for m in network.modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats
    ]
    if not norms:
        return False
    momenta = [norm.momentum for norm in norms]
    network.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a mean over all batches
        norm.train()
    for batch in images:
        network(batch)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    network.eval()
    return True


def judge(
    model_args: dict[str, Any],
    weights: Weights,
    calibration: Callable[[], Batches],
    validation: BatchLoader,
) -> Judged:
    """Loss on `validation` before and after a recalibration on `calibration()`'s images."""
    network = build_network(model_args)
    network.load_state_dict(weights)
    placed = network.eval().to(validation.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    as_cut = after = evaluate(placed, validation)
    if recalibrate(placed, (images.to(validation.device) for images, _ in calibration())):
        after = evaluate(placed, validation)
    statistics = {n: b.detach().cpu() for n, b in placed.named_buffers() if n in weights}
    return Judged(as_cut.loss, after.loss, after.accuracy, {**weights, **statistics})
